ALTER TABLE "descope"."budgets" ADD COLUMN "recent" integer[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE "descope"."budgets" ADD COLUMN "recent_to" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "descope"."budgets" ADD COLUMN "event_waits_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "descope"."budgets" ADD COLUMN "pull_waits_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "descope"."sync_windows" ADD COLUMN "created" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "descope"."sync_windows" ADD COLUMN "updated" bigint DEFAULT 0 NOT NULL;