import { sql } from 'drizzle-orm';
import { describe, expect, it, onTestFinished } from 'vitest';

import { parseConfig } from '../../src/config.ts';
import { Stopping } from '../../src/errors.ts';
import { pruneEvents, REREAD_HOURS } from '../../src/inbox/prune.ts';
import { rows, type Mirror } from '../../src/mirror/database.ts';
import { beginFilled, type PullScene } from '../pull/pullScene.ts';
import { createTestDatabase } from '../support/database.ts';
import { explaining } from '../support/explaining.ts';
import { testEnv } from '../support/world.ts';

const forever = new AbortController().signal;
const HOURS = 3_600_000;
const prune = (mirror: Mirror, days: number, steps = 100) =>
  pruneEvents(mirror, { days, steps }, forever);

/** A database whose audit pull has come to now, or to so many days ago. */
async function begin(auditDays: number | null = 0): Promise<Mirror> {
  const database = await createTestDatabase();
  onTestFinished(() => database.drop());
  const { mirror } = database;
  if (auditDays !== null) {
    await mirror.db.execute(sql`
      insert into ${mirror.t.watermarks} (pull, complete_to)
      values ('audit', now() - make_interval(days => ${auditDays}))`);
  }
  return mirror;
}

interface Told {
  readonly state?: string;
  /** Ages in days. */
  readonly occurred: number;
  readonly received?: number;
  readonly applied?: number | null;
}

async function add(mirror: Mirror, name: string, told: Told): Promise<void> {
  const { occurred, received = occurred, state = 'applied', applied = received } = told;
  const ago = (days: number | null) =>
    sql`now() - make_interval(secs => ${days === null ? null : days * 86_400}::float8)`;
  await mirror.db.execute(sql`
    insert into ${mirror.t.events} (event_id, action, occurred_at, received_at, applied_at, payload, state)
    values (${name}, 'UserModified', ${ago(occurred)}, ${ago(received)},
            ${ago(state === 'applied' ? applied : null)}, '{}', ${state})`);
}

async function left({ db, t }: Mirror): Promise<string[]> {
  const found = await rows<{ id: string }>(
    db,
    sql`select event_id as id from ${t.events} order by 1`,
  );
  return found.map(({ id }) => id);
}

describe('pruneEvents', () => {
  it('removes what is done and older than is kept, whatever it was', async () => {
    const mirror = await begin();
    await add(mirror, 'applied', { occurred: 31 });
    await add(mirror, 'archived', { occurred: 31, state: 'archived' });
    await add(mirror, 'very old', { occurred: 900 });
    await add(mirror, 'young', { occurred: 29 });
    await add(mirror, 'young archived', { occurred: 29, state: 'archived' });
    // Of an archive imported lately: kept as long as anything else that came then.
    await add(mirror, 'imported', { occurred: 400, received: 3, state: 'archived' });
    expect(await prune(mirror, 30)).toBe(3);
    expect(await left(mirror)).toEqual(['imported', 'young', 'young archived']);
    expect(await prune(mirror, 30)).toBe(0);
  });

  it('never removes what is still to do', async () => {
    const mirror = await begin();
    await add(mirror, 'pending', { occurred: 400, state: 'pending' });
    await add(mirror, 'parked', { occurred: 400, state: 'parked' });
    expect(await prune(mirror, 1)).toBe(0);
    expect(await left(mirror)).toEqual(['parked', 'pending']);
  });

  it('changes no figure of the last hour or day, however short events are kept', async () => {
    const mirror = await begin();
    const figures = () =>
      rows(
        mirror.db,
        sql`select loss_rate_day, webhook_delay_day,
                   (select count(*)::int from ${mirror.t.events}
                    where applied_at > statement_timestamp() - interval '1 day') as applied,
                   (select count(*)::int from ${mirror.t.events}
                    where received_at > statement_timestamp() - interval '1 day') as received
            from ${mirror.t.syncStatus}`,
      );
    for (let nth = 0; nth < 30; nth++) {
      await add(mirror, `event ${nth}`, { occurred: nth / 10 });
    }
    await add(mirror, 'replayed', { occurred: 9, received: 8, applied: 0.01 });
    await mirror.db.execute(sql`
      update ${mirror.t.events} set audit_at = received_at,
        webhook_at = case when event_id like '%1%' then null else received_at end`);
    const before = await figures();
    expect(before).toMatchObject([{ applied: 11, received: 10 }]);
    expect(await prune(mirror, 1)).toBeGreaterThan(5);
    expect(await figures()).toEqual(before);
    expect(await left(mirror)).toContain('replayed');
  });

  it('keeps what an audit pull may read again, however long it was down', async () => {
    const mirror = await begin(12);
    for (const days of [5, 11.9, 12.9, 13.1, 20]) {
      await add(mirror, `${days} days`, { occurred: days });
    }
    expect(await prune(mirror, 1)).toBe(2);
    expect(await left(mirror)).toEqual(['11.9 days', '12.9 days', '5 days']);
  });

  it('keeps everything until a first sweep has begun', async () => {
    const mirror = await begin(null);
    await add(mirror, 'old', { occurred: 400 });
    expect(await prune(mirror, 1)).toBe(0);
    await mirror.db.execute(sql`insert into ${mirror.t.watermarks} (pull) values ('audit')`);
    expect(await prune(mirror, 1)).toBe(0);
  });

  it('knows the largest overlap there can be', () => {
    const env = testEnv({ projectId: 'P', managementKey: 'K', url: 'http://x' } as never, null);
    const overlap = (seconds: number) =>
      parseConfig({ ...env, PULL_OVERLAP_SECONDS: String(seconds) }).PULL_OVERLAP_SECONDS;
    expect(overlap((REREAD_HOURS - 1) * 3_600)).toBe((REREAD_HOURS - 1) * 3_600);
    expect(() => overlap((REREAD_HOURS - 1) * 3_600 + 1)).toThrow('PULL_OVERLAP_SECONDS');
  });

  async function addMany(mirror: Mirror, count: number): Promise<void> {
    await mirror.db.execute(sql`
      insert into ${mirror.t.events} (event_id, action, occurred_at, received_at, user_ids, payload, state)
      select md5(n::text), 'UserModified', at, at, array['U' || n], '{}',
             case when n % 10 = 0 then 'parked' else 'applied' end
      from generate_series(1, ${count}::int) as n,
           lateral (select now() - interval '40 days' - n * interval '1 second' as at) as moment`);
  }

  it('takes so many steps of a thousand, the oldest first, and goes on the next time', async () => {
    const mirror = await begin();
    await addMany(mirror, 5_000);
    expect(await prune(mirror, 30, 2)).toBe(2_000);
    const [oldest] = await rows<{ age: number }>(
      mirror.db,
      sql`select max(extract(epoch from now() - received_at)::int - 40 * 86400) as age
          from ${mirror.t.events} where state = 'applied'`,
    );
    expect(oldest?.age).toBeLessThan(2_800);
    expect(await prune(mirror, 30)).toBe(2_500);
    expect(await left(mirror)).toHaveLength(500);
  });

  it('does no harm beside its twin, nor to whom writes the same events', async () => {
    const mirror = await begin();
    await addMany(mirror, 5_000);
    const replay = () =>
      mirror.db.execute(sql`update ${mirror.t.events} set state = 'pending'
                            where event_id in (select event_id from ${mirror.t.events}
                                               where state = 'applied' order by event_id limit 300)`);
    const [first, second] = await Promise.all([prune(mirror, 30), prune(mirror, 30), replay()]);
    const third = await prune(mirror, 30);
    const states = await rows<{ state: string; n: number }>(
      mirror.db,
      sql`select state, count(*)::int as n from ${mirror.t.events} group by 1 order by 1`,
    );
    const pending = states.find(({ state }) => state === 'pending')?.n ?? 0;
    expect(first + second + third).toBe(4_500 - pending);
    expect(states).toContainEqual({ state: 'parked', n: 500 });
    expect(states.map(({ state }) => state)).not.toContain('applied');
  });

  it('stops between two steps', async () => {
    const mirror = await begin();
    await addMany(mirror, 2_000);
    const stopped = pruneEvents(mirror, { days: 30, steps: 10 }, AbortSignal.abort());
    await expect(stopped).rejects.toThrow(Stopping);
    expect(await left(mirror)).toHaveLength(2_000);
  });

  it('does not read the whole table for it', async () => {
    const mirror = await begin();
    await addMany(mirror, 60_000);
    await mirror.db.execute(sql`analyze ${mirror.t.events}`);
    const asked = explaining(mirror);
    expect(await pruneEvents(asked.mirror, { days: 30, steps: 3 }, forever)).toBe(3_000);
    expect(asked.readWhole().filter((table) => table !== 'watermarks')).toEqual([]);
    expect(asked.indexes()).toContain('events_received');
  });
});

/** Events of the past, told by the audit pull; how many it brought that were not there. */
async function pullNew(s: PullScene): Promise<number> {
  const { mirror } = s.database;
  const ids = async () => new Set(await left(mirror));
  const before = await ids();
  expect(await s.pullAudit()).toBe('done');
  return [...(await ids())].filter((id) => !before.has(id)).length;
}

describe('an event that was pruned', () => {
  for (const overlap of [300, 86_400]) {
    it(`does not come back by an audit pull that reads ${overlap} s again`, async () => {
      const s = await beginFilled({
        simulator: { users: 30 },
        env: { PULL_OVERLAP_SECONDS: String(overlap) },
      });
      const { mirror } = s.database;
      const setWatermark = (hours: number) =>
        mirror.db
          .execute(sql`update ${mirror.t.watermarks} set complete_to = ${new Date(Date.now() - hours * HOURS).toISOString()}
                              where pull = 'audit'`);
      // One an hour, for four days.
      for (let hours = 96; hours >= 1; hours--) {
        s.ago(hours * HOURS, () => s.simulator.directory.createUser());
      }
      await setWatermark(96);
      expect(await pullNew(s)).toBeGreaterThan(90);
      await s.applyEvents();
      await mirror.db.execute(sql`
        update ${mirror.t.events} set received_at = occurred_at, applied_at = occurred_at,
                                      state = 'applied'`);
      // The pull was down for two days and a half; then it comes to now.
      await setWatermark(60);
      expect(await prune(mirror, 1)).toBeGreaterThan(5);
      expect(await pullNew(s)).toBe(0);
      expect(await prune(mirror, 1)).toBeGreaterThan(30);
      expect(await pullNew(s)).toBe(0);
      expect((await left(mirror)).length).toBeGreaterThan(20);
    });
  }
});
