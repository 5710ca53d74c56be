import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { rows, type Mirror } from '../mirror/database.ts';

const DELIVERIES_A_STEP = 1_000;

/**
 * Removes from the log what ended more than `days` ago, delivered, dropped or parked, and what was to go to
 * an endpoint that has not been set for as long; in at most `steps` steps of 1,000. Returns how many. Behind a
 * parked one that is gone the user's later ones go on. Safe to run twice, and side by side.
 * @throws Stopping between two steps
 */
export async function pruneDeliveries(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  { days, steps }: { readonly days: number; readonly steps: number },
  signal: AbortSignal,
): Promise<number> {
  const before = sql`statement_timestamp() - make_interval(days => ${days})`;
  let pruned = 0;
  for (let step = 0; step < steps; step++) {
    if (signal.aborted) throw new Stopping();
    const gone = await rows(
      db,
      sql`delete from ${t.outgoingDeliveries} where delivery_id = any(array(
            select d.delivery_id from ${t.outgoingDeliveries} d
            where d.ended_at < ${before}
               or d.ended_at is null and d.endpoint_id = any(array(
                    select endpoint_id from ${t.outgoingEndpoints}
                    where state = 'removed' and changed_at < ${before}))
            limit ${DELIVERIES_A_STEP} for update skip locked))
          returning 1`,
    );
    pruned += gone.length;
    if (gone.length < DELIVERIES_A_STEP) break;
  }
  return pruned;
}
