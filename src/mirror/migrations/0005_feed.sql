-- The feed's changes after a cursor, oldest first; null begins at the beginning. Each row carries the
-- cursor to go on from.
--
-- In the order of transactions, not of seq alone: a seq taken early may be committed late, and a reader
-- who went by it would skip that row. Shown are only rows below the horizon, the oldest transaction that
-- may still bring some, so nothing can appear behind a cursor any more. A user's changes keep their own
-- order: a row's transaction_id is never below the one of the same user's row before it (see insertChanges
-- in batch.ts).
--
-- Who may still bring rows: whoever holds the lock that our transactions take on the feed before they get
-- their number (see beginOf in database.ts). The order of the three steps matters. First the next number
-- to be given: later ones are beyond the horizon anyway. Then the locks: whoever has a number below and is
-- not done holds one. Then the rows, in a snapshot of their own (the function is volatile for that): whoever
-- was done when the locks were read is in it. In a snapshot taken before, or on a standby (which does not
-- see the locks), the oldest transaction of the whole server is the horizon.
CREATE FUNCTION descope.changes_since(after text, max_rows integer)
RETURNS TABLE (
  seq bigint, user_id text, kind text, changed text[], observed_at timestamptz, witness text,
  written_at timestamptz, cursor text
)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  after_transaction xid8 := '0';
  after_seq bigint := 0;
  next_transaction bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  horizon xid8;
BEGIN
  IF after IS NOT NULL THEN
    IF after !~ '^\d{1,19}-\d{1,18}$' THEN
      RAISE EXCEPTION 'not a cursor of changes_since()'
        USING ERRCODE = '22023', HINT = 'Pass the cursor of the last row read, or null to begin.';
    END IF;
    after_transaction := split_part(after, '-', 1)::xid8;
    after_seq := split_part(after, '-', 2)::bigint;
    -- A standby may not have that row yet. Anywhere else it belongs to another history of the database, of
    -- which nobody knows what came after it.
    IF NOT pg_is_in_recovery() AND NOT EXISTS (
      SELECT FROM descope.user_changes c
      WHERE c.seq = after_seq AND c.transaction_id = after_transaction
    ) THEN
      RAISE EXCEPTION 'this cursor of changes_since() is not of this database'
        USING ERRCODE = '22023',
              HINT = 'The database was restored. Read all users once more, and begin again with null.';
    END IF;
  END IF;
  IF pg_is_in_recovery() OR current_setting('transaction_isolation') <> 'read committed' THEN
    horizon := pg_snapshot_xmin(pg_current_snapshot());
  ELSE
    -- Locks tell the lower 32 bits of a number: `behind` says how far it is below the next one. Those
    -- beyond it come out as enormous.
    SELECT (next_transaction - coalesce(max(behind), 0))::text::xid8 INTO horizon
      FROM pg_locks held
        JOIN pg_locks own USING (pid),
        LATERAL (SELECT (next_transaction % 4294967296 - own.transactionid::text::bigint + 4294967296)
                          % 4294967296 AS behind) AS distance
      WHERE held.locktype = 'relation' AND held.mode = 'RowExclusiveLock' AND held.granted
        AND held.relation = 'descope.user_changes'::regclass
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND own.locktype = 'transactionid' AND own.mode = 'ExclusiveLock' AND own.granted
        AND behind < 2147483648;
  END IF;
  RETURN QUERY
    SELECT c.seq, c.user_id, c.kind, c.changed, c.observed_at, c.witness, c.written_at,
           c.transaction_id::text || '-' || c.seq
    FROM descope.user_changes c
    WHERE (c.transaction_id, c.seq) > (after_transaction, after_seq) AND c.transaction_id < horizon
    ORDER BY c.transaction_id, c.seq
    LIMIT max_rows;
END
$$;
