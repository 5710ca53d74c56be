import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { recordEvents } from '../../src/inbox/record.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { pullModified } from '../../src/pull/modified.ts';
import { advanceSweep, startSweep } from '../../src/pull/sweep.ts';
import { beginFilled, type PullScene } from '../pull/pullScene.ts';
import { realUserIds } from '../support/world.ts';

import type { DirectoryEvent } from '../../src/inbox/event.ts';

const quiet = { event: false };
const { signal } = new AbortController();
const SECOND = 1_000;
const HOUR = 3_600_000;

interface Told {
  readonly count?: number;
  /** So long ago by Descope's clock; a millisecond less for each further event. */
  readonly agoMs?: number;
  /** Told so long ago. */
  readonly sinceMs?: number;
}

/** A filled mirror, some minutes later. */
async function begin(users: number): Promise<PullScene> {
  const s = await beginFilled({ simulator: { users } });
  await ageRuns(s);
  return s;
}

/** As if what has been read had been begun a minute earlier. */
async function ageRuns(s: PullScene): Promise<void> {
  await s.query(sql`
    update ${s.database.mirror.t.syncRuns} set started_at = started_at - interval '1 minute'`);
}

/** Records events that name nobody. */
async function tell(
  s: PullScene,
  action: string,
  { count = 1, agoMs = 0, sinceMs = 0 }: Told = {},
) {
  const { db, t } = s.database.mirror;
  const nowMs = s.simulator.directory.clockMs();
  const events = Array.from({ length: count }, (_, at) =>
    parseRecord({ action, occurred: nowMs - agoMs + at }, nowMs),
  ).filter((event): event is DirectoryEvent => event !== null);
  await recordEvents(db, t, events, 'webhook', { archiveAll: false });
  await db.execute(sql`
    update ${t.events} set received_at = received_at - make_interval(secs => ${sinceMs / 1000})
    where event_id = any(${sql.param(events.map((event) => event.eventId))}::text[])`);
}

/** Looks at all that is pending, however long it was put off. */
async function lookAgain(s: PullScene): Promise<void> {
  await s.query(
    sql`update ${s.database.mirror.t.events} set due_at = clock_timestamp() where state = 'pending'`,
  );
  await s.applyEvents();
}

async function states(s: PullScene): Promise<Record<string, number>> {
  const found = await s.query<{ state: string; n: number }>(
    sql`select state, count(*)::int as n from ${s.database.mirror.t.events} group by state`,
  );
  return Object.fromEntries(found.map(({ state, n }) => [state, n]));
}

/** How the sweeps ended, the first fill's at the front; null: under way. */
async function sweeps(s: PullScene): Promise<(string | null)[]> {
  const found = await s.query<{ outcome: string | null }>(
    sql`select outcome from ${s.database.mirror.t.syncRuns} where pull = 'sweep' order by run_id`,
  );
  return found.map((run) => run.outcome);
}

/** How far the oldest pending event holds back what the mirror vouches for. */
async function isComplete(s: PullScene): Promise<boolean> {
  const [row] = await s.query<{ isComplete: boolean }>(sql`
    select as_of >= (select max(occurred_at) from ${s.database.mirror.t.events}) as "isComplete"
    from ${s.database.mirror.t.syncStatus}`);
  return row?.isComplete ?? false;
}

describe('users deleted, nobody says which', () => {
  it('are found by a sweep that begins later; until then the event is pending', async () => {
    const s = await begin(60);
    s.simulator.directory.deleteMany(realUserIds(s).slice(0, 3), quiet);
    await tell(s, 'UsersDeleted');
    await s.applyEvents();
    // Too young: what a replica has not yet heard of, a sweep would not find.
    expect(await sweeps(s)).toEqual(['complete']);
    await s.query(sql`
      update ${s.database.mirror.t.events}
      set received_at = received_at - interval '10 s', occurred_at = occurred_at - interval '10 s'`);
    for (let look = 0; look < 3; look++) {
      await lookAgain(s);
      expect(await states(s)).toEqual({ pending: 1 });
      expect(await sweeps(s)).toEqual(['complete', null]);
    }
    const [waiting] = await s.query<{ waitS: number }>(sql`
      select extract(epoch from due_at - clock_timestamp())::float8 as "waitS"
      from ${s.database.mirror.t.events}`);
    expect(waiting?.waitS).toBeGreaterThan(10);

    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 3 });
    // The sweep's end brings it back.
    expect(await s.applyEvents()).toBe(1);
    expect(await states(s)).toEqual({ applied: 1 });
    expect(await sweeps(s)).toEqual(['complete', 'complete']);
    expect(await isComplete(s)).toBe(true);
    await s.assertEqual();
  });

  it('are not found by a sweep that had begun before: another follows it', async () => {
    const s = await begin(60);
    const { sweep } = s.process();
    const { runId } = await startSweep(sweep, 'a test');
    await advanceSweep(sweep, runId, signal);
    await ageRuns(s);
    await tell(s, 'UsersDeleted', { agoMs: 10 * SECOND, sinceMs: 10 * SECOND });
    await lookAgain(s);
    expect(await sweeps(s)).toEqual(['complete', null]);
    await s.runSweep();
    await lookAgain(s);
    expect(await states(s)).toEqual({ pending: 1 });
    expect(await sweeps(s)).toEqual(['complete', 'complete', null]);
    await s.runSweep();
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 1 });
    expect(await sweeps(s)).toEqual(['complete', 'complete', 'complete']);
  });

  it('make no sweep follow at once on one that failed', async () => {
    const s = await begin(60);
    const { syncRuns } = s.database.mirror.t;
    await tell(s, 'UsersDeleted', { agoMs: 10 * SECOND, sinceMs: 10 * SECOND });
    s.simulator.faults.random(1, ['zeroTotal'], () => 0);
    for (const failures of [1, 2]) {
      await lookAgain(s);
      expect(await s.runSweep()).toMatchObject({ outcome: 'blocked' });
      // More that come meanwhile ask for none either.
      await tell(s, 'UsersDeleted', { agoMs: 20 * SECOND, sinceMs: 10 * SECOND });
      await lookAgain(s);
      expect(await sweeps(s)).toHaveLength(1 + failures);
      const rest = 4 * 2 ** (failures - 1) + 1;
      await s.query(sql`
        update ${syncRuns} set finished_at = clock_timestamp() - make_interval(secs => ${rest})
        where outcome = 'blocked'`);
    }
    s.simulator.faults.clear();
    await lookAgain(s);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete' });
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 3 });
  });

  it('lead to one sweep, be it a thousand events', async () => {
    const s = await begin(60);
    s.simulator.directory.deleteMany(realUserIds(s).slice(0, 3), quiet);
    for (let burst = 0; burst < 4; burst++) {
      const seconds = 10 + burst;
      await tell(s, 'UsersDeleted', {
        ...{ count: 250, agoMs: seconds * SECOND, sinceMs: seconds * SECOND },
      });
    }
    await lookAgain(s);
    await lookAgain(s);
    expect(await sweeps(s)).toEqual(['complete', null]);
    await s.runSweep();
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 1_000 });
    expect(await sweeps(s)).toEqual(['complete', 'complete']);
    await s.assertEqual();
  });
});

describe('users changed, nobody says which', () => {
  it('are the next pull’s to find, which opens no window; one begun before proves nothing', async () => {
    const s = await begin(60);
    const [userId = ''] = realUserIds(s);
    const { modified } = s.process();
    await pullModified(modified, signal, 'now');
    s.simulator.directory.modifyUser(userId, { name: 'New' }, quiet);
    await tell(s, 'UsersModified', { count: 300 });
    await s.applyEvents();
    expect(await states(s)).toEqual({ pending: 300 });
    expect(await s.windows('modified')).toHaveLength(1);

    await s.query(sql`
      update ${s.database.mirror.t.events}
      set received_at = received_at - interval '3 s', occurred_at = occurred_at - interval '3 s'`);
    await ageRuns(s);
    await lookAgain(s);
    expect(await states(s)).toEqual({ pending: 300 });
    await pullModified(modified, signal, 'now');
    await s.assertEqual();
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 300 });
    expect(await s.windows('modified')).toHaveLength(2);
  });

  it('long ago are read in a window of their own, one for all that it covers', async () => {
    const s = await begin(60);
    const [userId = ''] = realUserIds(s);
    s.ago(HOUR, () => s.simulator.directory.modifyUser(userId, { name: 'New' }, quiet));
    await tell(s, 'UsersModified', { count: 250, agoMs: HOUR });
    for (let look = 0; look < 3; look++) {
      await lookAgain(s);
      expect(await states(s)).toEqual({ pending: 250 });
      expect((await s.windows('modified')).map(({ state }) => state)).toEqual(['open']);
    }
    await pullModified(s.process().modified, signal, 'gaps');
    await s.assertEqual();
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 250 });
    expect((await s.windows('modified')).map(({ state }) => state)).toEqual(['proven']);
  });

  it('are not waited for beyond now, whatever moment an event tells', async () => {
    const s = await begin(20);
    await tell(s, 'UsersModified', { agoMs: -1_000 * HOUR, sinceMs: 10 * SECOND });
    await pullModified(s.process().modified, signal, 'now');
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 1 });
  });
});

describe('hundreds of moments long past, each apart from the others', () => {
  it('are proven by the window that was read for each, however many came after it', async () => {
    const s = await begin(40);
    const { process, simulator } = s;
    simulator.behaviour.latencyMs = 0;
    const moments = 230;
    for (let nth = 1; nth <= moments; nth++) {
      await tell(s, 'UsersModified', { agoMs: HOUR + nth * 660 * SECOND, sinceMs: 10 * SECOND });
    }
    await s.applyEvents();
    const opened = await s.windows('modified');
    expect(opened).toHaveLength(moments);
    await pullModified(process().modified, signal, 'gaps');
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: moments });
    expect(await s.windows('modified')).toHaveLength(moments);
  });

  it('are proven by a sweep that was begun since', async () => {
    const s = await begin(40);
    await tell(s, 'UsersModified', { agoMs: HOUR, sinceMs: 10 * SECOND });
    await s.applyEvents();
    await s.runSweep();
    await lookAgain(s);
    expect(await states(s)).toEqual({ applied: 1 });
  });
});
