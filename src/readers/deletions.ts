import { sql } from 'drizzle-orm';

import { asInstant, rows, textArray, type Mirror } from '../mirror/database.ts';

import type { Instant, Witness } from '../observation.ts';

type Db = Pick<Mirror, 'db' | 't'>;

/** A deletion that waits for a person; nothing in it is personal but the user's id. */
export interface HeldDeletion {
  readonly userId: string;
  readonly nominatedAt: Instant;
  /** When a load by id last said that the user is gone. */
  readonly verifiedAt: Instant | null;
  readonly witness: Witness;
  /** The sweep or verification that found it; null where events told. */
  readonly runId: number | null;
  readonly evidence: string | null;
}

export interface HeldDeletions {
  /** Users held, whether listed or not. */
  readonly held: number;
  readonly deletions: readonly HeldDeletion[];
}

/** The users held, the first `most` of them by id; only those of `userIds` where it is not empty. */
export async function listHeld(
  { db, t }: Db,
  userIds: readonly string[],
  most: number,
): Promise<HeldDeletions> {
  const wanted = userIds.length === 0 ? sql`true` : sql`user_id = any(${textArray(userIds)})`;
  const [counted] = await rows<{ held: number }>(
    db,
    sql`select count(distinct user_id)::int as held from ${t.deletions}
        where state = 'held' and ${wanted}`,
  );
  const deletions = await rows<HeldDeletion>(
    db,
    sql`select distinct on (user_id) user_id as "userId",
               ${asInstant(sql`nominated_at`)} as "nominatedAt",
               ${asInstant(sql`verified_at`)} as "verifiedAt",
               witness, run_id::float8 as "runId", evidence
        from ${t.deletions} where state = 'held' and ${wanted}
        order by user_id, deletion_id desc limit ${most}`,
  );
  return { held: counted?.held ?? 0, deletions };
}

/** The same, one of a list. */
export interface ListedDeletion extends Omit<HeldDeletion, 'runId'> {
  readonly deletionId: number;
}

export interface HeldPage {
  /** Users held, whether on this page or not. */
  readonly total: number;
  readonly deletions: readonly ListedDeletion[];
  /** Where the next page begins after; null where this is the last. */
  readonly next: number | null;
  /** Of all that are held, the deletion found last; 0 where none is. */
  readonly newest: number;
}

/** The users held, a page of at most `most`, oldest finding first; each once, by the latest finding. */
export async function readHeldPage(
  { db, t }: Db,
  { after, most }: { readonly after: number; readonly most: number },
): Promise<HeldPage> {
  const [counted] = await rows<{ total: number; newest: number }>(
    db,
    sql`select count(distinct user_id)::int as total,
               coalesce(max(deletion_id), 0)::float8 as newest from ${t.deletions} where state = 'held'`,
  );
  const deletions = await rows<ListedDeletion>(
    db,
    sql`select deletion_id::float8 as "deletionId", user_id as "userId", witness,
               ${asInstant(sql`nominated_at`)} as "nominatedAt",
               ${asInstant(sql`verified_at`)} as "verifiedAt", evidence
        from ${t.deletions} d
        where state = 'held' and deletion_id > ${after}
          and not exists (select 1 from ${t.deletions} later
                          where later.user_id = d.user_id and later.state = 'held'
                            and later.deletion_id > d.deletion_id)
        order by deletion_id limit ${most + 1}`,
  );
  const page = deletions.slice(0, most);
  const next = deletions.length > most ? (page.at(-1)?.deletionId ?? null) : null;
  return { total: counted?.total ?? 0, deletions: page, next, newest: counted?.newest ?? 0 };
}

/** Of these users, those of whom no deletion is held. */
export async function listNotHeld({ db, t }: Db, userIds: readonly string[]): Promise<string[]> {
  const found = await rows<{ userId: string }>(
    db,
    sql`select given.user_id as "userId" from unnest(${textArray(userIds)}) as given(user_id)
        where not exists (select 1 from ${t.deletions} d
                          where d.user_id = given.user_id and d.state = 'held')`,
  );
  return found.map((row) => row.userId);
}
