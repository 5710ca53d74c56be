CREATE TABLE "descope"."admin_log" (
	"entry_id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "descope"."admin_log_entry_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"actor" text NOT NULL,
	"action" text NOT NULL,
	"detail" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"outcome" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "descope"."status_history" (
	"step" text NOT NULL,
	"at" timestamp with time zone NOT NULL,
	"lag_seconds" double precision,
	"loss_rate" double precision,
	"drift_ppm" double precision,
	"gaps" integer DEFAULT 0 NOT NULL,
	"pending_events" integer DEFAULT 0 NOT NULL,
	"parked_events" integer DEFAULT 0 NOT NULL,
	"held_deletions" integer DEFAULT 0 NOT NULL,
	"live_users" bigint DEFAULT 0 NOT NULL,
	"by_webhook" integer DEFAULT 0 NOT NULL,
	"by_audit" integer DEFAULT 0 NOT NULL,
	"by_archive" integer DEFAULT 0 NOT NULL,
	"applied" integer DEFAULT 0 NOT NULL,
	"requests" integer DEFAULT 0 NOT NULL,
	"throttled" integer DEFAULT 0 NOT NULL,
	CONSTRAINT "status_history_step_at_pk" PRIMARY KEY("step","at")
);
--> statement-breakpoint
CREATE INDEX "events_occurred" ON "descope"."events" USING btree ("occurred_at","event_id");--> statement-breakpoint
CREATE INDEX "events_actor" ON "descope"."events" USING btree ("actor_id","occurred_at") WHERE actor_id is not null;