import { sql, type SQL } from 'drizzle-orm';

import { rows, textArray, type Executor } from '../mirror/database.ts';
import { whereNamed } from '../mirror/named.ts';

import type { MirrorTables } from '../mirror/schema.ts';

/*
 * In: events, to be stored or stored, and users who were erased. Out: an inbox without them. An event about
 * nobody else goes; one that tells of others too keeps its ids, and nothing of what it was received with.
 */

/** What stands in for the payload of an event that named somebody who was erased. */
export const REDACTED = '{"redacted": "it named a user who was erased"}';

/**
 * A CTE `erased` (`event_id`, `ids`) of those events in `given` that name erased users: as one of theirs, as
 * who did it, or anywhere in the payload. Where nobody was erased no payload is looked at.
 */
export function namedErased(t: MirrorTables): SQL {
  return sql`
    erased as materialized (
      select event_id, array_agg(distinct e.user_id) as ids
      from given cross join lateral (
        select unnest(user_ids || actor_id) as user_id
        union select found #>> '{}'
        from jsonb_path_query(payload, 'strict $.** ? (@.type() == "string")') as found
      ) as named join ${t.erasures} as e using (user_id)
      where exists (select from ${t.erasures})
      group by event_id
    )`;
}

/** Whether an event of `given`, left joined with `erased`, is about nobody but them. */
export const isAboutErased: SQL = sql`coalesce(user_ids <> '{}' and user_ids <@ ids, false)`;

/**
 * `user_ids, login_ids, actor_id` of such an event, without theirs. Which login ids those are it does not say:
 * none is kept where ids tell of the others.
 */
export const withoutErased: SQL = sql`
  case when user_ids && ids
    then array(select other from unnest(user_ids) as other where other <> all(ids)) else user_ids end,
  case when ids is not null and user_ids <> '{}' then '{}' else login_ids end,
  case when actor_id = any(ids) then null else actor_id end`;

export interface Redaction {
  /** Events removed, and those that others were named in. */
  readonly removed: number;
  readonly redacted: number;
}

/** Whom to look for: an id, and the login ids by which events may name them alone. */
export interface Sought {
  readonly userId: string;
  readonly loginIds: readonly string[];
}

/** Removes or redacts every event that is about a user, or was done by them. */
export async function redactNamed(
  tx: Executor,
  t: MirrorTables,
  { userId, loginIds }: Sought,
): Promise<Redaction> {
  const ids = textArray([userId]);
  const logins = textArray(loginIds);
  const removed = await rows(
    tx,
    sql`delete from ${t.events}
        where ${whereNamed([userId], logins)}
          and user_ids <@ ${ids} and (user_ids <> '{}' or login_ids <@ ${logins})
        returning 1`,
  );
  const redacted = await rows(
    tx,
    sql`update ${t.events} set ${strip({ userId, loginIds })}
        where ${whereNamed([userId], logins)} or actor_id = any(${ids} || ${logins})
        returning 1`,
  );
  return { removed: removed.length, redacted: redacted.length };
}

/** What is set of an event that stays: others of several users by id, or others' login ids alone. */
export function strip({ userId, loginIds }: Sought): SQL {
  const logins = textArray(loginIds);
  return sql`
    login_ids = case when user_ids <> '{}' then '{}'
      else array(select one from unnest(login_ids) as one where one <> all(${logins})) end,
    user_ids = array_remove(user_ids, ${userId}),
    actor_id = case when actor_id = any(${textArray([userId])} || ${logins}) then null else actor_id end,
    payload = ${REDACTED}::jsonb`;
}

/**
 * Of events that named users by login id alone, and of whom Descope has said who they are: those of erased
 * users go, or keep the others' ids.
 */
export async function redactResolved(
  tx: Executor,
  t: MirrorTables,
  events: readonly { readonly eventId: string; readonly userIds: readonly string[] }[],
): Promise<void> {
  if (events.length === 0) return;
  const records = JSON.stringify(
    events.map(({ eventId, userIds }) => ({ event_id: eventId, user_ids: userIds })),
  );
  await tx.execute(sql`
    with resolved as (
      select event_id, r.user_ids, array_agg(e.user_id) as ids
      from jsonb_to_recordset(${records}::jsonb) as r(event_id text, user_ids text[])
      join ${t.erasures} as e on e.user_id = any(r.user_ids)
      group by event_id, r.user_ids
    ), removed as (
      delete from ${t.events} where event_id in (
        select event_id from resolved where user_ids <@ ids)
    )
    update ${t.events} as stored
    set user_ids = array(select other from unnest(resolved.user_ids) as other where other <> all(ids)),
        login_ids = '{}', payload = ${REDACTED}::jsonb
    from resolved where stored.event_id = resolved.event_id and not resolved.user_ids <@ ids`);
}
