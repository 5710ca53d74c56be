CREATE TABLE "descope"."feed_cursors" (
	"name" text PRIMARY KEY NOT NULL,
	"cursor" text NOT NULL,
	"moved_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"begun_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "descope"."feed_pruned" (
	"feed" text PRIMARY KEY NOT NULL,
	"transaction_id" "xid8" DEFAULT '0' NOT NULL,
	"seq" bigint DEFAULT 0 NOT NULL,
	"kept_days" integer,
	"pruned_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "descope"."outgoing_deliveries" (
	"delivery_id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "descope"."outgoing_deliveries_delivery_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"endpoint_id" text NOT NULL,
	"webhook_id" text NOT NULL,
	"cursor" text NOT NULL,
	"user_id" text NOT NULL,
	"kind" text NOT NULL,
	"changed" text[] DEFAULT '{}'::text[] NOT NULL,
	"observed_at" timestamp with time zone NOT NULL,
	"witness" text NOT NULL,
	"written_at" timestamp with time zone NOT NULL,
	"state" text DEFAULT 'waiting' NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"due_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"taken_until" timestamp with time zone,
	"status" integer,
	"error" text,
	"ended_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "descope"."outgoing_endpoints" (
	"endpoint_id" text PRIMARY KEY NOT NULL,
	"host" text NOT NULL,
	"cursor" text NOT NULL,
	"state" text DEFAULT 'active' NOT NULL,
	"reason" text,
	"changed_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE INDEX "outgoing_deliveries_due" ON "descope"."outgoing_deliveries" USING btree ("endpoint_id","due_at") WHERE state = 'waiting';--> statement-breakpoint
CREATE INDEX "outgoing_deliveries_user" ON "descope"."outgoing_deliveries" USING btree ("endpoint_id","user_id","delivery_id") WHERE state in ('waiting', 'parked');--> statement-breakpoint
CREATE INDEX "outgoing_deliveries_taken" ON "descope"."outgoing_deliveries" USING btree ("endpoint_id","taken_until") WHERE taken_until is not null;--> statement-breakpoint
CREATE INDEX "outgoing_deliveries_ended" ON "descope"."outgoing_deliveries" USING btree ("ended_at");
--> statement-breakpoint
-- The place in the feed that a cursor names; null is before its first row. @throws 22023 where it names none
CREATE FUNCTION descope.parse_cursor(feed_cursor text, OUT transaction_id xid8, OUT seq bigint)
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
  IF feed_cursor IS NOT NULL AND feed_cursor !~ '^[0-9]{1,19}-[0-9]{1,18}$' THEN
    RAISE EXCEPTION 'not a cursor of changes_since()'
      USING ERRCODE = '22023', HINT = 'Pass the cursor of the last row read, or null to begin.';
  END IF;
  transaction_id := coalesce(split_part(feed_cursor, '-', 1), '0')::xid8;
  seq := coalesce(split_part(feed_cursor, '-', 2), '0')::bigint;
END
$$;
--> statement-breakpoint
-- Up to where the feed was pruned: the last row that is gone, or the place before the first. It tells nobody
-- anything, so whoever may read the feed need not be granted its table.
CREATE FUNCTION descope.feed_pruned_to(OUT transaction_id xid8, OUT seq bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce((SELECT p.transaction_id FROM descope.feed_pruned p WHERE p.feed = 'user_changes'), '0'),
         coalesce((SELECT p.seq FROM descope.feed_pruned p WHERE p.feed = 'user_changes'), 0)
$$;
--> statement-breakpoint
-- Whether the feed can be read on from this place: a row of it, or the last one that was pruned.
CREATE FUNCTION descope.is_in_feed(after_transaction xid8, after_seq bigint) RETURNS boolean
LANGUAGE sql STABLE
AS $$
  SELECT EXISTS (
    SELECT FROM descope.user_changes c WHERE c.seq = after_seq AND c.transaction_id = after_transaction
  ) OR (after_transaction, after_seq) = (SELECT p.transaction_id, p.seq FROM descope.feed_pruned_to() p)
$$;
--> statement-breakpoint
-- @throws RC001 where what follows this place was pruned; RC002 where it is of another history of the
-- database. All is looked at in one snapshot, so that no step of the pruning or the replication comes between.
CREATE FUNCTION descope.assert_in_feed(after_transaction xid8, after_seq bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  is_known boolean;
  is_too_old boolean;
  is_complete boolean;
BEGIN
  SELECT descope.is_in_feed(after_transaction, after_seq),
         (after_transaction, after_seq) < (p.transaction_id, p.seq),
         NOT pg_is_in_recovery() OR after_transaction < pg_snapshot_xmin(pg_current_snapshot())
    INTO is_known, is_too_old, is_complete FROM descope.feed_pruned_to() p;
  IF is_too_old THEN
    RAISE EXCEPTION '%', CASE WHEN after_seq = 0
        THEN 'the feed no longer begins at the beginning: its oldest changes were pruned (FEED_RETENTION_DAYS)'
        ELSE 'cursor too old: the changes after it were pruned (FEED_RETENTION_DAYS)' END
      USING ERRCODE = 'RC001',
            HINT = 'Note feed_head() first, in a statement of its own; then take a snapshot of live_users, '
                   'and go on with the changes since that head.';
  END IF;
  -- A standby may not have that row yet, unless all are there up to it. Anywhere else it belongs to another
  -- history of the database, of which nobody knows what came after it.
  IF is_complete AND NOT is_known THEN
    RAISE EXCEPTION 'this cursor of changes_since() is not of this database'
      USING ERRCODE = 'RC002',
            HINT = 'The database was restored. Note feed_head() first, in a statement of its own; then take '
                   'a snapshot of live_users, and go on with the changes since that head.';
  END IF;
END
$$;
--> statement-breakpoint
-- The oldest transaction that may still bring rows: those below it are all there, for statements after this.
--
-- Who may still bring rows: whoever holds the lock that our transactions take on the feed before they get
-- their number (see beginOf in database.ts). The order of the steps matters. First the snapshot: it tells the
-- next number to be given, later ones are beyond the horizon anyway, and who has one below it and is not done.
-- Then the locks: of those, whoever is known by their own number and does not hold ours brings no rows. One
-- whose number no lock tells may just have been given it, so it is waited for. Then, by the caller, the rows,
-- in a snapshot of their own (both functions are volatile for that): whoever was done when the locks were read
-- is in it. In a snapshot taken before, or on a standby (which does not see the locks), the oldest transaction
-- of the whole server is the horizon.
CREATE FUNCTION descope.feed_horizon() RETURNS xid8
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  horizon xid8;
BEGIN
  IF pg_is_in_recovery() OR current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN pg_snapshot_xmin(pg_current_snapshot());
  END IF;
  -- Read once, after the statement's snapshot was taken. Locks tell the lower 32 bits of a number.
  WITH locks AS MATERIALIZED (
    SELECT virtualtransaction, transactionid::text::bigint AS low_bits,
           relation = 'descope.user_changes'::regclass AND mode = 'RowExclusiveLock'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AS is_ours
    FROM pg_locks
    WHERE granted AND (locktype = 'relation' OR locktype = 'transactionid' AND mode = 'ExclusiveLock')
  ), running AS (
    SELECT pg_snapshot_xip(pg_current_snapshot()) AS number
    -- A snapshot does not name one's own.
    UNION ALL SELECT pg_current_xact_id_if_assigned()
  )
  SELECT number INTO horizon FROM (
    SELECT number FROM running
    WHERE number IS NOT NULL AND NOT EXISTS (
      SELECT FROM locks own
      WHERE own.low_bits = number::text::bigint % 4294967296 AND NOT EXISTS (
        SELECT FROM locks held WHERE held.is_ours AND held.virtualtransaction = own.virtualtransaction))
    UNION ALL SELECT pg_snapshot_xmax(pg_current_snapshot())
  ) AS bounds(number) ORDER BY number LIMIT 1;
  RETURN horizon;
END
$$;
--> statement-breakpoint
-- The feed's changes after a cursor, oldest first; null begins at the beginning, for as long as nothing was
-- pruned. Each row carries the cursor to go on from.
--
-- In the order of transactions, not of seq alone: a seq taken early may be committed late, and a reader
-- who went by it would skip that row. Shown are only rows below the horizon, so nothing can appear behind a
-- cursor any more. A user's changes keep their own order: a row's transaction_id is never below the one of
-- the same user's row before it (see insertChanges in batch.ts).
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
      AND (after_transaction, after_seq) >= (SELECT p.transaction_id, p.seq FROM descope.feed_pruned_to() p)
    ORDER BY c.transaction_id, c.seq
    LIMIT max_rows;
  IF NOT FOUND THEN
    PERFORM descope.assert_in_feed(after_transaction, after_seq);
  END IF;
END
$$;
--> statement-breakpoint
-- The cursor of the last change that there is, or of the place where the next one will be: every change up
-- to it is in what a later statement reads, and changes_since() tells the others. Ask it in a statement of
-- its own, before the snapshot: the rows of a statement that asks it too are older.
CREATE FUNCTION descope.feed_head() RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  horizon xid8 := descope.feed_horizon();
BEGIN
  RETURN (
    SELECT coalesce(
      (SELECT c.transaction_id::text || '-' || c.seq FROM descope.user_changes c
       WHERE c.transaction_id < horizon ORDER BY c.transaction_id DESC, c.seq DESC LIMIT 1),
      (SELECT p.transaction_id::text || '-' || p.seq FROM descope.feed_pruned_to() p)));
END
$$;
--> statement-breakpoint
-- The changes after what this consumer has confirmed; from the beginning where it has confirmed nothing yet.
-- Reading moves nothing: what is not confirmed comes again.
CREATE FUNCTION descope.read_changes(consumer text, max_rows integer)
RETURNS TABLE (
  seq bigint, user_id text, kind text, changed text[], observed_at timestamptz, witness text,
  written_at timestamptz, cursor text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT * FROM descope.changes_since(
    (SELECT f.cursor FROM descope.feed_cursors f WHERE f.name = consumer), max_rows);
END
$$;
--> statement-breakpoint
-- Notes that a consumer has dealt with everything up to a cursor, and tells the cursor that is kept. It never
-- moves back, so a slower reader of the same name does no harm; only a kept one that is not of this database
-- (any more) gives way to whatever is.
CREATE FUNCTION descope.confirm_changes(consumer text, confirmed text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  place record;
  kept record;
BEGIN
  IF consumer IS NULL OR length(consumer) NOT BETWEEN 1 AND 100 OR confirmed IS NULL THEN
    RAISE EXCEPTION 'confirm_changes() takes the name of a consumer, of 1 to 100 characters, and a cursor'
      USING ERRCODE = '22023';
  END IF;
  SELECT * INTO place FROM descope.parse_cursor(confirmed);
  -- Who confirms under the same name at the same time waits for us, the first time too.
  PERFORM pg_advisory_xact_lock(hashtextextended('rollcall consumer ' || consumer, 0));
  SELECT f.cursor, p.transaction_id, p.seq INTO kept
    FROM descope.feed_cursors f, descope.parse_cursor(f.cursor) p WHERE f.name = consumer;
  IF FOUND AND (kept.transaction_id, kept.seq) >= (place.transaction_id, place.seq)
    AND descope.is_in_feed(kept.transaction_id, kept.seq)
  THEN
    RETURN kept.cursor;
  END IF;
  PERFORM descope.assert_in_feed(place.transaction_id, place.seq);
  INSERT INTO descope.feed_cursors (name, cursor)
    VALUES (consumer, place.transaction_id::text || '-' || place.seq)
    ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor, moved_at = clock_timestamp();
  RETURN place.transaction_id::text || '-' || place.seq;
END
$$;
--> statement-breakpoint
-- These act as their owner: only who was granted them may call them.
REVOKE ALL ON FUNCTION descope.read_changes(text, integer), descope.confirm_changes(text, text) FROM PUBLIC;
