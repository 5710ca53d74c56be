import { sql } from 'drizzle-orm';

import { findChange } from '../inbox/changed.ts';
import { isRecord } from '../json.ts';
import { rows, textArray, type Executor } from '../mirror/database.ts';
import { generations } from '../mirror/generations.ts';

import type { Mentioned } from '../inbox/mentions.ts';
import type { MirrorTables } from '../mirror/schema.ts';

/*
 * In: a user id. Out: by what else the mirror knows that person, from its rows and from the events about them
 * alone: what events of others may mention.
 */

/** `loginIds`: by which an event may name the person alone; `values`: all there is. */
export type KnownBy = Mentioned;

/** Fields of a user, in lower case without separators, that are nobody else's as a rule. */
const TELLING_FIELDS = /^(added|new)?(email|phone|loginids?|externalids?|recovery(email|phone))$/;

/** Whether the mirror holds anything of a user, be it the proof that they were erased. */
export async function isKnown(db: Executor, t: MirrorTables, userId: string): Promise<boolean> {
  const users = (await generations(db, t)).map(
    (of) => sql`exists (select from ${of.users} where user_id = ${userId})`,
  );
  const [row] = await rows<{ isKnown: boolean }>(
    db,
    sql`select ${sql.join(users, sql` or `)}
            or exists (select from ${t.erasures} where user_id = ${userId})
            or exists (select from ${t.events} where user_ids && ${textArray([userId])})
            or exists (select from ${t.events} where actor_id = ${userId})
            or exists (select from ${t.userChanges} where user_id = ${userId})
            or exists (select from ${t.deletions} where user_id = ${userId}) as "isKnown"`,
  );
  return row?.isKnown ?? false;
}

/** What the person is or was known by; not what by now is another user's login id or mail address. */
export async function findKnownBy(
  db: Executor,
  t: MirrorTables,
  userId: string,
  also: readonly string[],
): Promise<KnownBy> {
  const held: { readonly logins: readonly string[]; readonly raw: unknown }[] = [];
  for (const { users } of await generations(db, t)) {
    const found = await rows<(typeof held)[number]>(
      db,
      sql`select login_ids || external_ids as logins, raw from ${users} where user_id = ${userId}`,
    );
    held.push(...found);
  }
  const told = await rows<{ logins: readonly string[]; payload: unknown }>(
    db,
    sql`select login_ids as logins, payload from ${t.events}
        where user_ids && ${textArray([userId])} and user_ids <@ ${textArray([userId])}`,
  );
  const loginIds = [...held, ...told].flatMap(({ logins }) => logins);
  const values = [
    ...loginIds,
    ...held.flatMap(({ raw }) => tellingTexts(raw)),
    ...told.flatMap(({ payload }) => tellingTexts(findChange(payload))),
    ...also,
  ];
  const theirs = await withoutOthers(db, t, userId, [...new Set(values)]);
  return {
    userId,
    loginIds: theirs.filter((value) => loginIds.includes(value) || also.includes(value)),
    values: [userId, ...theirs],
  };
}

/** The values of such fields, one or several. */
function tellingTexts(fields: unknown): string[] {
  if (!isRecord(fields)) return [];
  return Object.entries(fields)
    .filter(([name]) => TELLING_FIELDS.test(name.replaceAll(/[_\-. ]/g, '').toLowerCase()))
    .flatMap(([, value]) => (Array.isArray(value) ? (value as unknown[]) : [value]))
    .filter((value) => typeof value === 'string')
    .filter((value) => value.trim() !== '');
}

async function withoutOthers(
  db: Executor,
  t: MirrorTables,
  userId: string,
  values: readonly string[],
): Promise<string[]> {
  const found = await rows<{ value: string }>(
    db,
    sql`select value from unnest(${textArray(values)}) as value
        where value <> ${userId} and not exists (
          select from ${t.users} other where other.user_id <> ${userId}
            and other.login_ids @> array[value])
        and not exists (
          select from ${t.users} other where other.user_id <> ${userId} and other.email = value)`,
  );
  return found.map((row) => row.value);
}
