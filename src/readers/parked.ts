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

/** An event given up; no personal data but user ids. */
export interface ParkedEvent {
  readonly eventId: string;
  readonly action: string;
  readonly userIds: readonly string[];
  readonly occurredAt: Instant;
  readonly attempts: number;
  readonly error: string | null;
}

export interface ParkedEvents {
  /** Parked, whether listed or not. */
  readonly total: number;
  readonly events: readonly ParkedEvent[];
}

/** The events given up, the first `most` of them, newest first. */
export async function listParked(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  most: number,
): Promise<ParkedEvents> {
  const [counted] = await rows<{ total: number }>(
    db,
    sql`select count(*)::int as total from ${t.events} where state = 'parked'`,
  );
  const events = await rows<ParkedEvent>(
    db,
    sql`select event_id as "eventId", action, user_ids as "userIds",
               ${asInstant(sql`occurred_at`)} as "occurredAt", attempts, error
        from ${t.events} where state = 'parked' order by seq desc limit ${most}`,
  );
  return { total: counted?.total ?? 0, events };
}
