import { sql, type SQL } from 'drizzle-orm';

import { asInstant, rows, transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { foldHours, HISTORY_COLUMNS } from '../mirror/historyHours.ts';

import type { Instant } from '../observation.ts';

/*
 * In: what the mirror knows of itself. Out: `status_history`, a row a minute, after 48 hours a row an hour,
 * after 90 days none. Every process that works may call these at any time: a minute is written once.
 */

/** Deliveries that came in the last seconds of a minute are committed by then. */
const SETTLE_SECONDS = 5;
/** So long a minute keeps a row of its own. */
const MINUTES_KEPT_HOURS = 48;
const HOURS_KEPT_DAYS = 90;
/** Rows a call: an hour a call is what comes to it, more is left of a long standstill. */
const PRUNED_A_CALL = 100;

/** What was counted so far at the last row, in `learnt`: the budgets only know totals. */
const COUNTED = 'requestsCounted';

/** The one clock of all processes, unless a test drives it. */
const DATABASE_CLOCK = sql`statement_timestamp()`;

/**
 * Writes the row of the last whole minute, by the mirror database's clock, unless it is there. Returns
 * whether it was written by this call; of processes that ask at once, one writes and nobody waits.
 */
export async function recordMinute(
  mirror: Pick<Mirror, 'pool' | 'schema' | 't'>,
  now = DATABASE_CLOCK,
): Promise<boolean> {
  const { t } = mirror;
  return transaction(mirror, async (tx) => {
    const lock = `rollcall history ${t.schema.schemaName}`;
    const minute = sql`(date_trunc('minute', ${now} - make_interval(secs => ${SETTLE_SECONDS}))
      - interval '1 minute')`;
    const [last] = await rows<{ at: Instant; isOurs: boolean; isThere: boolean }>(
      tx,
      sql`select ${asInstant(minute)} as at,
                 pg_try_advisory_xact_lock(hashtextextended(${lock}, 0)) as "isOurs",
                 exists (select 1 from ${t.statusHistory}
                         where step = 'minute' and at = ${minute}) as "isThere"`,
    );
    if (!last?.isOurs || last.isThere) return false;
    return writeMinute(tx, mirror, last.at);
  });
}

/** One statement, begun after the lock was taken: what the row before counted is seen. */
async function writeMinute(tx: Executor, { t }: Pick<Mirror, 't'>, at: Instant): Promise<boolean> {
  const begin = sql`${at}::timestamptz`;
  const within = (column: string) =>
    sql`${sql.raw(column)} >= ${begin} and ${sql.raw(column)} < ${begin} + interval '1 minute'`;
  const written = await rows(
    tx,
    sql`
      with sent as (
        select coalesce(sum(granted), 0) as requests, coalesce(sum(throttled), 0) as throttled
        from ${t.budgets}
      ), before as (
        select (value ->> 'requests')::bigint as requests, (value ->> 'throttled')::bigint as throttled,
               greatest(1, extract(epoch from ${begin} - (value ->> 'at')::timestamptz) / 60) as minutes
        from ${t.learnt} where name = ${COUNTED}
      ), told as (
        select count(*) filter (where webhook_at = first_at) as by_webhook,
               count(*) filter (where audit_at = first_at and webhook_at is distinct from first_at)
                 as by_audit,
               count(*) filter (where audit_at is distinct from first_at
                                  and webhook_at is distinct from first_at) as by_archive
        from (select webhook_at, audit_at, least(webhook_at, audit_at, archive_at) as first_at
              from ${t.events} where ${within('received_at')}) as event
      ), written as (
        insert into ${t.statusHistory} (${HISTORY_COLUMNS})
        select 'minute', ${begin}, extract(epoch from lag), loss_rate, drift_ppm, gaps,
          pending_events, parked_events, held_deletions,
          -- Over indexes alone, as the status counts them: live ones alone would be read from the table.
          (select count(*) from ${t.users})
            - (select count(*) from ${t.users} where deleted_at is not null),
          by_webhook, by_audit, by_archive,
          (select count(*) from ${t.events} where ${within('applied_at')}),
          ${sinceBefore('requests')}, ${sinceBefore('throttled')}
        from ${t.syncStatus}, told
        on conflict do nothing returning 1
      ), counted as (
        insert into ${t.learnt} (name, value)
        select ${COUNTED}, jsonb_build_object('at', ${at}::text, 'requests', sent.requests,
                                              'throttled', sent.throttled)
        from sent, written
        on conflict (name) do update set value = excluded.value, learnt_at = clock_timestamp()
      )
      select 1 from written`,
  );
  return written.length > 0;
}

/**
 * What was added since the row before: a minute's, though one that ends some seconds later. After a standstill nobody knows in which of its minutes: a minute's
 * share of it. Nothing where there is no row before, or the budgets were begun anew.
 */
function sinceBefore(column: 'requests' | 'throttled'): SQL {
  const name = sql.raw(column);
  return sql`coalesce((select greatest(0, round((sent.${name} - before.${name}) / before.minutes))
            from sent, before), 0)`;
}

/**
 * Makes one row of the oldest hour whose minutes are all older than 48 hours, and returns how many
 * minutes that took. They go in the same statement: none is counted twice.
 */
export async function rollUpHour(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  now = DATABASE_CLOCK,
): Promise<number> {
  const [folded] = await rows<{ minutes: number }>(
    db,
    sql`
      with oldest as (
        select date_trunc('hour', min(at), 'UTC') as at from ${t.statusHistory} where step = 'minute'
      ), minutes as (
        delete from ${t.statusHistory} as h using oldest
        where h.step = 'minute' and h.at >= oldest.at and h.at < oldest.at + interval '1 hour'
          and oldest.at <= ${now} - make_interval(hours => ${MINUTES_KEPT_HOURS + 1})
        returning h.*
      ), folded as (
        insert into ${t.statusHistory} (${HISTORY_COLUMNS}) ${foldHours(sql`minutes`)}
        on conflict do nothing
      )
      select count(*)::int as minutes from minutes`,
  );
  return folded?.minutes ?? 0;
}

/** Removes hours older than 90 days, a hundred a call, and returns how many. */
export async function pruneHistory(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  now = DATABASE_CLOCK,
): Promise<number> {
  const pruned = await rows(
    db,
    sql`
      delete from ${t.statusHistory} where (step, at) in (
        select step, at from ${t.statusHistory}
        where step = 'hour' and at < ${now} - make_interval(days => ${HOURS_KEPT_DAYS})
        order by at limit ${PRUNED_A_CALL})
      returning 1`,
  );
  return pruned.length;
}
