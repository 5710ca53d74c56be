CREATE TABLE "descope"."erasures" (
	"user_id" text PRIMARY KEY NOT NULL,
	"erased_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"erased_by" text NOT NULL,
	"counts" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_time" timestamp with time zone,
	"seen_at" timestamp with time zone
);
--> statement-breakpoint
-- As before, but for rows of nobody: those of users who were erased, whose ids are gone. The rows stay because
-- a reader's cursor may be one of them. After them there is always one that is shown (see erase.ts), so no
-- reader stays behind them.
CREATE OR REPLACE FUNCTION descope.changes_since(after text, max_rows integer)
RETURNS TABLE (
  seq bigint, user_id text, kind text, changed text[], observed_at timestamptz, witness text,
  written_at timestamptz, cursor text
)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  after_transaction xid8;
  after_seq bigint;
  horizon xid8;
BEGIN
  SELECT p.transaction_id, p.seq INTO after_transaction, after_seq FROM descope.parse_cursor(after) p;
  PERFORM descope.assert_in_feed(after_transaction, after_seq);
  horizon := descope.feed_horizon();
  -- Whether the cursor is too old by now is asked in the snapshot of the rows themselves.
  RETURN QUERY
    SELECT c.seq, c.user_id, c.kind, c.changed, c.observed_at, c.witness, c.written_at,
           c.transaction_id::text || '-' || c.seq
    FROM descope.user_changes c
    WHERE (c.transaction_id, c.seq) > (after_transaction, after_seq) AND c.transaction_id < horizon
      AND c.user_id <> ''
      AND (after_transaction, after_seq) >= (SELECT p.transaction_id, p.seq FROM descope.feed_pruned_to() p)
    ORDER BY c.transaction_id, c.seq
    LIMIT max_rows;
  IF NOT FOUND THEN
    PERFORM descope.assert_in_feed(after_transaction, after_seq);
  END IF;
END
$$;
