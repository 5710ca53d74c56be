ALTER TABLE "descope"."sync_runs" ADD COLUMN "sampled" integer;--> statement-breakpoint
CREATE INDEX "events_applied" ON "descope"."events" USING btree ("applied_at") WHERE applied_at is not null;--> statement-breakpoint
CREATE INDEX "sync_runs_finished" ON "descope"."sync_runs" USING btree ("pull","finished_at");--> statement-breakpoint
CREATE INDEX "sync_windows_from" ON "descope"."sync_windows" USING btree ("pull","from_time");--> statement-breakpoint
CREATE INDEX "users_live_created" ON "descope"."users" USING btree ("created_time","test") WHERE deleted_at is null;--> statement-breakpoint
-- Replaced, not dropped: grants on it and views of others that read it stay. That allows new columns at its end only.
CREATE OR REPLACE VIEW "descope"."sync_status" AS (
select
  proven.as_of,
  clock_timestamp() - proven.as_of as lag,
  (select coalesce(jsonb_object_agg(pull, complete_to), '{}'::jsonb) from "descope"."watermarks") as watermarks,
  (select count(*) from "descope"."sync_windows" where state <> 'proven' and (state = 'gap' or gap_since is not null)) as gaps,
  (select avg((webhook_at is null)::int)::double precision from "descope"."events" where audit_at is not null and state <> 'archived'
          and audit_at < statement_timestamp() - interval '30 seconds'
          and received_at > statement_timestamp() - interval '1 hour'
          and occurred_at > statement_timestamp() - interval '1 hour') as loss_rate,
  (select avg((webhook_at is null)::int)::double precision from "descope"."events" where audit_at is not null and state <> 'archived'
          and audit_at < statement_timestamp() - interval '30 seconds'
          and received_at > statement_timestamp() - interval '1 day'
          and occurred_at > statement_timestamp() - interval '1 day') as loss_rate_day,
  (select percentile_cont(0.5) within group (order by webhook_at - occurred_at)
   from "descope"."events" where webhook_at is not null
     and received_at > statement_timestamp() - interval '1 hour') as webhook_delay,
  (select count(*) from "descope"."events" where state = 'pending') as pending_events,
  (select count(*) from "descope"."events" where state = 'parked') as parked_events,
  (select count(*) from "descope"."deletions" where state = 'held') as held_deletions,
  sweep.finished_at as last_sweep,
  sweep.outcome as last_sweep_outcome,
  greatest((select finished_at from "descope"."sync_runs"
   where pull = 'sweep' and outcome = 'complete' 
   order by finished_at desc limit 1), (select finished_at from "descope"."sync_runs"
   where pull = 'verify' and outcome = 'complete' and reason = 'everyone'
   order by finished_at desc limit 1)) as last_proof,
  (select (missing + extra + different) * 1000000.0 / greatest(rows_read, 1)
   from "descope"."sync_runs" where pull = 'verify' and missing is not null
   order by finished_at desc limit 1)::double precision as drift_ppm,
  (select percentile_cont(0.5) within group (order by webhook_at - occurred_at)
   from "descope"."events" where webhook_at is not null
     and received_at > statement_timestamp() - interval '1 day') as webhook_delay_day,
  (select coalesce(jsonb_agg(jsonb_build_object('pull', pull, 'from', from_time,
      'to', to_time, 'since', since, 'reason', error) order by from_time, window_id), '[]'::jsonb)
   from (select window_id, pull, from_time, to_time, coalesce(gap_since, updated_at) as since, error
         from "descope"."sync_windows" where state <> 'proven' and (state = 'gap' or gap_since is not null)
         order by from_time, window_id limit 20) as gap) as gap_windows,
  (select coalesce(jsonb_object_agg(pull, jsonb_build_object('run_id', run_id,
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
     from "descope"."sync_runs" r
     left join "descope"."sync_windows" w on w.run_id = r.run_id and r.pull in ('modified', 'audit')
     where r.pull = pulls.name and r.outcome is not null
       and (w.state is distinct from 'open' or w.gap_since is not null)
     order by r.finished_at desc, r.run_id desc limit 1) as run) as last_runs,
  (select sampled
   from "descope"."sync_runs" where pull = 'verify' and missing is not null
   order by finished_at desc limit 1) as drift_sample
from (
  select case when (select complete_to from "descope"."watermarks" where pull = 'sweep') is not null then
    greatest((select complete_to from "descope"."watermarks" where pull = 'sweep'), least((select complete_to from "descope"."watermarks" where pull = 'modified'), (select complete_to from "descope"."watermarks" where pull = 'audit'),
      (select min(occurred_at) from "descope"."events" where state = 'pending'), (select min(occurred_at) from "descope"."events" where state = 'parked')))
  end as as_of
) as proven
left join lateral (
  select finished_at, outcome from "descope"."sync_runs"
  where pull = 'sweep' and outcome is not null order by finished_at desc limit 1
) as sweep on true);