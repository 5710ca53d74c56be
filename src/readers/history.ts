import { sql } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';
import { foldHours, HISTORY_COLUMNS } from '../mirror/historyHours.ts';

import type { Instant } from '../observation.ts';

/** A minute or an hour: counts are of that time, the rest is as it was at its end. */
export interface HistoryPoint {
  /** When it began. */
  readonly at: Instant;
  /** Null before the first sweep has completed. */
  readonly lagSeconds: number | null;
  /** Of webhooks, over the hour before, 0 to 1; null where no event was expected. */
  readonly lossRate: number | null;
  readonly driftPpm: number | null;
  readonly gaps: number;
  readonly pendingEvents: number;
  readonly parkedEvents: number;
  readonly heldDeletions: number;
  readonly liveUsers: number;
  /** Events that came in, by who told of them first. */
  readonly byWebhook: number;
  readonly byAudit: number;
  readonly byArchive: number;
  readonly applied: number;
  /** Sent to Descope. */
  readonly requests: number;
  /** Answers of 429. */
  readonly throttled: number;
}

export interface History {
  readonly step: 'minute' | 'hour';
  /** Oldest first; none of times while no worker ran. */
  readonly points: readonly HistoryPoint[];
}

/** Longer stretches are told by the hour: the minutes before that are folded. */
export const MINUTES_UP_TO_HOURS = 48;

/** Where the mirror stood in the last so many hours; the hour under way is told as far as it has come. */
export async function readHistory(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  hours: number,
): Promise<History> {
  const step = hours <= MINUTES_UP_TO_HOURS ? 'minute' : 'hour';
  const minutes = sql`select ${HISTORY_COLUMNS} from ${t.statusHistory} where step = 'minute'`;
  const points =
    step === 'minute'
      ? minutes
      : sql`select ${HISTORY_COLUMNS} from ${t.statusHistory} where step = 'hour'
            union all ${foldHours(sql`(${minutes}) as minute`)}`;
  return {
    step,
    points: await rows<HistoryPoint>(
      db,
      sql`select ${asInstant(sql`at`)} as at, lag_seconds as "lagSeconds", loss_rate as "lossRate",
                 drift_ppm as "driftPpm", gaps, pending_events as "pendingEvents",
                 parked_events as "parkedEvents", held_deletions as "heldDeletions",
                 live_users::float8 as "liveUsers", by_webhook as "byWebhook", by_audit as "byAudit",
                 by_archive as "byArchive", applied, requests, throttled
          from (${points}) as point
          where point.at >= statement_timestamp() - make_interval(hours => ${hours})
          order by point.at`,
    ),
  };
}
