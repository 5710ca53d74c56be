import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';

import { pruneHistory, recordMinute, rollUpHour } from '../../src/history/record.ts';
import { openMirror, rows } from '../../src/mirror/database.ts';
import { readHistory } from '../../src/readers/history.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(() =>
  database.mirror.db.execute(sql`
    truncate descope.status_history, descope.events, descope.users, descope.deletions,
      descope.watermarks, descope.budgets, descope.learnt`),
);

/** The database's clock as these tests set it: on 8 June 2026, UTC. */
const at = (time: string) => sql`${`2026-06-08T${time}Z`}::timestamptz`;
const record = (time: string) => recordMinute(database.mirror, at(time));

interface Row {
  readonly step: string;
  readonly at: string;
  readonly [column: string]: unknown;
}

/** All there is, oldest first; times of day in UTC. */
function listRows(): Promise<Row[]> {
  return rows<Row>(
    database.mirror.db,
    sql`select *, to_char(at at time zone 'UTC', 'HH24:MI') as at, live_users::int as live_users
        from descope.status_history order by status_history.at`,
  );
}

/** An event of the inbox by when each witness told of it, as times of day. */
async function tell(told: Readonly<Record<string, string>>, state = 'pending'): Promise<void> {
  const instant = (name: string) => (told[name] === undefined ? null : `2026-06-08T${told[name]}Z`);
  await database.mirror.db.execute(sql`
    insert into descope.events (event_id, action, occurred_at, payload, state, received_at, webhook_at,
                                audit_at, archive_at, applied_at)
    values (gen_random_uuid()::text, 'UserModified', ${at('12:00:00')}, '{}', ${state},
            ${instant('received')}, ${instant('webhook')}, ${instant('audit')}, ${instant('archive')},
            ${instant('applied')})`);
}

/** What all processes together have sent so far, by all budgets. */
async function sent(api: number, audit: number, throttled: number): Promise<void> {
  await database.mirror.db.execute(sql`
    insert into descope.budgets (name, next_at, granted, throttled)
    values ('api', now(), ${api}::bigint, ${throttled}::bigint), ('audit', now(), ${audit}::bigint, 0)
    on conflict (name) do update set granted = excluded.granted, throttled = excluded.throttled`);
}

describe('the row of a minute', () => {
  it('counts what came in and was applied in it, each event by who told first', async () => {
    await tell({ received: '12:01:00', webhook: '12:01:00', audit: '12:01:30' });
    await tell({ received: '12:01:10', webhook: '12:01:20', audit: '12:01:10' });
    await tell({ received: '12:01:20', audit: '12:01:20' }, 'parked');
    await tell({ received: '12:01:59.999', archive: '12:01:59.999' }, 'archived');
    // Before and after it.
    await tell(
      { received: '12:00:59.999', webhook: '12:00:59.999', applied: '12:01:00' },
      'applied',
    );
    await tell({ received: '12:02:00', webhook: '12:02:00', applied: '12:02:00' }, 'applied');

    expect(await record('12:02:05')).toBe(true);

    expect(await listRows()).toMatchObject([
      {
        ...{ step: 'minute', at: '12:01', by_webhook: 1, by_audit: 2, by_archive: 1, applied: 1 },
        ...{ pending_events: 2, parked_events: 1 },
      },
    ]);
  });

  it('shows how things were', async () => {
    await database.mirror.db.execute(sql`
      insert into descope.users (user_id, observed_at, changed_at, deleted_at, witness)
      values ('U1', now(), now(), null, 'sweep'), ('U2', now(), now(), null, 'sweep'),
             ('U3', now(), now(), now(), 'sweep')`);
    await database.mirror.db.execute(sql`
      insert into descope.deletions (user_id, state, witness) values ('U1', 'held', 'sweep')`);
    await record('12:02:05');
    // Nothing is known of what no sweep has shown, and no loss of webhooks where none was expected.
    expect(await listRows()).toMatchObject([
      { live_users: 2, held_deletions: 1, lag_seconds: null, loss_rate: null, drift_ppm: null },
    ]);
    await database.mirror.db.execute(sql`
      insert into descope.watermarks (pull, complete_to)
      select pull, now() - interval '10 seconds' from unnest(array['sweep', 'modified', 'audit']) pull`);
    await record('12:03:05');
    const [, later] = await listRows();
    expect(later?.['lag_seconds']).toBeGreaterThanOrEqual(10);
    expect(later?.['lag_seconds']).toBeLessThan(60);
  });

  it('is written once the minute has been over for five seconds', async () => {
    expect(await record('12:02:04.999')).toBe(true);
    expect(await record('12:02:05')).toBe(true);
    expect((await listRows()).map((row) => row.at)).toEqual(['12:00', '12:01']);
  });

  it('is written once, however many ask, at once or later', async () => {
    const asked = await Promise.all(Array.from({ length: 8 }, () => record('12:02:05')));
    expect(asked.filter((isOurs) => isOurs)).toHaveLength(1);
    expect(await record('12:02:50')).toBe(false);
    expect(await listRows()).toHaveLength(1);
  });
});

describe('requests to Descope', () => {
  const requests = async () =>
    (await listRows()).map((row) => [row.at, row['requests'], row['throttled']]);

  it('are those of the minute, though the budgets only know totals', async () => {
    // Of before anybody took notes: nobody knows when.
    await sent(500, 20, 3);
    await record('12:01:10');
    await sent(540, 25, 4);
    await record('12:02:10');
    await record('12:03:10');
    await sent(541, 25, 4);
    await Promise.all([record('12:04:10'), record('12:04:10')]);
    expect(await requests()).toEqual([
      ['12:00', 0, 0],
      ['12:01', 45, 1],
      ['12:02', 0, 0],
      ['12:03', 1, 0],
    ]);
  });

  it("after a standstill are a minute's share of what was sent meanwhile", async () => {
    await sent(0, 0, 0);
    await record('12:01:10');
    await sent(600, 0, 10);
    await record('12:11:10');
    await sent(630, 0, 10);
    await record('12:12:10');
    expect(await requests()).toEqual([
      ['12:00', 0, 0],
      ['12:10', 60, 1],
      ['12:11', 30, 0],
    ]);
  });

  it('are none where the budgets were begun anew, and counted on from there', async () => {
    await sent(500, 0, 0);
    await record('12:01:10');
    await sent(5, 0, 0);
    await record('12:02:10');
    await sent(8, 0, 0);
    await record('12:03:10');
    expect((await requests()).map(([, count]) => count)).toEqual([0, 0, 3]);
  });
});

/** A row a minute, the first at this time of 8 June; each applied one event and held as many as its number. */
async function fill(step: string, first: string, count: number): Promise<void> {
  const { db } = database.mirror;
  await db.execute(sql`
    insert into descope.status_history (step, at, held_deletions, applied, lag_seconds)
    select ${step}, ${at(first)} + make_interval(mins => n), n, 1, n / 2.0
    from generate_series(0, ${count - 1}::int) n`);
}

describe('minutes older than 48 hours', () => {
  const roll = (day: string) => rollUpHour(database.mirror, sql`${`2026-06-${day}Z`}::timestamptz`);

  it('become one row of their hour: counts added, the rest as it was at the end', async () => {
    await fill('minute', '12:00:00', 65);
    // The hour's last minute is 48 hours old only then.
    expect(await roll('10T12:59:59')).toBe(0);
    expect(await roll('10T13:00:00')).toBe(60);
    const [hour, ...minutes] = await listRows();
    expect(hour).toMatchObject({
      ...{ step: 'hour', at: '12:00', applied: 60, held_deletions: 59, lag_seconds: 29.5 },
      drift_ppm: null,
    });
    expect(minutes.map((row) => row.at)).toEqual(['13:00', '13:01', '13:02', '13:03', '13:04']);
    expect(await roll('10T13:00:00')).toBe(0);
  });

  it('are an hour a call, and counted once however many call at once', async () => {
    await fill('minute', '12:00:00', 120);
    const rolled = await Promise.all(Array.from({ length: 6 }, () => roll('20T00:00:00')));
    while ((await roll('20T00:00:00')) > 0);
    expect(rolled.every((minutes) => minutes <= 60)).toBe(true);
    expect((await listRows()).map((row) => [row.step, row.at, row['applied']])).toEqual([
      ['hour', '12:00', 60],
      ['hour', '13:00', 60],
    ]);
  });

  it('are hours of UTC, also where the session keeps another time', async () => {
    await fill('minute', '12:00:00', 60);
    const url = new URL(database.url);
    url.searchParams.set('options', '-c timezone=Asia/Kolkata');
    const elsewhere = openMirror({
      ...{ databaseUrl: url.toString(), schema: 'descope', maxConnections: 1 },
      onError: () => undefined,
    });
    onTestFinished(() => elsewhere.pool.end());
    const [zone] = await rows(elsewhere.db, sql`select current_setting('timezone') as zone`);
    expect(zone).toEqual({ zone: 'Asia/Kolkata' });
    expect(await rollUpHour(elsewhere)).toBe(60);
  });
});

describe('hours older than 90 days', () => {
  it('are removed, a hundred a call', async () => {
    const { db, t } = database.mirror;
    await db.execute(sql`
      insert into ${t.statusHistory} (step, at)
      select 'hour', ${at('12:00:00')} + make_interval(hours => n) from generate_series(0, 149) n`);
    await fill('minute', '10:00:00', 1);
    const ninetyDaysAfter = sql`${at('12:00:00')} + interval '90 days 140 hours'`;
    expect(await pruneHistory(database.mirror, ninetyDaysAfter)).toBe(100);
    expect(await pruneHistory(database.mirror, ninetyDaysAfter)).toBe(40);
    expect(await pruneHistory(database.mirror, ninetyDaysAfter)).toBe(0);
    expect(await listRows()).toHaveLength(11);
  });
});

describe('the history read', () => {
  beforeEach(async () => {
    // A row a minute of the last three hours, and a row an hour from two days ago on.
    await database.mirror.db.execute(sql`
      insert into descope.status_history (step, at, applied, requests, live_users)
      select 'minute', date_trunc('minute', now()) - make_interval(mins => n), 1, 2, 5000000000
      from generate_series(1, 180) n
      union all
      select 'hour', date_trunc('hour', now(), 'UTC') - make_interval(hours => n), 60, 120, 7
      from generate_series(48, 99) n`);
  });

  it('is by the minute up to 48 hours, oldest first', async () => {
    const { step, points } = await readHistory(database.mirror, 2);
    expect(step).toBe('minute');
    // The one that begins two hours ago may just have been left behind.
    expect([119, 120]).toContain(points.length);
    expect([...points].sort((a, b) => (a.at < b.at ? -1 : 1))).toEqual(points);
    expect(points[0]).toMatchObject({ applied: 1, requests: 2, liveUsers: 5_000_000_000 });
    expect((await readHistory(database.mirror, 48)).points).toHaveLength(180);
  });

  it('is by the hour above that, with the hours whose minutes are still there', async () => {
    const { step, points } = await readHistory(database.mirror, 200);
    expect(step).toBe('hour');
    const folded = points.filter(({ liveUsers }) => liveUsers > 7);
    expect(points).toHaveLength(52 + folded.length);
    expect(folded.reduce((sum, { applied }) => sum + applied, 0)).toBe(180);
    expect(folded.every(({ at: hour }) => hour.endsWith(':00:00.000000Z'))).toBe(true);
    expect(points.slice(52)).toEqual(folded);
  });
});
