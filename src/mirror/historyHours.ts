import { sql, type SQL } from 'drizzle-orm';

/** The columns of `status_history`, in the order `foldHours` selects them. */
export const HISTORY_COLUMNS = sql.raw(
  `step, at, lag_seconds, loss_rate, drift_ppm, gaps, pending_events, parked_events, held_deletions,
   live_users, by_webhook, by_audit, by_archive, applied, requests, throttled`,
);

/** How things were at the end. */
const AT_END = [
  ...['lag_seconds', 'loss_rate', 'drift_ppm', 'gaps', 'pending_events', 'parked_events'],
  ...['held_deletions', 'live_users'],
];
/** What happened meanwhile. */
const COUNTED = ['by_webhook', 'by_audit', 'by_archive', 'applied', 'requests', 'throttled'];

/** A query for the hours of these minutes (`minutes`: something with a row a minute, of status_history). */
export function foldHours(minutes: SQL): SQL {
  const columns = [
    ...AT_END.map((name) => `(array_agg(${name} order by at desc))[1] as ${name}`),
    ...COUNTED.map((name) => `sum(${name})::int as ${name}`),
  ];
  // Of UTC, whatever zone the session has: some zones' hours begin at half past.
  return sql`select 'hour' as step, date_trunc('hour', at, 'UTC') as at, ${sql.raw(columns.join(', '))}
    from ${minutes} group by date_trunc('hour', at, 'UTC')`;
}
