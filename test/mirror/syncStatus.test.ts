import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { rows } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;

beforeEach(async () => {
  database = await createTestDatabase();
});

afterEach(() => database.drop());

const execute = (statement: string) => database.mirror.db.execute(sql.raw(statement));

async function status<Row>(columns: string): Promise<Row | undefined> {
  const { db, t } = database.mirror;
  const [row] = await rows<Row & object>(db, sql`select ${sql.raw(columns)} from ${t.syncStatus}`);
  return row;
}

/** An event that happened `ago`, and was told by each witness so much later; '' where it was not. */
async function event(id: string, ago: string, told: { webhook: string; audit: string }) {
  const later = (delay: string) => (delay === '' ? 'null' : `at + interval '${delay}'`);
  await execute(`
    insert into descope.events (event_id, action, occurred_at, payload, received_at, webhook_at, audit_at)
    select '${id}', 'UserModified', at, '{}', least(${later(told.webhook)}, ${later(told.audit)}),
           ${later(told.webhook)}, ${later(told.audit)}
    from (select clock_timestamp() - interval '${ago}' as at) as moment`);
}

describe('complete as of', () => {
  const setWatermarks = (minutes: Readonly<Record<string, number>>) =>
    execute(`
      insert into descope.watermarks (pull, complete_to)
      values ${Object.entries(minutes)
        .map(([pull, minute]) => `('${pull}', '2026-11-21 01:${minute}Z')`)
        .join(', ')}
      on conflict (pull) do update set complete_to = excluded.complete_to`);
  const addEvent = (minute: number, state: string) =>
    execute(`
      insert into descope.events (event_id, action, occurred_at, payload, state)
      values ('${state}', 'UserModified', '2026-11-21 01:${minute}Z', '{}', '${state}')`);
  const minute = async () => {
    const told = await status<{ minute: number | null }>(
      'extract(minute from as_of)::int as minute',
    );
    return told?.minute;
  };

  test('is told without any process of ours, and the lag is that of the moment it is read', async () => {
    const ago = () => status<{ lag: number }>('extract(epoch from lag)::float8 as lag');
    expect(await ago()).toEqual({ lag: null });
    await setWatermarks({ modified: 30, audit: 30 });
    expect(await minute()).toBeNull();
    await setWatermarks({ sweep: 10 });
    const first = await ago();
    const second = await ago();
    expect(second?.lag).toBeGreaterThan(first?.lag ?? NaN);
    expect(
      await status('abs(extract(epoch from clock_timestamp() - as_of - lag)) < 1 as right'),
    ).toEqual({ right: true });
  });

  test('is the older of both pulls or a later sweep, held back by what is not applied', async () => {
    await setWatermarks({ sweep: 10, modified: 30, audit: 40 });
    expect(await minute()).toBe(30);
    await addEvent(25, 'pending');
    expect(await minute()).toBe(25);
    await addEvent(20, 'parked');
    await addEvent(15, 'applied');
    expect(await minute()).toBe(20);
    await setWatermarks({ sweep: 50 });
    expect(await minute()).toBe(50);
  });
});

describe('loss and delay', () => {
  const arrivals = () =>
    status(`loss_rate, loss_rate_day, extract(epoch from webhook_delay)::float8 as delay,
            extract(epoch from webhook_delay_day)::float8 as delay_day`);

  test('are null where nothing is known', async () => {
    const unknown = { loss_rate: null, loss_rate_day: null, delay: null, delay_day: null };
    expect(await arrivals()).toEqual(unknown);
  });

  test('are told for the last hour and the last day apart', async () => {
    await event('seen', '10 minutes', { webhook: '2 seconds', audit: '1 minute' });
    await event('lost', '20 minutes', { webhook: '', audit: '1 minute' });
    await event('slow', '5 hours', { webhook: '6 seconds', audit: '1 minute' });
    await event('slower', '6 hours', { webhook: '10 seconds', audit: '1 minute' });
    await event('old', '2 days', { webhook: '', audit: '1 minute' });
    expect(await arrivals()).toEqual({
      ...{ loss_rate: 0.5, loss_rate_day: 0.25, delay: 2, delay_day: 6 },
    });
  });

  test('an event the audit trail told of a moment ago is not lost yet', async () => {
    await event('recent', '15 seconds', { webhook: '', audit: '1 second' });
    expect(await arrivals()).toMatchObject({ loss_rate: null });
  });
});

describe('gaps and last runs', () => {
  const addRun = (pull: string, outcome: string | null) =>
    execute(`
      insert into descope.sync_runs (pull, reason, outcome, finished_at)
      values ('${pull}', 'test', ${outcome === null ? 'null' : `'${outcome}'`},
              ${outcome === null ? 'null' : 'clock_timestamp()'})`);
  /** A window of the latest run; times in minutes of an hour. */
  const addWindow = (
    pull: string,
    state: string,
    from: number,
    columns = 'error',
    value = 'null',
  ) =>
    execute(`
      insert into descope.sync_windows (run_id, pull, from_time, to_time, state, gap_since, ${columns})
      select max(run_id), '${pull}', '2026-11-21T01:${from}:00Z', '2026-11-21T01:59:00Z', '${state}',
             case when '${state}' = 'gap' then timestamptz '2026-11-21T02:00:00Z' end, ${value}
      from descope.sync_runs`);

  test('a mirror without any has empty lists', async () => {
    expect(await status('gaps::int, gap_windows, last_runs')).toEqual({
      ...{ gaps: 0, gap_windows: [], last_runs: {} },
    });
  });

  test('a gap tells pull, range, since when and why; the oldest 20 are listed', async () => {
    await execute(`set timezone to 'UTC'`);
    await addRun('modified', 'complete');
    for (let at = 0; at < 21; at++) await addWindow('modified', 'gap', 31 - at, 'error', `'why'`);
    const told = await status<{ gaps: number; gap_windows: { from: string }[] }>(
      'gaps::int, gap_windows',
    );
    expect(told?.gaps).toBe(21);
    expect(told?.gap_windows).toHaveLength(20);
    expect(told?.gap_windows[0]).toMatchObject({ pull: 'modified', reason: 'why' });
    const instants = Object.values(told?.gap_windows[0] ?? {}).filter((text) => text.length > 20);
    expect(instants.map((text) => new Date(text).toISOString()).sort()).toEqual([
      '2026-11-21T01:11:00.000Z',
      '2026-11-21T01:59:00.000Z',
      '2026-11-21T02:00:00.000Z',
    ]);
  });

  test.each<[string, string, string, string, string]>([
    ['complete', 'proven', 'rows_read', '7', 'its window is proven'],
    ['blocked', 'gap', 'error', `'why'`, 'nothing of its window is'],
    ['partial', 'gap', 'cursor_time', 'clock_timestamp()', 'the beginning of its window is'],
  ])('a run of the modified pull is %s where %s', async (outcome, state, column, value) => {
    await addRun('modified', 'complete');
    await addWindow('modified', state, 10, column, value);
    // One under way tells nothing yet.
    await addRun('modified', 'complete');
    await addWindow('modified', 'open', 20);
    const told = await status<{ last_runs: unknown }>('last_runs');
    const reason = column === 'error' ? 'why' : null;
    expect(told?.last_runs).toMatchObject({ modified: { outcome, reason, run_id: 1 } });
  });

  test('a gap is one until it is proven, also while it is read again', async () => {
    await addRun('modified', 'complete');
    await addWindow('modified', 'gap', 10);
    await execute(`update descope.sync_windows set state = 'open'`);
    // One that is read for the first time is none.
    await addRun('modified', 'complete');
    await addWindow('modified', 'open', 20);
    const gap = { pull: 'modified', from: expect.stringContaining(':10:00') as string };
    const whileRead = await status(`gaps::int, gap_windows, last_runs -> 'modified' as last`);
    expect(whileRead).toMatchObject({
      ...{ gaps: 1, gap_windows: [gap], last: { outcome: 'blocked', run_id: 1 } },
    });
    await execute(
      `update descope.sync_windows set state = 'proven', proven_at = clock_timestamp()`,
    );
    expect(await status('gaps::int, gap_windows')).toEqual({ gaps: 0, gap_windows: [] });
  });

  test('the last run is the one that ended last, not the one that began last', async () => {
    await execute(`
      insert into descope.sync_runs
        (pull, reason, outcome, finished_at, missing, extra, different, rows_read, sampled)
      values ('verify', 'everyone', 'partial', clock_timestamp(), 3, 0, 0, 1000, null),
             ('verify', 'sample', 'complete', clock_timestamp() - interval '1 minute', 0, 0, 0, 1000, 100),
             ('sweep', 'backfill', 'complete', '2026-11-21T02:00Z', null, null, null, 0, null),
             ('sweep', 'schedule', 'partial', '2026-11-21T01:00Z', null, null, null, 0, null)`);
    const columns = 'drift_ppm, drift_sample, last_sweep_outcome, last_runs';
    expect(await status(columns)).toMatchObject({
      ...{ drift_ppm: 3_000, drift_sample: null, last_sweep_outcome: 'complete' },
      last_runs: {
        verify: { run_id: 1, reason: '3 missing, 0 extra, 0 different' },
        sweep: { run_id: 3 },
      },
    });
  });

  test('what a sample found is told as an estimate', async () => {
    await execute(`
      insert into descope.sync_runs
        (pull, reason, outcome, finished_at, missing, extra, different, rows_read, sampled)
      values ('verify', 'sample', 'partial', clock_timestamp(), 0, 1, 20, 1000, 100)`);
    expect(await status('drift_ppm, drift_sample, last_runs')).toMatchObject({
      ...{ drift_ppm: 21_000, drift_sample: 100 },
      last_runs: {
        verify: {
          reason: '0 missing, 1 extra, 20 different, estimated from counts and a sample of 100',
        },
      },
    });
  });

  test('sweeps and verifications say it themselves', async () => {
    await addRun('sweep', 'partial');
    await addWindow('sweep', 'proven', 10);
    await addRun('sweep', null);
    await addRun('verify', 'blocked');
    const told = await status<{ last_runs: unknown }>('last_runs');
    expect(told?.last_runs).toMatchObject({
      sweep: { outcome: 'partial', run_id: 1 },
      verify: { outcome: 'blocked', run_id: 3 },
    });
  });
});

test('no column that is read all the time makes Postgres read all events or windows', async () => {
  const { db, t } = database.mirror;
  await execute(`
    insert into descope.events (event_id, action, occurred_at, payload, received_at, state)
    select 'e' || n, 'UserModified', at, '{}', at, 'applied'
    from (select n, clock_timestamp() - n * interval '1 minute' as at
          from generate_series(1, 20000) as n) as moments`);
  await execute(`
    insert into descope.sync_windows (run_id, pull, from_time, state)
    select n, 'modified', clock_timestamp(), 'proven' from generate_series(1, 20000) as n`);
  await execute('vacuum analyze descope.events, descope.sync_windows');
  const plan = await rows<{ 'QUERY PLAN': string }>(
    db,
    sql`explain select as_of, lag, watermarks, gaps, loss_rate, webhook_delay, pending_events,
                       parked_events, held_deletions, gap_windows, last_runs
        from ${t.syncStatus}`,
  );
  const text = plan.map((line) => line['QUERY PLAN']).join('\n');
  expect(text).not.toMatch(/Seq Scan on (events|sync_windows)/);
});
