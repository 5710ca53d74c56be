import { sql, type SQL } from 'drizzle-orm';

import { findCode } from '../errors.ts';
import { asInstant, rows, textArray, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/** A user as a search finds them. Personal data: for the answer to who asked, and nowhere else. */
export interface FoundUser {
  readonly userId: string;
  readonly loginIds: readonly string[];
  readonly email: string | null;
  readonly name: string | null;
  readonly status: string | null;
  /** Null while the user is there. */
  readonly deletedAt: Instant | null;
}

export interface FoundUsers {
  readonly users: readonly FoundUser[];
  /** False where not all users were looked at for login ids that begin so. */
  readonly complete: boolean;
}

export interface SearchOptions {
  /** Look at everyone for login ids that begin so, however many there are; else at the first `looked`. */
  readonly thorough?: boolean | undefined;
  readonly looked?: number;
  /** After so long even a thorough search is cut short. */
  readonly patienceMs?: number;
}

type Db = Pick<Mirror, 'db' | 'pool' | 'schema' | 't'>;

const MOST = 20;
/** No index holds beginnings of login ids, and one would slow down each fill: so many are looked at in no time. */
const LOOKED_AT = 20_000;
/** A million users take some 2 s. */
const PATIENCE_MS = 10_000;
/** Postgres ended a statement that took too long. */
const TIMED_OUT = '57014';

/**
 * At most 20 users: those whose user id, login id or mail address is `query`, the live ones first, then
 * those who have a login id that begins so, as far as they were looked at.
 */
export async function searchUsers(
  mirror: Db,
  query: string,
  options: SearchOptions = {},
): Promise<FoundUsers> {
  const text = query.trim();
  const lower = text.toLowerCase();
  const exact = await rows<FoundUser>(
    mirror.db,
    selectUsers(
      mirror.t.users,
      // Spelled so that each part is asked of its own index: a hash index takes no list.
      sql`user_id = ${text} or login_ids && ${textArray([text, lower])}
          or email = ${text} or email = ${lower}
          order by deleted_at is not null, user_id limit ${MOST}`,
    ),
  );
  const left = MOST - exact.length;
  if (left === 0 || text === '') return { users: exact, complete: true };
  const { thorough = false, looked = LOOKED_AT, patienceMs = PATIENCE_MS } = options;
  const isAll = thorough || (await isAtMost(mirror, looked));
  const others = sql`exists (select 1 from unnest(login_ids) as own(login_id)
                             where starts_with(lower(login_id), ${lower}))
    and user_id <> all (${textArray(exact.map(({ userId }) => userId))}) limit ${left}`;
  // In no order: the first that are met end the search.
  const from = isAll
    ? mirror.t.users
    : sql`(select * from ${mirror.t.users} limit ${looked}) as looked_at`;
  const more = await inTime(mirror, selectUsers(from, others), patienceMs);
  return {
    users: [...exact, ...(more ?? []).sort(byLoginId)],
    complete: more !== null && (isAll || more.length === left),
  };
}

/** Null where it took too long. */
async function inTime(mirror: Db, query: SQL, patienceMs: number): Promise<FoundUser[] | null> {
  try {
    // Not one of ours: it writes nothing, and nobody who writes is to wait for it.
    return await mirror.db.transaction(
      async (tx) => {
        await tx.execute(sql.raw(`set local statement_timeout = ${patienceMs}`));
        return rows<FoundUser>(tx, query);
      },
      { accessMode: 'read only' },
    );
  } catch (error) {
    if (findCode(error) !== TIMED_OUT) throw error;
    return null;
  }
}

/** Whether the mirror has so many users, tombstones too, or fewer; counts no further. */
async function isAtMost({ db, t }: Db, most: number): Promise<boolean> {
  const beyond = await rows(db, sql`select 1 from ${t.users} offset ${most} limit 1`);
  return beyond.length === 0;
}

function selectUsers(from: SQL | Mirror['t']['users'], where: SQL): SQL {
  return sql`select user_id as "userId", login_ids as "loginIds", email, name, status,
                    ${asInstant(sql`deleted_at`)} as "deletedAt"
             from ${from} where ${where}`;
}

function byLoginId(a: FoundUser, b: FoundUser): number {
  return (a.loginIds[0] ?? '') < (b.loginIds[0] ?? '') ? -1 : 1;
}
