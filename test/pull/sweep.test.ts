import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { approveHeld, rejectHeld } from '../../src/apply/held.ts';
import { readLastProof } from '../../src/readers/runs.ts';
import { cutWindows } from '../../src/pull/plan.ts';
import { advanceSweep, startSweep } from '../../src/pull/sweep.ts';
import { readWindow } from '../../src/pull/readWindow.ts';
import { Stopping } from '../../src/errors.ts';
import { createRandom } from '../../src/simulator/random.ts';
import { realUserIds } from '../support/world.ts';
import { beginPullScene } from './pullScene.ts';

/** Every tenth, so that they come from all windows. */
function scattered(ids: readonly string[], count: number): string[] {
  const every = Math.floor(ids.length / count);
  return ids.filter((_, at) => at % every === 0).slice(0, count);
}

describe('a run that the version before has begun', () => {
  it('keeps what that one has counted in the run', async () => {
    const s = await beginPullScene({ simulator: { users: 5 } });
    const { syncRuns } = s.database.mirror.t;
    const { runId } = await startSweep(s.process().sweep, 'a test');
    await s.query(sql`update ${syncRuns} set created = 500, updated = 7 where run_id = ${runId}`);
    expect(await s.runSweep()).toMatchObject({ runId, users: 5, created: 505, updated: 7 });
  });
});

describe('users deleted without an event', () => {
  it.each([
    ['one window', '100'],
    ['several windows', '10'],
  ])('are found by the next sweep and tombstoned, in %s', async (_, pageSize) => {
    const s = await beginPullScene({ simulator: { users: 1_000 }, env: { PAGE_SIZE: pageSize } });
    await s.runSweep();
    const before = s.simulator.requests.countOf('userLoad');
    const gone = scattered(realUserIds(s), 30);
    s.simulator.directory.deleteMany(gone, { event: false });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 30, held: 0 });
    await s.assertEqual();
    expect(await s.deletions()).toEqual({ tombstoned: 30 });
    // Nobody but the suspects is loaded, together, and one of them singly: an empty answer is doubted.
    expect(s.simulator.requests.countOf('userLoad') - before).toBeLessThanOrEqual(2);
    expect(s.simulator.requests.countOf('userGet')).toBe(1);
  });

  it('leave evidence of both kinds', async () => {
    const s = await beginPullScene({ simulator: { users: 50 } });
    await s.runSweep();
    s.simulator.directory.deleteMany(realUserIds(s).slice(0, 1), { event: false });
    await s.runSweep();
    const [row] = await s.query<{ evidence: string; run: boolean; verified: boolean }>(
      sql`select evidence, run_id is not null as run, verified_at is not null as verified
          from ${s.database.mirror.t.deletions}`,
    );
    expect(row).toMatchObject({ run: true, verified: true });
    expect(row?.evidence).toMatch(/missing from a proven window, .+/);
  });

  it('are held, all of them, above the breaker', async () => {
    const s = await beginPullScene({
      simulator: { users: 910 },
      env: { BREAKER_MAX_COUNT: '20', PAGE_SIZE: '10' },
    });
    await s.runSweep();
    const { live } = await s.countUsers();
    s.simulator.directory.deleteMany(scattered(realUserIds(s), 200), { event: false });
    const told = await s.runSweep();
    expect(told).toMatchObject({ outcome: 'partial', deleted: 0, held: 200 });
    expect(told.reason).toMatch(/^200 users are gone/);
    expect(await s.countUsers()).toEqual({ live, gone: 0 });
    expect(await s.deletions()).toEqual({ held: 200 });
  });

  it('and held are no proof, nor are those a person refused to delete; everyone was read', async () => {
    const s = await beginPullScene({ simulator: { users: 300 }, env: { BREAKER_MAX_COUNT: '5' } });
    const { mirror } = s.database;
    await s.runSweep();
    const proof = await readLastProof(mirror);
    expect(proof).not.toBe(null);
    s.simulator.directory.deleteMany(scattered(realUserIds(s), 12), { event: false });
    const covered = await s.watermark('sweep');
    // Descope's clock is told in whole seconds, and a sweep of so few takes less.
    s.clock.shiftMs += 5_000;
    expect(await s.runSweep()).toMatchObject({ outcome: 'partial', held: 12 });
    expect(await readLastProof(mirror)).toBe(proof);
    expect(await s.watermark('sweep')).toBeGreaterThan(covered ?? Infinity);

    const { signal } = new AbortController();
    expect(await rejectHeld(mirror, [], signal)).toBe(12);
    expect(await s.runSweep()).toMatchObject({ outcome: 'partial', held: 12 });
    expect(await readLastProof(mirror)).toBe(proof);

    const { client } = s.process();
    expect(await approveHeld({ mirror, client }, [], signal)).toMatchObject({ tombstoned: 12 });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', held: 0 });
    expect(Date.parse((await readLastProof(mirror)) ?? '')).toBeGreaterThan(
      Date.parse(proof ?? ''),
    );
  });

  it('are tombstoned at the very limit of the breaker', async () => {
    const s = await beginPullScene({ simulator: { users: 500 }, env: { BREAKER_MAX_COUNT: '20' } });
    await s.runSweep();
    s.simulator.directory.deleteMany(scattered(realUserIds(s), 20), { event: false });
    expect(await s.runSweep()).toMatchObject({ deleted: 20, held: 0 });
    await s.assertEqual();
  });

  it('are found where a load fails as a whole for unknown ids', async () => {
    const s = await beginPullScene({
      simulator: { users: 300, behaviour: { unknownIds: 'fail', missingUserStatus: 404 } },
    });
    await s.runSweep();
    s.simulator.directory.deleteMany(scattered(realUserIds(s), 6), { event: false });
    expect(await s.runSweep()).toMatchObject({ deleted: 6 });
    await s.assertEqual();
  });
});

describe('what a sweep finds beside', () => {
  it('users created, changed and deleted without any event', async () => {
    const s = await beginPullScene({ simulator: { users: 400 } });
    await s.runSweep();
    const { directory } = s.simulator;
    const quiet = { event: false, moveModifiedTime: false };
    directory.createMany(30, { event: false });
    const [a = '', b = '', c = ''] = realUserIds(s);
    directory.modifyUser(a, { name: 'Somebody Else' }, quiet);
    directory.modifyUser(b, { userTenants: [] }, quiet);
    directory.deleteMany([c], quiet);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 1 });
    await s.assertEqual();
  });

  it('that a tombstone was wrong: the user is loaded by id and restored', async () => {
    const s = await beginPullScene({ simulator: { users: 40 } });
    await s.runSweep();
    const [userId = ''] = realUserIds(s);
    const { t } = s.database.mirror;
    await s.query(
      sql`update ${t.users} set deleted_at = clock_timestamp() where user_id = ${userId}`,
    );
    await s.runSweep();
    await s.assertEqual();
    const [change] = await s.query<{ kind: string }>(
      sql`select kind from ${t.userChanges} where user_id = ${userId} order by seq desc limit 1`,
    );
    expect(change).toEqual({ kind: 'restored' });
  });

  it('nothing to write where nothing changed', async () => {
    const s = await beginPullScene({ simulator: { users: 500 } });
    await s.runSweep();
    const { t } = s.database.mirror;
    const versions = () =>
      s.query(sql`select user_id, xmin::text from ${t.users} order by user_id`);
    const before = await versions();
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', created: 0, updated: 0 });
    expect(await versions()).toEqual(before);
    expect(s.simulator.requests.countOf('userLoad')).toBe(0);
  });
});

describe('a directory that answers wrongly', () => {
  const wrong = ['zeroTotal', 'emptyPage', 'emptyObject', 'partialPage'] as const;
  it.each(wrong)('%s now and then: nobody is removed', async (kind) => {
    const s = await beginPullScene({
      simulator: { users: 600, sameInstant: 60 },
      env: { PAGE_SIZE: '20' },
    });
    await s.runSweep();
    const { live } = await s.countUsers();
    s.simulator.faults.random(0.15, [kind], createRandom(kind.length));
    const run = await s.runSweep().catch((error: unknown) => error);
    s.simulator.faults.clear();
    expect(await s.countUsers()).toEqual({ live, gone: 0 });
    expect(s.simulator.faults.count).toBeGreaterThan(3);
    // Blocked, given up, or done in spite of it; once all is well, done.
    expect(run).toBeDefined();
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 0, held: 0 });
    await s.assertEqual();
  });

  it.each(wrong)(
    '%s all the time: nobody is removed, and it is no complete sweep',
    async (kind) => {
      const s = await beginPullScene({ simulator: { users: 200 } });
      await s.runSweep();
      s.simulator.faults.random(1, [kind], () => 0);
      const outcome = await s.runSweep().then(
        (run) => run.outcome,
        () => 'failed',
      );
      expect(['blocked', 'failed']).toContain(outcome);
      expect((await s.countUsers()).gone).toBe(0);
      s.simulator.faults.clear();
      expect(await s.runSweep()).toMatchObject({ outcome: 'complete' });
      await s.assertEqual();
    },
  );

  it('and says that nobody exists: the sweep is blocked, with the reason', async () => {
    const s = await beginPullScene({ simulator: { users: 200 } });
    await s.runSweep();
    s.simulator.faults.random(1, ['zeroTotal'], () => 0);
    const run = await s.runSweep();
    expect(run).toMatchObject({ outcome: 'blocked', deleted: 0, held: 0 });
    expect(run.reason).toMatch(/no users at all/);
  });
});

describe('an interrupted sweep', () => {
  it('goes on from where it stood, without reading again what was read', async () => {
    const s = await beginPullScene({
      simulator: { users: 3_000, behaviour: { latencyMs: 5 } },
      env: { PAGE_SIZE: '20' },
    });
    const { sweep } = s.process();
    const { runId } = await startSweep(sweep, 'a test');
    const signal = new AbortController().signal;
    const state = await advanceSweep(sweep, runId, signal);
    if (state.kind !== 'reading') throw new Error('there is nothing to read');
    expect(state.windowIds.length).toBeGreaterThan(1);
    const [windowId = 0] = state.windowIds;
    const stopping = new AbortController();
    let steps = 0;
    const interrupted = {
      ...sweep,
      onStep: () => {
        if (++steps === 10) stopping.abort();
      },
    };
    await expect(readWindow(interrupted, windowId, stopping.signal)).rejects.toThrow(Stopping);
    const { live } = await s.countUsers();
    expect(live).toBeGreaterThan(150);

    const before = s.simulator.requests.countOf('userSearch');
    s.restart();
    const joined = await startSweep(s.process().sweep, 'again');
    expect(joined).toEqual({ runId, isNew: false });
    expect(await s.runSweep()).toMatchObject({ runId, outcome: 'complete' });
    await s.assertEqual();
    const after = s.simulator.requests.countOf('userSearch') - before;
    expect(after).toBeLessThan((3_000 - live) / 19 + 25);
  });

  it('is no worse for two processes reading the same window', async () => {
    const s = await beginPullScene({ simulator: { users: 800 }, env: { PAGE_SIZE: '20' } });
    const one = s.process();
    s.restart();
    const two = s.process();
    const { runId } = await startSweep(one.sweep, 'a test');
    const signal = new AbortController().signal;
    const states = await Promise.all(
      [one, two].map(({ sweep }) => advanceSweep(sweep, runId, signal)),
    );
    const windowIds = states.flatMap((state) => (state.kind === 'reading' ? state.windowIds : []));
    // Both planned at once; there is one plan.
    expect(new Set(windowIds).size * 2).toBe(windowIds.length);
    const outcomes = await Promise.all(
      [...new Set(windowIds)].flatMap((windowId) =>
        [one, two].map(({ sweep }) => readWindow(sweep, windowId, signal)),
      ),
    );
    expect(outcomes).toContain('left');
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete' });
    await s.assertEqual();
  });
});

describe('the windows of a sweep', () => {
  const day = 86_400_000;
  it('begin at the beginning of time and join on to each other', () => {
    const starts = cutWindows(1_000 * day + 123, 1_700 * day + 7, 100_000, 100);
    expect(starts[0]).toBe(0);
    expect(starts).toHaveLength(7);
    expect([...starts].sort((a, b) => a - b)).toEqual(starts);
    for (const start of starts) expect(start % 1000).toBe(0);
  });

  it('are one where there are few users, no time or no sense in more', () => {
    expect(cutWindows(1_000 * day, 1_700 * day, 4_999, 100)).toEqual([0]);
    expect(cutWindows(1_000 * day, 1_700 * day, 0, 100)).toEqual([0]);
    expect(cutWindows(1_700 * day, 1_700 * day, 10_000, 100)).toHaveLength(2);
    expect(cutWindows(1_800 * day, 1_700 * day, 10_000, 100).length).toBeLessThanOrEqual(2);
  });
});
