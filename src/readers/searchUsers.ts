import { sql, type SQL } from 'drizzle-orm';

import { findCode } from '../errors.ts';
import { asInstant, rows, textArray, transaction, type Mirror } from '../mirror/database.ts';

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
  /** False where login ids that begin so were not all looked at in time. */
  readonly complete: boolean;
}

const MOST = 20;
/** No index holds beginnings of login ids, a million users take 2 s: with many more the search is cut short. */
const PATIENCE_MS = 3_000;
/** Who was found exactly is most likely who was meant: of the patience, so much is left for others. */
const PATIENCE_FOR_OTHERS = 1 / 6;
/** Postgres ended a statement that took too long. */
const TIMED_OUT = '57014';

/**
 * At most 20 users: those whose user id, login id or mail address is `query`, the live ones first, then
 * those who have a login id that begins so, as far as they are met in time.
 */
export async function searchUsers(
  mirror: Pick<Mirror, 'db' | 'pool' | 'schema' | 't'>,
  query: string,
  patienceMs = PATIENCE_MS,
): Promise<FoundUsers> {
  const text = query.trim();
  const lower = text.toLowerCase();
  const exact = await rows<FoundUser>(
    mirror.db,
    selectUsers(
      mirror,
      // Spelled so that each part is asked of its own index: a hash index takes no list.
      sql`user_id = ${text} or login_ids && ${textArray([text, lower])}
          or email = ${text} or email = ${lower}
          order by deleted_at is not null, user_id limit ${MOST}`,
    ),
  );
  const left = MOST - exact.length;
  if (left === 0 || text === '') return { users: exact, complete: true };
  const found = exact.map(({ userId }) => userId);
  const limitMs = Math.ceil(found.length === 0 ? patienceMs : patienceMs * PATIENCE_FOR_OTHERS);
  // In no order: the first that are met end the search.
  const prefixed = selectUsers(
    mirror,
    sql`exists (select 1 from unnest(login_ids) as own(login_id)
                where starts_with(lower(login_id), ${lower}))
        and user_id <> all (${textArray(found)}) limit ${left}`,
  );
  try {
    const more = await transaction(mirror, async (tx) => {
      await tx.execute(sql.raw(`set local statement_timeout = ${limitMs}`));
      return rows<FoundUser>(tx, prefixed);
    });
    return { users: [...exact, ...more.sort(byLoginId)], complete: true };
  } catch (error) {
    if (findCode(error) !== TIMED_OUT) throw error;
    return { users: exact, complete: false };
  }
}

function selectUsers({ t }: Pick<Mirror, 't'>, where: SQL): SQL {
  return sql`select user_id as "userId", login_ids as "loginIds", email, name, status,
                    ${asInstant(sql`deleted_at`)} as "deletedAt"
             from ${t.users} where ${where}`;
}

function byLoginId(a: FoundUser, b: FoundUser): number {
  return (a.loginIds[0] ?? '') < (b.loginIds[0] ?? '') ? -1 : 1;
}
