import { sql } from 'drizzle-orm';
import { describe, expect, it, onTestFinished } from 'vitest';

import { migrateQueues, openQueues, type QueueSettings } from '../../jobs/queues.ts';
import { prune, type PruneDeps } from '../../jobs/prune.ts';
import { startWorkers } from '../../jobs/workers.ts';
import { Stopping } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { readMirrorId, rows, type Mirror } from '../../src/mirror/database.ts';
import { createTestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testRedisUrl } from '../support/redis.ts';

/** Of each kind so many are older than 10 days, and as many are not. */
const OLD = 1_500;

/** A mirror whose events, tombstones, changes and runs of the audit pull are half of yesterday, half of 40 days ago. */
async function begin(): Promise<{ mirror: Mirror; url: string; left: () => Promise<unknown> }> {
  const database = await createTestDatabase();
  onTestFinished(() => database.drop());
  const { mirror } = database;
  const { db, t } = mirror;
  const days = sql`case when n <= ${OLD}::int then 40 else 1 end * interval '1 day'`;
  const each = sql`from generate_series(1, ${2 * OLD}::int) as n`;
  await db.execute(sql`insert into ${t.watermarks} (pull, complete_to) values ('audit', now())`);
  await db.execute(sql`
    insert into ${t.events} (event_id, action, occurred_at, received_at, payload, state)
    select n, 'UserModified', now() - ${days}, now() - ${days}, '{}', 'applied' ${each}`);
  await db.execute(sql`
    insert into ${t.users} (user_id, raw, observed_at, changed_at, deleted_at, witness)
    select n, '{"userId": "x"}', now() - ${days}, now() - ${days}, now() - ${days}, 'sweep' ${each}`);
  await db.execute(sql`
    insert into ${t.userChanges} (user_id, kind, observed_at, witness, written_at)
    select n, 'deleted', now() - ${days}, 'sweep', now() - ${days} ${each} order by n`);
  await db.execute(sql`
    insert into ${t.syncRuns} (pull, reason, outcome, finished_at)
    select 'audit', 'schedule', 'complete', now() - ${days} ${each}`);
  const left = async () => {
    const [counts] = await rows(
      db,
      sql`select (select count(*)::int from ${t.events}) as events,
                 (select count(*)::int from ${t.users} where raw <> '{}') as snapshots,
                 (select count(*)::int from ${t.users}) as tombstones,
                 (select count(*)::int from ${t.userChanges}) as changes,
                 (select count(*)::int from ${t.syncRuns}) as runs`,
    );
    return counts;
  };
  return { mirror, url: database.url, left };
}

const PRUNED = { events: OLD, snapshots: OLD, tombstones: 2 * OLD, changes: OLD, runs: OLD };

const toDeps = (mirror: Mirror): { prune: PruneDeps } => ({
  prune: { mirror, eventDays: 10, tombstoneDays: 10, feedDays: 10 },
});

const kinds = [
  ['Postgres', () => null],
  ['Redis', testRedisUrl],
] as const;

describe.each(kinds)('with the queue in %s, the hourly job', (kind, redisUrl) => {
  const runs = kind === 'Postgres' || testRedisUrl() !== null;

  it.runIf(runs)('removes what is kept no longer, once or beside its twin', async () => {
    const { mirror, url, left } = await begin();
    const node = redisUrl();
    const settings: QueueSettings = {
      redisNodes: node === null ? null : [node],
      databaseUrl: url,
      schema: 'descope',
      mirrorId: await readMirrorId(mirror),
      onError: () => undefined,
    };
    await migrateQueues(settings);
    const queues = openQueues(settings);
    onTestFinished(() => queues.stop());
    const stopping = new AbortController();
    const ended: string[] = [];
    // One tick of three replicas is one job; of two ticks that meet there are two.
    for (const dedupeId of ['prune-1', 'prune-1', 'prune-1', 'prune-2']) {
      await queues.enqueue(prune, {}, { dedupeId });
    }
    expect((await queues.counts()).find(({ name }) => name === 'pulls')?.waiting).toBe(2);
    const workers = startWorkers({
      queues: settings,
      jobs: [prune],
      deps: toDeps(mirror),
      log: createLogger({ level: 'silent', destination: { write: () => undefined } }),
      concurrency: { events: 1, pulls: 2 },
      signal: stopping.signal,
      onJob: ({ outcome }) => ended.push(outcome),
    });
    onTestFinished(async () => {
      stopping.abort();
      await workers.stop();
    });
    await eventually(() => {
      expect(ended).toEqual(['done', 'done']);
    });
    // A twin leaves what the other has locked to whoever comes next.
    await prune.process(toDeps(mirror), {}, stopping.signal);
    expect(await left()).toEqual(PRUNED);
  });
});

describe('the hourly job', () => {
  it('does all of it at once, and nothing the second time', async () => {
    const { mirror, left } = await begin();
    const { signal } = new AbortController();
    await prune.process(toDeps(mirror), {}, signal);
    expect(await left()).toEqual(PRUNED);
    await prune.process(toDeps(mirror), {}, signal);
    expect(await left()).toEqual(PRUNED);
  });

  it('stops when the process does', async () => {
    const { mirror, left } = await begin();
    const stopped = prune.process(toDeps(mirror), {}, AbortSignal.abort());
    await expect(stopped).rejects.toThrow(Stopping);
    expect(await left()).toMatchObject({ events: 2 * OLD });
  });
});
