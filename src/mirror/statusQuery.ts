import { sql, type SQL } from 'drizzle-orm';

import type { PgTable } from 'drizzle-orm/pg-core';

type Tables = Record<'events' | 'watermarks' | 'syncRuns' | 'syncWindows' | 'deletions', PgTable>;

/**
 * The view `sync_status`: one row.
 *
 * Complete as of: both the modified pull (creations, changes) and the audit pull (deletions) vouch for
 * everything up to the older of their watermarks, or up to the oldest event that is not yet applied, a complete sweep for everything up to its own. Null
 * until a first sweep has completed, since before that nothing is complete.
 *
 * Lost: an event the audit trail told of and no webhook, half a minute later. Old ones, found when a
 * pull began its coverage, do not count: nobody was listening then.
 */
export function syncStatusQuery(t: Tables): SQL {
  const audited = (span: string) =>
    sql`where audit_at is not null and state <> 'archived'
          and audit_at < clock_timestamp() - interval '30 seconds'
          and received_at > clock_timestamp() - ${sql.raw(`interval '${span}'`)}
          and occurred_at > clock_timestamp() - ${sql.raw(`interval '${span}'`)}`;
  const lossRate = (span: string) =>
    sql`(select avg((webhook_at is null)::int)::double precision from ${t.events} ${audited(span)})`;
  const completeTo = (pull: string) =>
    sql`(select complete_to from ${t.watermarks} where pull = ${sql.raw(`'${pull}'`)})`;
  return sql`
select
  proven.as_of,
  clock_timestamp() - proven.as_of as lag,
  (select coalesce(jsonb_object_agg(pull, complete_to), '{}'::jsonb) from ${t.watermarks}) as watermarks,
  (select count(*) from ${t.syncWindows} where state = 'gap') as gaps,
  ${lossRate('1 hour')} as loss_rate,
  ${lossRate('1 day')} as loss_rate_day,
  (select percentile_cont(0.5) within group (order by webhook_at - occurred_at)
   from ${t.events} where webhook_at > clock_timestamp() - interval '1 hour') as webhook_delay,
  (select count(*) from ${t.events} where state = 'pending') as pending_events,
  (select count(*) from ${t.events} where state = 'parked') as parked_events,
  (select count(*) from ${t.deletions} where state = 'held') as held_deletions,
  sweep.finished_at as last_sweep,
  sweep.outcome as last_sweep_outcome,
  (select max(finished_at) from ${t.syncRuns}
   where outcome = 'complete' and (pull = 'sweep' or (pull = 'verify' and reason = 'everyone')))
   as last_proof,
  (select (missing + extra + different) * 1000000.0 / greatest(rows_read, 1)
   from ${t.syncRuns} where pull = 'verify' and missing is not null
   order by run_id desc limit 1)::double precision as drift_ppm
from (
  select case when ${completeTo('sweep')} is not null then
    greatest(${completeTo('sweep')}, least(${completeTo('modified')}, ${completeTo('audit')},
      (select min(occurred_at) from ${t.events} where state in ('pending', 'parked'))))
  end as as_of
) as proven
left join lateral (
  select finished_at, outcome from ${t.syncRuns}
  where pull = 'sweep' and outcome is not null order by run_id desc limit 1
) as sweep on true`;
}
