import { sql, type SQL } from 'drizzle-orm';

import { rows, textArray, type Mirror } from '../mirror/database.ts';

/* What a person decides on deliveries that were given up, and on endpoints that were stopped. */

type Db = Pick<Mirror, 'db' | 't' | 'schema'>;

/**
 * Puts parked deliveries back, all of them or these, with all their attempts before them; the later ones of
 * their users follow. Returns how many.
 */
export async function replayParked({ db, t }: Db, ids: readonly string[]): Promise<number> {
  const replayed = await rows(
    db,
    sql`update ${t.outgoingDeliveries}
        set state = 'waiting', attempts = 0, due_at = clock_timestamp(), ended_at = null
        where state = 'parked' and ${isOneOf(ids)} returning 1`,
  );
  return replayed.length;
}

/**
 * Gives parked deliveries up for good, all of them or these; the later ones of their users go on.
 * Returns how many were dropped.
 */
export async function dropParked({ db, t }: Db, ids: readonly string[]): Promise<number> {
  const dropped = await rows(
    db,
    sql`update ${t.outgoingDeliveries} set state = 'dropped', ended_at = clock_timestamp()
        where state = 'parked' and ${isOneOf(ids)} returning 1`,
  );
  return dropped.length;
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

function isOneOf(ids: readonly string[]): SQL {
  return sql`(${ids.length === 0} or delivery_id = any(${sql.param(ids)}::bigint[]))`;
}
