import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { rows, type Mirror } from '../mirror/database.ts';

/** How long runs and their windows are kept. */
const KEPT_DAYS = 30;
/** A minute's pulls make 2,880 runs a day, and a step must be short. */
const RUNS_A_STEP = 1_000;

/**
 * Removes from the ledger runs that ended more than 30 days ago, with their windows, the oldest first, in
 * at most `steps` steps of 1,000, and returns how many. What tells where the mirror stands stays: every
 * window that is not proven, with its run, and of each pull the newest run of each outcome,
 * verifications of everyone apart. Safe to run twice, and side by side.
 * @throws Stopping between two steps
 */
export async function pruneLedger(
  mirror: Pick<Mirror, 'db' | 't'>,
  steps: number,
  signal: AbortSignal,
): Promise<number> {
  let pruned = 0;
  for (let step = 0; step < steps; step++) {
    if (signal.aborted) throw new Stopping();
    const runs = await pruneStep(mirror);
    pruned += runs;
    if (runs < RUNS_A_STEP) break;
  }
  return pruned;
}

async function pruneStep({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<number> {
  const pruned = await rows(
    db,
    sql`
      with old as (
        select run_id from ${t.syncRuns} r
        where finished_at < statement_timestamp() - make_interval(days => ${KEPT_DAYS})
          and not exists (select 1 from ${t.syncWindows} w
                          where w.run_id = r.run_id and w.state <> 'proven')
          and exists (select 1 from ${t.syncRuns} newer
                      where newer.pull = r.pull and newer.finished_at > r.finished_at
                        and newer.outcome = r.outcome
                        and (newer.reason = 'everyone') = (r.reason = 'everyone'))
        order by run_id limit ${RUNS_A_STEP} for update skip locked),
      windows as (delete from ${t.syncWindows} where run_id in (select run_id from old))
      delete from ${t.syncRuns} where run_id in (select run_id from old) returning 1`,
  );
  return pruned.length;
}
