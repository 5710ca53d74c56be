import { sql } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/** Events given up for one and the same reason. */
export interface ParkedReason {
  readonly reason: string;
  readonly events: number;
  readonly firstReceivedAt: Instant;
  readonly lastReceivedAt: Instant;
}

/** Why events were given up, the newest reason first. */
export async function listParkedReasons(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  most: number,
): Promise<ParkedReason[]> {
  return rows<ParkedReason>(
    db,
    sql`select coalesce(error, 'no reason told') as reason, count(*)::int as events,
               ${asInstant(sql`min(received_at)`)} as "firstReceivedAt",
               ${asInstant(sql`max(received_at)`)} as "lastReceivedAt"
        from ${t.events} where state = 'parked'
        group by 1 order by max(due_at) desc, 1 limit ${most}`,
  );
}
