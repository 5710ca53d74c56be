import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { rows } from '../../src/mirror/database.ts';
import { pruneLedger } from '../../src/pull/prune.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase();
});
afterEach(() => database.drop());

/** In so many steps at most. */
const prune = (steps = 10) => pruneLedger(database.mirror, steps, new AbortController().signal);

const execute = (statement: string) => database.mirror.db.execute(sql.raw(statement));

/** A run that ended so many days ago, with one window. */
async function addRun(
  name: string,
  days: number,
  {
    pull = 'modified',
    reason = 'schedule',
    outcome = 'complete',
    state = 'proven',
  }: { pull?: string; reason?: string; outcome?: string | null; state?: string } = {},
) {
  await execute(`
    with run as (
      insert into descope.sync_runs (pull, reason, outcome, finished_at, error)
      values ('${pull}', '${reason}', ${outcome === null ? 'null' : `'${outcome}'`},
              ${outcome === null ? 'null' : `clock_timestamp() - interval '${days} days'`}, '${name}')
      returning run_id, finished_at)
    insert into descope.sync_windows (run_id, pull, from_time, state, proven_at, gap_since, error)
    select run_id, '${pull}', clock_timestamp() - interval '${days} days', '${state}', finished_at,
           case when '${state}' = 'gap' then clock_timestamp() end, '${name}' from run`);
}

/** Names of the runs left, and of the windows. */
async function left(): Promise<{ runs: string[]; windows: string[] }> {
  const { db, t } = database.mirror;
  const names = async (table: typeof t.syncRuns | typeof t.syncWindows) => {
    const found = await rows<{ error: string }>(db, sql`select error from ${table} order by 1`);
    return found.map(({ error }) => error);
  };
  return { runs: await names(t.syncRuns), windows: await names(t.syncWindows) };
}

describe('pruneLedger', () => {
  it('removes what ended 30 days ago, with its windows, and keeps what tells where the mirror stands', async () => {
    await addRun('old', 31);
    await addRun('older', 300);
    await addRun('gap', 40, { state: 'gap' });
    await addRun('refilled', 40, { state: 'open' });
    await addRun('fresh', 29);
    await addRun('sweep before', 50, { pull: 'sweep' });
    await addRun('last sweep', 40, { pull: 'sweep' });
    await addRun('sweep under way', 60, { pull: 'sweep', outcome: null });
    await addRun('last proof', 90, { pull: 'verify', reason: 'everyone' });
    await addRun('last drift', 80, { pull: 'verify', reason: 'everyone', outcome: 'partial' });
    await addRun('sample', 35, { pull: 'verify', reason: 'sample' });
    await addRun('last sample', 1, { pull: 'verify', reason: 'sample' });
    expect(await prune()).toBe(4);
    const kept = ['fresh', 'gap', 'last drift', 'last proof', 'last sample', 'last sweep'];
    const names = [...kept, 'refilled', 'sweep under way'];
    expect(await left()).toEqual({ runs: names, windows: names });
    expect(await prune()).toBe(0);
  });

  it('takes small steps, the oldest first, and two at once do no harm', async () => {
    await execute(`
      insert into descope.sync_runs (pull, reason, outcome, finished_at)
      select 'audit', 'schedule', 'complete', clock_timestamp() - n * interval '1 minute'
      from generate_series(1, 45000) as n order by n desc`);
    expect(await prune(1)).toBe(1_000);
    await Promise.all([prune(), prune()]);
    await prune();
    const { runs } = await left();
    expect(runs.length).toBeGreaterThan(43_190);
    expect(runs.length).toBeLessThanOrEqual(43_200);
  });
});
