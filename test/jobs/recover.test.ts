import { Redis } from 'ioredis';
import { sql } from 'drizzle-orm';
import { describe, expect, it, onTestFinished } from 'vitest';

import {
  migrateQueues,
  openQueues,
  type QueueCounts,
  type Queues,
  type QueueSettings,
} from '../../jobs/queues.ts';
import { createRecovery } from '../../jobs/recover.ts';
import { sweep, sweepWindow } from '../../jobs/sweep.ts';
import { startWorkers } from '../../jobs/workers.ts';
import { createBudget } from '../../src/descope/budget.ts';
import { DescopeRejected } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { readMirrorId } from '../../src/mirror/database.ts';
import { advanceSweep, startSweep } from '../../src/pull/sweep.ts';
import { beginPullScene, type PullScene } from '../pull/pullScene.ts';
import { eventually } from '../support/eventually.ts';
import { testRedisUrl } from '../support/redis.ts';

const WINDOWS = 3;
const TICKS = 4;

interface QueueScene {
  readonly s: PullScene;
  readonly queues: Queues;
  /** One recovery, two minutes after the last: windows that nobody moved have been left that long. */
  readonly tick: () => Promise<void>;
  /** Works on the sweep's jobs until the test ends. */
  readonly work: (windowJob?: typeof sweepWindow) => void;
  readonly pulls: () => Promise<QueueCounts>;
}

/** A sweep whose windows are planned, one job to read them, and nobody at work. */
async function begin(redisUrl: string | null): Promise<QueueScene> {
  const env = { PAGE_SIZE: '2' };
  const s = await beginPullScene({ redisUrl, simulator: { users: 2 * 50 * WINDOWS + 30 }, env });
  const { mirror, url } = s.database;
  const settings: QueueSettings = {
    redisNodes: redisUrl === null ? null : [redisUrl],
    databaseUrl: url,
    schema: 'descope',
    mirrorId: await readMirrorId(mirror),
    onError: () => undefined,
  };
  await migrateQueues(settings);
  const queues = openQueues(settings);
  onTestFinished(() => queues.stop());
  const recover = createRecovery({ mirror, queues });
  await recover();
  const deps = s.process().sweep;
  const stopping = new AbortController();
  const { runId } = await startSweep(deps, 'a test');
  const state = await advanceSweep(deps, runId, stopping.signal);
  expect(state.kind === 'reading' && state.windowIds).toHaveLength(WINDOWS);
  return {
    s,
    queues,
    async tick() {
      await mirror.db.execute(
        sql`update ${mirror.t.syncWindows} set updated_at = updated_at - interval '2 minutes'`,
      );
      await letDedupesExpire(s, settings);
      await recover();
    },
    work(windowJob = sweepWindow) {
      const workers = startWorkers({
        queues: settings,
        jobs: [sweep, windowJob],
        deps: { sweep: deps, enqueue: queues.enqueue },
        log: createLogger({ level: 'silent', destination: { write: () => undefined } }),
        concurrency: { events: 1, pulls: 12 },
        signal: stopping.signal,
      });
      onTestFinished(async () => {
        stopping.abort();
        await workers.stop();
      });
    },
    async pulls() {
      const found = (await queues.counts()).find(({ name }) => name === 'pulls');
      if (!found) throw new Error('there is no such queue');
      return found;
    },
  };
}

/** What the ids that hold for a time come to when it is over. */
async function letDedupesExpire(s: PullScene, settings: QueueSettings): Promise<void> {
  const [node] = settings.redisNodes ?? [];
  if (node === undefined) {
    await s.query(
      sql`update descope_queue.dedup set expire_at_ms = 1 where expire_at_ms is not null`,
    );
    return;
  }
  const redis = new Redis(node);
  for (const key of await redis.keys(`{rollcall-${settings.mirrorId}}:*:de:*`)) {
    if ((await redis.pttl(key)) > 0) await redis.del(key);
  }
  redis.disconnect();
}

const kinds = [
  ['Postgres', () => null],
  ['Redis', testRedisUrl],
] as const;

describe.each(kinds)('with the queue in %s, recovery', (kind, redisUrl) => {
  const runs = kind === 'Postgres' || testRedisUrl() !== null;

  it.runIf(runs)('leaves one job a window, however long all wait in a silence (G8)', async () => {
    const { s, tick, work, pulls } = await begin(redisUrl());
    const budget = createBudget({ mirror: s.database.mirror, name: 'api', perMinute: 100 });
    await budget.silence(600_000);
    work();
    await eventually(async () => {
      expect(await pulls()).toMatchObject({ active: WINDOWS, waiting: 0 });
    });
    for (let nth = 0; nth < TICKS; nth++) {
      await tick();
      expect(await pulls()).toMatchObject({ active: WINDOWS, waiting: 0, delayed: 0 });
    }
  });

  it.runIf(runs)('does so while nobody works on them', async () => {
    const { tick, pulls } = await begin(redisUrl());
    // One sweep job is there already.
    for (let nth = 0; nth < TICKS; nth++) {
      await tick();
      expect((await pulls()).waiting).toBe(1 + WINDOWS);
    }
  });

  it.runIf(runs)('puts a window back whose job failed, or ended and left it', async () => {
    const { tick, work, pulls } = await begin(redisUrl());
    let ran = 0;
    work({
      ...sweepWindow,
      process() {
        ran++;
        const fails = ran <= WINDOWS;
        return fails ? Promise.reject(new DescopeRejected('a test', 400, '')) : Promise.resolve();
      },
    });
    for (let round = 1; round <= 3; round++) {
      await eventually(async () => {
        expect(ran).toBe(round * WINDOWS);
        expect(await pulls()).toMatchObject({ active: 0, waiting: 0, failed: WINDOWS });
      });
      await tick();
    }
  });
});
