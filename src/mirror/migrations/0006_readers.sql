CREATE TABLE "descope"."attributes" (
	"name" text PRIMARY KEY NOT NULL,
	"position" bigint GENERATED ALWAYS AS IDENTITY (sequence name "descope"."attributes_position_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"column_name" text NOT NULL,
	"type" text NOT NULL,
	"indexed" boolean DEFAULT false NOT NULL,
	"added_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE INDEX "events_open_nameless" ON "descope"."events" USING btree ("occurred_at") WHERE state in ('pending', 'parked') and user_ids = '{}';--> statement-breakpoint
CREATE INDEX "user_tenants_members" ON "descope"."user_tenants" USING btree ("tenant_id","user_id");--> statement-breakpoint
CREATE INDEX "user_tenants_role_names" ON "descope"."user_tenants" USING gin ("role_names") WHERE role_names <> '{}';--> statement-breakpoint
CREATE INDEX "users_role_names" ON "descope"."users" USING gin ("role_names") WHERE deleted_at is null and role_names <> '{}';--> statement-breakpoint
CREATE VIEW "descope"."role_members" AS (
select r.role_name, null::text as tenant_id, null::text as tenant_name, u.user_id,
  u.role_names, u.permissions, u.login_ids, u.email, u.phone, u.name, u.given_name, u.family_name, u.picture, u.status, u.verified_email, u.verified_phone, u.test, u.custom_attributes, u.created_time, u.modified_time, u.observed_at
from "descope"."live_users" u cross join lateral unnest(u.role_names) as r(role_name)
where u.role_names <> '{}'
union all
select r.role_name, t.tenant_id, t.tenant_name, t.user_id,
  t.role_names, t.permissions, u.login_ids, u.email, u.phone, u.name, u.given_name, u.family_name, u.picture, u.status, u.verified_email, u.verified_phone, u.test, u.custom_attributes, u.created_time, u.modified_time, u.observed_at
from "descope"."user_tenants" t join "descope"."live_users" u on u.user_id = t.user_id
  cross join lateral unnest(t.role_names) as r(role_name)
where t.role_names <> '{}');--> statement-breakpoint
CREATE VIEW "descope"."tenant_members" AS (
select t.tenant_id, t.tenant_name, t.user_id, t.role_names, t.permissions,
  u.login_ids, u.email, u.phone, u.name, u.given_name, u.family_name, u.picture, u.status, u.verified_email, u.verified_phone, u.test, u.custom_attributes, u.created_time, u.modified_time, u.observed_at
from "descope"."user_tenants" t join "descope"."live_users" u on u.user_id = t.user_id);--> statement-breakpoint
-- Who has a role, anywhere, by the indexes on role_names; the view alone would unpack everyone's roles.
-- Plain SQL that Postgres puts in place of the call: further conditions reach the tables.
CREATE FUNCTION descope.members_of_role(role_name text)
RETURNS SETOF descope.role_members
LANGUAGE sql STABLE
AS $$
  SELECT m.* FROM descope.role_members m
  WHERE m.role_name = $1 AND m.role_names @> ARRAY[$1]
$$;
--> statement-breakpoint
-- How fresh the mirror is about one user. One row always, also for an id it does not know. Runs as its owner,
-- so that who may only read users need not be able to read events, and tells no personal data.
--
-- as_of: as of when what the mirror holds of the user, or that it holds nobody of that id, is known to be
-- right. The later of two instants:
-- 1. observed_at of the row: just before the request was sent whose answer the row is.
-- 2. proven_to: what the watermarks prove. A change before both pulls' watermarks would have been found, and a
--    complete sweep has shown everyone since it was planned; so a row that neither had to write was right then.
--    Less what is not applied yet: an event that names this user, or nobody by id, holds that back to the moment
--    at which it happened.
-- While a deletion of the user is suspected or held, only the first counts: the pulls know better than the row.
CREATE FUNCTION descope.user_freshness(of_user text)
RETURNS TABLE (
  observed_at timestamptz, deleted boolean, as_of timestamptz, proven_to timestamptz,
  pending_events bigint, parked_events bigint, nameless_events bigint, open_deletion text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
  SELECT u.observed_at, u.deleted_at IS NOT NULL,
    CASE WHEN d.state IS NULL THEN greatest(u.observed_at, p.proven_to) ELSE u.observed_at END,
    p.proven_to, e.pending, e.parked, n.events, d.state
  FROM (SELECT of_user) AS asked
  LEFT JOIN descope.users u ON u.user_id = of_user
  LEFT JOIN LATERAL (
    SELECT x.state FROM descope.deletions x
    WHERE x.user_id = of_user AND x.state IN ('suspected', 'verified', 'held')
    ORDER BY x.deletion_id DESC LIMIT 1
  ) AS d ON true
  CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE x.state = 'pending') AS pending,
           count(*) FILTER (WHERE x.state = 'parked') AS parked, min(x.occurred_at) AS oldest
    FROM descope.events x
    WHERE x.user_ids @> ARRAY[of_user] AND x.state IN ('pending', 'parked')
  ) AS e
  CROSS JOIN LATERAL (
    SELECT count(*) AS events, min(x.occurred_at) AS oldest FROM descope.events x
    WHERE x.state IN ('pending', 'parked') AND x.user_ids = '{}'
  ) AS n
  CROSS JOIN LATERAL (
    SELECT CASE WHEN w.sweep IS NOT NULL THEN
      greatest(w.sweep, least(w.modified, w.audit, e.oldest, n.oldest)) END AS proven_to
    FROM (
      SELECT max(complete_to) FILTER (WHERE pull = 'sweep') AS sweep,
             max(complete_to) FILTER (WHERE pull = 'modified') AS modified,
             max(complete_to) FILTER (WHERE pull = 'audit') AS audit
      FROM descope.watermarks
    ) AS w
  ) AS p
$$;
--> statement-breakpoint
CREATE FUNCTION descope.user_as_of(user_id text) RETURNS timestamptz
LANGUAGE sql STABLE
AS $$ SELECT f.as_of FROM descope.user_freshness($1) f $$;
--> statement-breakpoint
-- Waits until the mirror holds the user as of `since` or later, and says why where that does not happen in time.
-- Each look is a statement with a snapshot of its own (the function is volatile for that), which only READ
-- COMMITTED gives.
CREATE FUNCTION descope.wait_for(user_id text, since timestamptz, timeout_ms integer DEFAULT 10000)
RETURNS TABLE (
  seen boolean, as_of timestamptz, observed_at timestamptz, deleted boolean,
  pending_events bigint, parked_events bigint, open_deletion text, reason text
)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  until timestamptz := clock_timestamp()
    + least(greatest(coalesce(timeout_ms, 0), 0), 300000) * interval '1 millisecond';
  found_now record;
  waiting boolean;
BEGIN
  IF wait_for.user_id IS NULL OR since IS NULL THEN
    RAISE EXCEPTION 'wait_for() needs a user id and an instant' USING ERRCODE = '22004';
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'wait_for() sees nothing new in a transaction that is %',
      current_setting('transaction_isolation')
      USING ERRCODE = '25001', HINT = 'Call it in a transaction that is read committed.';
  END IF;
  LOOP
    SELECT * INTO found_now FROM descope.user_freshness(wait_for.user_id);
    waiting := found_now.observed_at IS NULL OR found_now.as_of < since;
    EXIT WHEN NOT waiting OR clock_timestamp() >= until;
    PERFORM pg_sleep(least(0.025, extract(epoch FROM until - clock_timestamp())));
  END LOOP;
  seen := NOT waiting;
  as_of := found_now.as_of;
  observed_at := found_now.observed_at;
  deleted := found_now.deleted;
  pending_events := found_now.pending_events;
  parked_events := found_now.parked_events;
  open_deletion := found_now.open_deletion;
  IF waiting THEN
    reason := descope.why_not_seen(wait_for.user_id, since);
  END IF;
  RETURN NEXT;
END
$$;
--> statement-breakpoint
-- What stands between the mirror and an instant, in one line; everything that applies, the nearest first.
CREATE FUNCTION descope.why_not_seen(user_id text, since timestamptz) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
  SELECT concat_ws('; ',
    CASE WHEN $2 > clock_timestamp() THEN
      'that instant is ' || round(extract(epoch FROM $2 - clock_timestamp()), 1)
      || ' s ahead of the clock of Postgres' END,
    CASE WHEN f.observed_at IS NULL THEN 'the mirror knows no such user' END,
    CASE WHEN f.pending_events > 0 THEN
      'events of this user that are not applied yet: ' || f.pending_events END,
    CASE WHEN f.parked_events > 0 THEN
      'events of this user that were given up: ' || f.parked_events
      || ' (rollcall status says why, rollcall replay --failed applies them again)' END,
    CASE WHEN f.nameless_events > 0 THEN
      'events not applied yet that name nobody, and may be about anybody: ' || f.nameless_events END,
    CASE WHEN f.open_deletion = 'held' THEN
      'the deletion of this user is held for a person to decide (rollcall deletions list)'
    WHEN f.open_deletion IS NOT NULL THEN 'it is being looked at whether this user is gone' END,
    CASE WHEN f.proven_to IS NULL THEN 'no sweep has completed yet, so nothing is proven of anyone'
    ELSE 'the pulls prove the mirror up to ' || to_char(f.proven_to AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      || ', ' || greatest(round(extract(epoch FROM clock_timestamp() - f.proven_to)), 0) || ' s ago' END,
    CASE WHEN g.gaps > 0 THEN 'ranges of time that they could not prove: ' || g.gaps END)
  FROM descope.user_freshness($1) f,
    (SELECT count(*) AS gaps FROM descope.sync_windows
     WHERE state <> 'proven' AND (state = 'gap' OR gap_since IS NOT NULL)) AS g
$$;
--> statement-breakpoint
-- The casts of custom attributes. Each depends on its arguments alone (no zone, no style of dates), so that an
-- index may hold it, and gives null for what does not fit its type, so that no value fails a write or a read.
-- What is longer than an index entry may be fits no type.
CREATE FUNCTION descope.attribute_text(attributes jsonb, name text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  value text := attributes ->> name;
BEGIN
  IF jsonb_typeof(attributes -> name) IN ('array', 'object') OR octet_length(value) > 2000 THEN
    RETURN NULL;
  END IF;
  RETURN value;
END
$$;
--> statement-breakpoint
CREATE FUNCTION descope.attribute_boolean(attributes jsonb, name text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
  RETURN CASE WHEN jsonb_typeof(attributes -> name) IN ('array', 'object') THEN NULL
    ELSE CASE lower(btrim(attributes ->> name))
      WHEN 'true' THEN true WHEN 'yes' THEN true WHEN '1' THEN true
      WHEN 'false' THEN false WHEN 'no' THEN false WHEN '0' THEN false END END;
END
$$;
--> statement-breakpoint
CREATE FUNCTION descope.attribute_numeric(attributes jsonb, name text) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  value text := btrim(attributes ->> name);
BEGIN
  IF jsonb_typeof(attributes -> name) IN ('number', 'string') AND octet_length(value) <= 400
    AND value ~ '^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?$' THEN
    RETURN value::numeric;
  END IF;
  RETURN NULL;
END
$$;
--> statement-breakpoint
CREATE FUNCTION descope.attribute_bigint(attributes jsonb, name text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  value numeric := descope.attribute_numeric(attributes, name);
BEGIN
  IF value = trunc(value) AND value BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
    RETURN value::bigint;
  END IF;
  RETURN NULL;
END
$$;
--> statement-breakpoint
CREATE FUNCTION descope.attribute_integer(attributes jsonb, name text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  value bigint := descope.attribute_bigint(attributes, name);
BEGIN
  IF value BETWEEN -2147483648 AND 2147483647 THEN
    RETURN value::integer;
  END IF;
  RETURN NULL;
END
$$;
--> statement-breakpoint
-- Epoch seconds or milliseconds (above 1e11), as numbers or text, or ISO 8601; UTC where it names no zone.
CREATE FUNCTION descope.attribute_timestamptz(attributes jsonb, name text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  epoch numeric := descope.attribute_numeric(attributes, name);
  value text;
  month integer;
  local_time text;
  zone text;
  seconds double precision := 0;
BEGIN
  IF epoch IS NOT NULL THEN
    IF abs(epoch) > 1e11 THEN
      epoch := epoch / 1000;
    END IF;
    IF epoch BETWEEN -62135596800 AND 253402300799 THEN
      RETURN (timestamp '1970-01-01' + make_interval(secs => epoch::double precision)) AT TIME ZONE 'UTC';
    END IF;
    RETURN NULL;
  END IF;
  value := btrim(attributes ->> name);
  -- Parts are cut out by their place: a pattern that captures them is several times as slow.
  IF jsonb_typeof(attributes -> name) IS DISTINCT FROM 'string' OR octet_length(value) > 60
    OR value !~ '^[0-9]{4}-[0-9][0-9]-[0-9][0-9]([Tt ][0-9][0-9]:[0-9][0-9](:[0-9][0-9]([.][0-9]+)?)?([Zz]|[+-][0-9][0-9](:?[0-9][0-9])?)?)?$' THEN
    RETURN NULL;
  END IF;
  month := substr(value, 6, 2)::integer;
  IF left(value, 4) = '0000' OR month NOT BETWEEN 1 AND 12 OR substr(value, 9, 2)::integer NOT BETWEEN 1 AND
    extract(day FROM make_date(left(value, 4)::integer, month, 1) + interval '1 month - 1 day') THEN
    RETURN NULL;
  END IF;
  local_time := rtrim(substr(value, 12), 'Zz');
  zone := replace(coalesce(substring(local_time FROM '[+-].*$'), '+00'), ':', '');
  local_time := substring(local_time FROM '^[^+-]*');
  IF length(local_time) > 5 THEN
    seconds := left(substr(local_time, 7), 9)::double precision;
  END IF;
  IF left(local_time, 2) > '23' OR substr(local_time, 4, 2) > '59' OR seconds >= 60
    OR substr(zone, 2, 2) > '15' OR substr(zone, 4, 2) > '59' THEN
    RETURN NULL;
  END IF;
  RETURN (make_timestamp(left(value, 4)::integer, month, substr(value, 9, 2)::integer,
      coalesce(nullif(left(local_time, 2), ''), '0')::integer,
      coalesce(nullif(substr(local_time, 4, 2), ''), '0')::integer, seconds)
    - (left(zone, 1) || '1')::integer * make_interval(hours => substr(zone, 2, 2)::integer,
        mins => coalesce(nullif(substr(zone, 4, 2), ''), '0')::integer)
    ) AT TIME ZONE 'UTC';
END
$$;
--> statement-breakpoint
-- A list of scalars; one alone is a list of one.
CREATE FUNCTION descope.attribute_text_array(attributes jsonb, name text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  value jsonb := attributes -> name;
  texts text[];
BEGIN
  IF jsonb_typeof(value) = 'array' THEN
    IF EXISTS (SELECT FROM jsonb_array_elements(value) AS e(member)
               WHERE jsonb_typeof(member) IN ('array', 'object') OR octet_length(member #>> '{}') > 2000) THEN
      RETURN NULL;
    END IF;
    RETURN ARRAY(SELECT member FROM jsonb_array_elements_text(value) WITH ORDINALITY AS e(member, place)
                 WHERE member IS NOT NULL ORDER BY place);
  END IF;
  texts := ARRAY[descope.attribute_text(attributes, name)];
  RETURN CASE WHEN texts[1] IS NOT NULL THEN texts END;
END
$$;
--> statement-breakpoint
-- The custom attributes that `rollcall attributes` added follow as columns of their own.
CREATE VIEW descope.live_users_with_attributes AS SELECT u.* FROM descope.live_users u;
--> statement-breakpoint
-- Last: it keeps even readers out of the table until the migration is committed.
DROP INDEX "descope"."user_tenants_tenant";
