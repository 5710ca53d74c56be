import { sql, type SQL } from 'drizzle-orm';

import type { PgTable } from 'drizzle-orm/pg-core';

type Tables = Record<'events' | 'watermarks' | 'syncRuns' | 'syncWindows' | 'deletions', PgTable>;

/** Of the gaps, so many are listed, the oldest; a pull that fails for hours leaves one a minute. */
const GAPS_LISTED = 20;

/**
 * The view `sync_status`: one row. New columns go to its end: only so can a migration replace the view
 * instead of dropping it, with the grants and views of others that hang on it.
 *
 * Complete as of: both the modified pull (creations, changes) and the audit pull (deletions) vouch for
 * everything up to the older of their watermarks, or up to the oldest event that is not yet applied, a
 * complete sweep for everything up to its own. Null until a first sweep has completed, since before that
 * nothing is complete.
 *
 * Lost: an event the audit trail told of and no webhook, half a minute later. Old ones, found when a
 * pull began its coverage, do not count: nobody was listening then.
 *
 * Gap: a window that once was not proven, until it is, also while it is read again. The last run is the
 * one that ended last: a long one may have begun before others that are over.
 *
 * Delay: from the event to its first delivery, the median. Chosen by when the event was first told of,
 * by whichever witness, since that is indexed. An index can only be asked for a time that stands still:
 * by `clock_timestamp()` Postgres would read every event.
 */
export function syncStatusQuery(t: Tables): SQL {
  const audited = (span: string) =>
    sql`where audit_at is not null and state <> 'archived'
          and audit_at < statement_timestamp() - interval '30 seconds'
          and received_at > statement_timestamp() - ${sql.raw(`interval '${span}'`)}
          and occurred_at > statement_timestamp() - ${sql.raw(`interval '${span}'`)}`;
  const lossRate = (span: string) =>
    sql`(select avg((webhook_at is null)::int)::double precision from ${t.events} ${audited(span)})`;
  const delay = (span: string) =>
    sql`(select percentile_cont(0.5) within group (order by webhook_at - occurred_at)
   from ${t.events} where webhook_at is not null
     and received_at > statement_timestamp() - ${sql.raw(`interval '${span}'`)})`;
  const completeTo = (pull: string) =>
    sql`(select complete_to from ${t.watermarks} where pull = ${sql.raw(`'${pull}'`)})`;
  const lastComplete = (pull: string, only = '') =>
    sql`(select finished_at from ${t.syncRuns}
   where pull = ${sql.raw(`'${pull}'`)} and outcome = 'complete' ${sql.raw(only)}
   order by finished_at desc limit 1)`;
  const lastMeasured = (what: string) =>
    sql`(select ${sql.raw(what)}
   from ${t.syncRuns} where pull = 'verify' and missing is not null
   order by finished_at desc limit 1)`;
  // One state each: that is what the indexes hold.
  const oldest = (state: string) =>
    sql`(select min(occurred_at) from ${t.events} where state = ${sql.raw(`'${state}'`)})`;
  return sql`
select
  proven.as_of,
  clock_timestamp() - proven.as_of as lag,
  (select coalesce(jsonb_object_agg(pull, complete_to), '{}'::jsonb) from ${t.watermarks}) as watermarks,
  (select count(*) from ${t.syncWindows} where ${IS_GAP}) as gaps,
  ${lossRate('1 hour')} as loss_rate,
  ${lossRate('1 day')} as loss_rate_day,
  ${delay('1 hour')} as webhook_delay,
  (select count(*) from ${t.events} where state = 'pending') as pending_events,
  (select count(*) from ${t.events} where state = 'parked') as parked_events,
  (select count(*) from ${t.deletions} where state = 'held') as held_deletions,
  sweep.finished_at as last_sweep,
  sweep.outcome as last_sweep_outcome,
  greatest(${lastComplete('sweep')}, ${lastComplete('verify', "and reason = 'everyone'")}) as last_proof,
  ${lastMeasured('(missing + extra + different) * 1000000.0 / greatest(rows_read, 1)')}::double precision as drift_ppm,
  ${delay('1 day')} as webhook_delay_day,
  ${gapWindows(t)} as gap_windows,
  ${lastRuns(t)} as last_runs,
  ${lastMeasured('sampled')} as drift_sample
from (
  select case when ${completeTo('sweep')} is not null then
    greatest(${completeTo('sweep')}, least(${completeTo('modified')}, ${completeTo('audit')},
      ${oldest('pending')}, ${oldest('parked')}))
  end as as_of
) as proven
left join lateral (
  select finished_at, outcome from ${t.syncRuns}
  where pull = 'sweep' and outcome is not null order by finished_at desc limit 1
) as sweep on true`;
}

/** Windows given up before the mirror kept `gap_since` have the state alone. */
const IS_GAP = sql.raw(`state <> 'proven' and (state = 'gap' or gap_since is not null)`);

/** The oldest gaps, as a list: which pull, from, to (null: towards now), a gap since when, and why. */
function gapWindows(t: Tables): SQL {
  return sql`(select coalesce(jsonb_agg(jsonb_build_object('pull', pull, 'from', from_time,
      'to', to_time, 'since', since, 'reason', error) order by from_time, window_id), '[]'::jsonb)
   from (select window_id, pull, from_time, to_time, coalesce(gap_since, updated_at) as since, error
         from ${t.syncWindows} where ${IS_GAP}
         order by from_time, window_id limit ${sql.raw(String(GAPS_LISTED))}) as gap)`;
}

/**
 * Per pull, how its last run that is over ended: complete, partial or blocked, when, and why. A run of
 * the modified or audit pull is one window, and ended as that did: blocked where nothing of it is
 * proven, partial where its beginning is.
 */
function lastRuns(t: Tables): SQL {
  return sql`(select coalesce(jsonb_object_agg(pull, jsonb_build_object('run_id', run_id,
      'outcome', outcome, 'at', at, 'reason', reason)), '{}'::jsonb)
   from unnest(array['audit', 'modified', 'sweep', 'verify']) as pulls(name)
   cross join lateral (
     select r.pull, r.run_id,
       case when w.state = 'proven' then 'complete'
         when w.state is null then r.outcome
         when w.cursor_time is null then 'blocked' else 'partial' end as outcome,
       coalesce(w.proven_at, w.updated_at, r.finished_at) as at, coalesce(w.error, r.error,
         case when r.pull = 'verify' and r.outcome = 'partial' then
           concat(r.missing, ' missing, ', r.extra, ' extra, ', r.different, ' different',
             ', estimated from counts and a sample of ' || r.sampled) end) as reason
     from ${t.syncRuns} r
     left join ${t.syncWindows} w on w.run_id = r.run_id and r.pull in ('modified', 'audit')
     where r.pull = pulls.name and r.outcome is not null
       and (w.state is distinct from 'open' or w.gap_since is not null)
     order by r.finished_at desc, r.run_id desc limit 1) as run)`;
}
