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
