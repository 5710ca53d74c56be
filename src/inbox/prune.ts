import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

type Db = Pick<Mirror, 'db' | 't'>;

/** A statement is short, and what it locks nobody waits for long. */
const EVENTS_A_STEP = 1_000;
/** An audit pull begins its overlap behind its watermark: `PULL_OVERLAP_SECONDS`, a day at most. */
export const REREAD_HOURS = 25;

/**
 * Removes events received more than `days` ago, the oldest first, in at most `steps` steps of 1,000, and
 * returns how many. Safe to run twice, and side by side.
 *
 * What is still to do stays, however old: events that are pending or parked. So does what a figure of
 * the last hour or day counts, since all of them were received or applied since then.
 *
 * No pruned event comes back as a new one. The audit pull goes on from its watermark, however long it was
 * down, less the overlap of a day at most, and a watermark never goes back; events from 25 hours before
 * it on stay. While that pull is off or fails its watermark stands still, until a sweep moves it to where
 * the audit trail begins: then events stay for the 30 days that the trail reaches back, and until a
 * first sweep has begun all of them do. Only an archive imported again brings them back, as it is asked to.
 * @throws Stopping between two steps
 */
export async function pruneEvents(
  mirror: Db,
  { days, steps }: { readonly days: number; readonly steps: number },
  signal: AbortSignal,
): Promise<number> {
  let pruned = 0;
  // What a step has left, as it must, the next ones need not look at again.
  let from: Instant = '-infinity';
  for (let step = 0; step < steps; step++) {
    if (signal.aborted) throw new Stopping();
    const done = await pruneStep(mirror, days, from);
    pruned += done.count;
    if (done.last === null || done.count < EVENTS_A_STEP) break;
    from = done.last;
  }
  return pruned;
}

async function pruneStep(
  { db, t }: Db,
  days: number,
  from: Instant,
): Promise<{ count: number; last: Instant | null }> {
  const [done] = await rows<{ count: number; last: Instant | null }>(
    db,
    // What another transaction has locked is left to the next run: whoever waits could wait in a circle.
    sql`
      with pruned as (
        delete from ${t.events} where ctid = any(array(
          select ctid from ${t.events}
          where received_at >= ${from}::timestamptz
            and received_at < statement_timestamp() - make_interval(days => ${days})
            and state in ('applied', 'archived')
            and (applied_at is null or applied_at < statement_timestamp() - interval '1 day')
            and occurred_at < (select complete_to from ${t.watermarks} where pull = 'audit')
                              - make_interval(hours => ${REREAD_HOURS})
          order by received_at limit ${EVENTS_A_STEP} for update skip locked))
        returning received_at)
      select count(*)::int as count, ${asInstant(sql`max(received_at)`)} as last from pruned`,
  );
  return done ?? { count: 0, last: null };
}
