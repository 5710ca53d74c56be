import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import { DescopeUnauthorised, DescopeUnavailable, WindowUnproven } from '../src/errors.ts';
import { FAULT_KINDS, type FaultKind } from '../src/simulator/faults.ts';
import { createLogger } from '../src/log.ts';
import { startService } from '../src/service.ts';
import { createRandom } from '../src/simulator/random.ts';
import { createPullScene, type PullScene } from './pull/pullScene.ts';
import { createScene, realUserIds, type Scene } from './support/world.ts';
import { startProcess } from './support/process.ts';

/** What is asked again, and so passes by itself; what is refused for good is told at once. */
const EXPECTED: Record<FaultKind, 'passes' | 'told'> = {
  status500: 'passes',
  status502html: 'passes',
  status503: 'passes',
  status403: 'told',
  emptyObject: 'passes',
  emptyPage: 'passes',
  zeroTotal: 'passes',
  partialPage: 'passes',
  hang: 'passes',
  reset: 'passes',
  slow: 'passes',
  truncated: 'passes',
  stale: 'passes',
};

describe.each(FAULT_KINDS)('a Descope that answers with %s', (kind) => {
  let scene: PullScene;
  beforeAll(async () => {
    // Far below the thirty seconds of the service, so that what hangs is given up soon.
    scene = await createPullScene({
      simulator: { users: 260, sameInstant: 45 },
      env: { PAGE_SIZE: '20', PULL_SETTLE_SECONDS: '2' },
      requestTimeoutMs: 400,
    });
  });
  afterAll(() => scene.stop());

  /** The SDK itself repeats a 503, after 0.1 s and then after 5 s: once is enough to see it. */
  const times = kind === 'status503' ? 1 : 2;

  /** Runs into the fault; it passes by itself or is told, as expected, and nobody is removed. */
  async function withstand(work: () => Promise<unknown>): Promise<void> {
    const failure: unknown = await work().then(
      () => null,
      (error: unknown) => error,
    );
    scene.simulator.faults.clear();
    if (EXPECTED[kind] === 'told') expect(failure).toBeInstanceOf(DescopeUnauthorised);
    else expect(failure).toBe(null);
    if (EXPECTED[kind] === 'told') await work();
  }

  it('while the mirror is filled', async () => {
    const { faults } = scene.simulator;
    faults.next(kind, { path: 'search', times });
    await withstand(() => scene.runSweep());
    await scene.assertEqual();
    faults.next(kind, { path: 'search', times });
    await withstand(async () => {
      const { outcome } = await scene.runSweep();
      // Twice "nobody exists" while the mirror has users: not believed, and said so.
      expect(outcome).toBe(kind === 'zeroTotal' ? 'blocked' : 'complete');
    });
    expect(faults.count).toBeGreaterThanOrEqual(2);
    await scene.assertEqual();
    expect(await scene.deletions()).toEqual({});
  });

  it('while changes are pulled', async () => {
    const { faults, directory } = scene.simulator;
    scene.ago(40_000, () => {
      directory.createMany(30, { event: false });
      for (const userId of realUserIds(scene).slice(0, 25)) {
        directory.modifyUser(userId, { name: `By ${kind}` }, { event: false });
      }
    });
    faults.next(kind, { path: 'search', times });
    await withstand(() => scene.pullModified());
    await scene.pullModified();
    await scene.assertEqual();
  });

  it('while the audit trail is pulled and its events are applied', async () => {
    const { faults, directory } = scene.simulator;
    const gone = realUserIds(scene).slice(0, 3);
    scene.ago(40_000, () => {
      directory.deleteMany(gone);
      for (const userId of realUserIds(scene).slice(0, 6)) {
        directory.modifyUser(userId, { status: 'disabled' });
      }
      directory.createMany(4);
    });
    faults.next(kind, { path: 'audit', times });
    const pulled = await scene.pullAudit().catch((error: unknown) => error);
    faults.clear();
    // An audit search that wrongly says "nothing" cannot be told from the truth: the overlap is for that.
    if (pulled instanceof Error) expect(pulled.name).toMatch(/^Descope|^WindowUnproven/);
    await scene.pullAudit();

    faults.next(kind, { path: 'load', times });
    faults.next(kind, { path: 'user', times });
    const applied = await scene.applyEvents().catch((error: unknown) => error);
    faults.clear();
    if (applied instanceof Error) {
      const told = [DescopeUnauthorised, DescopeUnavailable].some((one) => applied instanceof one);
      expect(told).toBe(true);
    }
    expect((await scene.countUsers()).gone).toBeLessThanOrEqual(gone.length);
    // What was put off is due again soon; here the next pulls and a sweep say the rest.
    await scene.applyEvents();
    await scene.pullModified();
    expect(await scene.runSweep()).toMatchObject({ outcome: 'complete', held: 0 });
    await scene.assertEqual();
    expect((await scene.countUsers()).gone).toBe(gone.length);
  });
});

describe('faults of every kind at once', () => {
  const kinds = FAULT_KINDS.filter(
    (kind) => !['hang', 'slow', 'status503', 'status403'].includes(kind),
  );
  let stop: () => Promise<void> = () => Promise.resolve();
  afterEach(() => stop());

  it('only hold up a service that fills its mirror', async () => {
    const scene = await createScene({ simulator: { users: 500 }, env: { PAGE_SIZE: '25' } });
    const { faults } = scene.simulator;
    faults.random(0.15, kinds, createRandom(7));
    const destination = { write: (line: string) => void scene.logs.push(line) };
    const service = await startService({
      config: scene.config,
      log: createLogger({ level: 'debug', destination }),
      databaseUrl: scene.database.url,
      role: 'worker',
    });
    stop = async () => {
      await service.stop();
      await scene.stop();
    };
    await scene.untilFilled(50_000);
    expect(faults.count).toBeGreaterThan(2);
    await scene.assertPrivate();
  });

  it('stop a sweep at worst, which removes nobody and can be run again', async () => {
    const scene = await createPullScene({ simulator: { users: 500 }, env: { PAGE_SIZE: '10' } });
    stop = () => scene.stop();
    const { faults } = scene.simulator;
    faults.random(0.3, kinds, createRandom(11));
    for (let turn = 0; turn < 4; turn++) {
      const failure = await scene.runSweep().then(
        () => null,
        (error: unknown) => error,
      );
      const told = [WindowUnproven, DescopeUnavailable].some((one) => failure instanceof one);
      if (failure !== null) expect(told).toBe(true);
      expect((await scene.countUsers()).gone).toBe(0);
    }
    faults.clear();
    expect(await scene.runSweep()).toMatchObject({ outcome: 'complete' });
    await scene.assertEqual();
  });
});

describe('on the command line', () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await createScene({
      simulator: { users: 300 },
      env: { PAGE_SIZE: '20', LOG_LEVEL: 'warn' },
    });
  });
  afterAll(() => scene.stop());
  afterEach(() => {
    scene.simulator.faults.clear();
  });

  it('`rollcall backfill` gets over what passes', async () => {
    const { faults } = scene.simulator;
    for (const kind of ['status500', 'emptyPage', 'truncated', 'reset', 'zeroTotal'] as const) {
      faults.next('stale', { path: 'search', times: 2 });
      faults.next(kind, { path: 'search' });
    }
    const backfill = startProcess(['backfill'], { env: scene.env });
    expect(await backfill.exit).toBe(0);
    expect(faults.count).toBe(15);
    await scene.assertEqual();
  });

  it('a refused key is told at once, in one line with the remedy, and ends with 1', async () => {
    scene.simulator.faults.random(1, ['status403'], () => 0);
    const backfill = startProcess(['backfill'], { env: scene.env });
    expect(await backfill.exit).toBe(1);
    const lines = backfill.stderr().trim().split('\n');
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(
      /^error: Descope refuses the management key.*HTTP 403.*DESCOPE_MANAGEMENT_KEY/,
    );
    expect(backfill.stdout()).toBe('');
  });

  it('with --json the last line says so too', async () => {
    scene.simulator.faults.random(1, ['status403'], () => 0);
    const sync = startProcess(['sync', '--json'], { env: scene.env });
    expect(await sync.exit).toBe(1);
    const last = JSON.parse(sync.stdout().trim().split('\n').at(-1) ?? '') as unknown;
    expect(last).toEqual({
      error: {
        kind: expect.any(String) as string,
        message: expect.stringContaining('management key') as string,
      },
    });
  });

  it('a Descope that stays away is given up after a while, and ends with 1', async () => {
    scene.simulator.faults.random(1, ['status500'], () => 0);
    const sync = startProcess(['sync'], { env: scene.env });
    expect(await sync.exit).toBe(1);
    expect(sync.stderr()).toMatch(
      /^error: Descope gave no usable answer to user search: HTTP 500\n$/,
    );
    scene.simulator.faults.clear();
    await scene.assertEqual();
  });
});
