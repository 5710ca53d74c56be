import { sql, type SQL } from 'drizzle-orm';

import { rows, textArray, type Mirror } from '../mirror/database.ts';

/* What a person decides on deliveries that were given up, and on endpoints that were stopped. */

type Db = Pick<Mirror, 'db' | 't' | 'schema'>;

/**
 * Puts parked deliveries back, all of them or those of the users that these are about: in order, with all
 * their attempts before them. Returns how many.
 */
export async function replayParked({ db, t }: Db, ids: readonly string[]): Promise<number> {
  const replayed = await rows(db, sql`${putBack(t)} and ${ofSameUsers(t, ids)} returning 1`);
  return replayed.length;
}

/**
 * Gives parked deliveries up for good, all of them or these; what was parked behind them goes on.
 * Returns how many were dropped.
 */
export async function dropParked({ db, t }: Db, ids: readonly string[]): Promise<number> {
  const [done] = await rows<{ dropped: number }>(
    db,
    sql`with dropped as (
          update ${t.outgoingDeliveries} set state = 'dropped', ended_at = clock_timestamp()
          where state = 'parked' and ${isOneOf(ids)} returning 1),
        put_back as (
          ${putBack(t)} and ${ofSameUsers(t, ids)} and not ${isOneOf(ids)} returning 1)
        select count(*)::int as dropped from dropped`,
  );
  return done?.dropped ?? 0;
}

/**
 * Lets endpoints go on that were disabled or cut off, all of them or these. One that was cut off begins anew
 * with what happens from now on: its receiver needs a snapshot. Returns their ids.
 */
export async function resumeEndpoints(
  { db, t, schema }: Db,
  endpointIds: readonly string[],
): Promise<string[]> {
  const [row] = await rows<{ head: string }>(
    db,
    sql`select ${sql.identifier(schema)}.feed_head() as head`,
  );
  const resumed = await rows<{ endpointId: string }>(
    db,
    sql`update ${t.outgoingEndpoints}
        set cursor = case when state = 'cut off' then ${row?.head ?? '0-0'} else cursor end,
            state = 'active', reason = null, changed_at = clock_timestamp()
        where state in ('disabled', 'cut off')
          and (${endpointIds.length === 0} or endpoint_id = any(${textArray(endpointIds)}))
        returning endpoint_id as "endpointId"`,
  );
  return resumed.map(({ endpointId }) => endpointId);
}

function putBack(t: Mirror['t']): SQL {
  return sql`
    update ${t.outgoingDeliveries}
    set state = 'waiting', attempts = 0, due_at = clock_timestamp(), taken_until = null,
        ended_at = null
    where state = 'parked'`;
}

function isOneOf(ids: readonly string[]): SQL {
  return sql`(${ids.length === 0} or delivery_id = any(${sql.param(ids)}::bigint[]))`;
}

function ofSameUsers(t: Mirror['t'], ids: readonly string[]): SQL {
  return sql`(${ids.length === 0} or (endpoint_id, user_id) in (
    select endpoint_id, user_id from ${t.outgoingDeliveries}
    where delivery_id = any(${sql.param(ids)}::bigint[])))`;
}
