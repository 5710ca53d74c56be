CREATE SCHEMA "descope";
--> statement-breakpoint
CREATE TABLE "descope"."budgets" (
	"name" text PRIMARY KEY NOT NULL,
	"next_at" timestamp with time zone NOT NULL,
	"silent_until" timestamp with time zone,
	"granted" bigint DEFAULT 0 NOT NULL,
	"throttled" bigint DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE "descope"."deletions" (
	"deletion_id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "descope"."deletions_deletion_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"user_id" text NOT NULL,
	"state" text NOT NULL,
	"witness" text NOT NULL,
	"run_id" bigint,
	"event_id" text,
	"nominated_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"verified_at" timestamp with time zone,
	"decided_at" timestamp with time zone,
	"evidence" text
);
--> statement-breakpoint
CREATE TABLE "descope"."events" (
	"event_id" text PRIMARY KEY NOT NULL,
	"seq" bigint GENERATED ALWAYS AS IDENTITY (sequence name "descope"."events_seq_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"action" text NOT NULL,
	"occurred_at" timestamp with time zone NOT NULL,
	"user_ids" text[] DEFAULT '{}'::text[] NOT NULL,
	"login_ids" text[] DEFAULT '{}'::text[] NOT NULL,
	"actor_id" text,
	"tenant_ids" text[] DEFAULT '{}'::text[] NOT NULL,
	"payload" jsonb NOT NULL,
	"received_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"webhook_at" timestamp with time zone,
	"audit_at" timestamp with time zone,
	"archive_at" timestamp with time zone,
	"state" text DEFAULT 'pending' NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"looks" integer DEFAULT 0 NOT NULL,
	"due_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"applied_at" timestamp with time zone,
	"outcome" text,
	"error" text
);
--> statement-breakpoint
CREATE TABLE "descope"."learnt" (
	"name" text PRIMARY KEY NOT NULL,
	"value" jsonb NOT NULL,
	"learnt_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "descope"."sync_runs" (
	"run_id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "descope"."sync_runs_run_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"pull" text NOT NULL,
	"reason" text NOT NULL,
	"started_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"finished_at" timestamp with time zone,
	"outcome" text,
	"total" bigint,
	"covers_to" timestamp with time zone,
	"rows_read" bigint DEFAULT 0 NOT NULL,
	"requests" integer DEFAULT 0 NOT NULL,
	"created" bigint DEFAULT 0 NOT NULL,
	"updated" bigint DEFAULT 0 NOT NULL,
	"deleted" bigint DEFAULT 0 NOT NULL,
	"missing" bigint,
	"extra" bigint,
	"different" bigint,
	"error" text
);
--> statement-breakpoint
CREATE TABLE "descope"."sync_windows" (
	"window_id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "descope"."sync_windows_window_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"run_id" bigint NOT NULL,
	"pull" text NOT NULL,
	"from_time" timestamp with time zone NOT NULL,
	"to_time" timestamp with time zone,
	"cursor_time" timestamp with time zone,
	"state" text DEFAULT 'open' NOT NULL,
	"rows_read" bigint DEFAULT 0 NOT NULL,
	"total" bigint,
	"requests" integer DEFAULT 0 NOT NULL,
	"rereads" integer DEFAULT 0 NOT NULL,
	"updated_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"proven_at" timestamp with time zone,
	"error" text
);
--> statement-breakpoint
CREATE TABLE "descope"."user_changes" (
	"seq" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "descope"."user_changes_seq_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"user_id" text NOT NULL,
	"kind" text NOT NULL,
	"changed" text[] DEFAULT '{}'::text[] NOT NULL,
	"observed_at" timestamp with time zone NOT NULL,
	"witness" text NOT NULL,
	"written_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"transaction_id" "xid8" DEFAULT pg_current_xact_id() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "descope"."user_tenants" (
	"user_id" text NOT NULL,
	"tenant_id" text NOT NULL,
	"tenant_name" text,
	"role_names" text[] DEFAULT '{}'::text[] NOT NULL,
	"permissions" text[] DEFAULT '{}'::text[] NOT NULL,
	CONSTRAINT "user_tenants_user_id_tenant_id_pk" PRIMARY KEY("user_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "descope"."users" (
	"user_id" text PRIMARY KEY NOT NULL,
	"login_ids" text[] DEFAULT '{}'::text[] NOT NULL,
	"external_ids" text[] DEFAULT '{}'::text[] NOT NULL,
	"email" text,
	"phone" text,
	"name" text,
	"given_name" text,
	"middle_name" text,
	"family_name" text,
	"picture" text,
	"status" text,
	"verified_email" boolean,
	"verified_phone" boolean,
	"test" boolean DEFAULT false NOT NULL,
	"role_names" text[] DEFAULT '{}'::text[] NOT NULL,
	"permissions" text[] DEFAULT '{}'::text[] NOT NULL,
	"sso_app_ids" text[] DEFAULT '{}'::text[] NOT NULL,
	"custom_attributes" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_time" timestamp with time zone,
	"modified_time" timestamp with time zone,
	"raw" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"content_hash" text DEFAULT '' NOT NULL,
	"observed_at" timestamp with time zone NOT NULL,
	"changed_at" timestamp with time zone NOT NULL,
	"deleted_at" timestamp with time zone,
	"witness" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "descope"."watermarks" (
	"pull" text PRIMARY KEY NOT NULL,
	"complete_to" timestamp with time zone,
	"busy_until" timestamp with time zone,
	"busy_by" text,
	"updated_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE INDEX "deletions_state" ON "descope"."deletions" USING btree ("state","deletion_id");--> statement-breakpoint
CREATE INDEX "deletions_user" ON "descope"."deletions" USING btree ("user_id");--> statement-breakpoint
CREATE INDEX "deletions_decided" ON "descope"."deletions" USING btree ("decided_at");--> statement-breakpoint
CREATE INDEX "events_due" ON "descope"."events" USING btree ("due_at") WHERE state = 'pending';--> statement-breakpoint
CREATE INDEX "events_parked" ON "descope"."events" USING btree ("seq") WHERE state = 'parked';--> statement-breakpoint
CREATE INDEX "events_received" ON "descope"."events" USING btree ("received_at");--> statement-breakpoint
CREATE INDEX "events_user_ids" ON "descope"."events" USING gin ("user_ids");--> statement-breakpoint
CREATE INDEX "sync_runs_pull" ON "descope"."sync_runs" USING btree ("pull","run_id");--> statement-breakpoint
CREATE INDEX "sync_windows_run" ON "descope"."sync_windows" USING btree ("run_id","window_id");--> statement-breakpoint
CREATE INDEX "sync_windows_open" ON "descope"."sync_windows" USING btree ("pull","from_time") WHERE state <> 'proven';--> statement-breakpoint
CREATE INDEX "user_changes_order" ON "descope"."user_changes" USING btree ("transaction_id","seq");--> statement-breakpoint
CREATE INDEX "user_changes_user" ON "descope"."user_changes" USING btree ("user_id","seq");--> statement-breakpoint
CREATE INDEX "user_tenants_tenant" ON "descope"."user_tenants" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "users_created_time" ON "descope"."users" USING btree ("created_time","user_id");--> statement-breakpoint
CREATE INDEX "users_email" ON "descope"."users" USING hash ("email");--> statement-breakpoint
CREATE INDEX "users_login_ids" ON "descope"."users" USING gin ("login_ids");--> statement-breakpoint
CREATE INDEX "users_deleted_at" ON "descope"."users" USING btree ("deleted_at") WHERE deleted_at is not null;--> statement-breakpoint
CREATE VIEW "descope"."live_users" AS (select "user_id", "login_ids", "external_ids", "email", "phone", "name", "given_name", "middle_name", "family_name", "picture", "status", "verified_email", "verified_phone", "test", "role_names", "permissions", "sso_app_ids", "custom_attributes", "created_time", "modified_time", "raw", "content_hash", "observed_at", "changed_at", "deleted_at", "witness" from "descope"."users" where "descope"."users"."deleted_at" is null);--> statement-breakpoint
CREATE VIEW "descope"."sync_status" AS (
select
  proven.as_of,
  clock_timestamp() - proven.as_of as lag,
  (select coalesce(jsonb_object_agg(pull, complete_to), '{}'::jsonb) from "descope"."watermarks") as watermarks,
  (select count(*) from "descope"."sync_windows" where state = 'gap') as gaps,
  (select avg((webhook_at is null)::int)::double precision from "descope"."events" where audit_at is not null and state <> 'archived'
          and audit_at < clock_timestamp() - interval '30 seconds'
          and received_at > clock_timestamp() - interval '1 hour'
          and occurred_at > clock_timestamp() - interval '1 hour') as loss_rate,
  (select avg((webhook_at is null)::int)::double precision from "descope"."events" where audit_at is not null and state <> 'archived'
          and audit_at < clock_timestamp() - interval '30 seconds'
          and received_at > clock_timestamp() - interval '1 day'
          and occurred_at > clock_timestamp() - interval '1 day') as loss_rate_day,
  (select percentile_cont(0.5) within group (order by webhook_at - occurred_at)
   from "descope"."events" where webhook_at > clock_timestamp() - interval '1 hour') as webhook_delay,
  (select count(*) from "descope"."events" where state = 'pending') as pending_events,
  (select count(*) from "descope"."events" where state = 'parked') as parked_events,
  (select count(*) from "descope"."deletions" where state = 'held') as held_deletions,
  sweep.finished_at as last_sweep,
  sweep.outcome as last_sweep_outcome,
  (select max(finished_at) from "descope"."sync_runs"
   where outcome = 'complete' and (pull = 'sweep' or (pull = 'verify' and reason = 'everyone')))
   as last_proof,
  (select (missing + extra + different) * 1000000.0 / greatest(rows_read, 1)
   from "descope"."sync_runs" where pull = 'verify' and missing is not null
   order by run_id desc limit 1)::double precision as drift_ppm
from (
  select case when (select complete_to from "descope"."watermarks" where pull = 'sweep') is not null then
    greatest((select complete_to from "descope"."watermarks" where pull = 'sweep'), least((select complete_to from "descope"."watermarks" where pull = 'modified'), (select complete_to from "descope"."watermarks" where pull = 'audit'),
      (select min(occurred_at) from "descope"."events" where state in ('pending', 'parked'))))
  end as as_of
) as proven
left join lateral (
  select finished_at, outcome from "descope"."sync_runs"
  where pull = 'sweep' and outcome is not null order by run_id desc limit 1
) as sweep on true);