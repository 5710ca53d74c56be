import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { rows, textArray, transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { applyObservations } from './apply.ts';
import { asRecords, tombstone } from './deletions.ts';
import { LOAD_LIMIT, lookUp, type Loads, type LookUp } from './lookUp.ts';

/*
 * In: a person's word on deletions that the breaker held. Out: tombstones, or users that stay. Approval
 * is no proof: every user is loaded by id once more, and who is there after all is written as seen
 * (guarantee G4). A batch is one transaction, so an interrupted approval goes on where it stopped.
 */

export interface HeldDeps {
  readonly mirror: Mirror;
  readonly client: Loads;
}

/** What became of the users whose deletion was approved. */
export interface Approved {
  readonly tombstoned: number;
  /** There after all. */
  readonly present: number;
}

/**
 * Carries out the held deletions of these users, of all where none is named, as far as loads by id
 * still say that they are gone. Those held later than `upTo` (a deletion's id; where absent, the newest
 * when this begins) are not meant: nobody has seen them.
 * @throws the client's errors and Stopping; batches before that are decided, the others still held
 */
export async function approveHeld(
  { mirror, client }: HeldDeps,
  userIds: readonly string[],
  signal: AbortSignal,
  upTo?: number,
): Promise<Approved> {
  const total = { tombstoned: 0, present: 0 };
  for await (const batch of batchesOf(mirror, { userIds, upTo }, signal)) {
    const answer = await lookUp(client, batch, () => true, { priority: 'event', signal });
    const decided = await transaction(mirror, (tx) => settle(tx, mirror, batch, answer));
    total.tombstoned += decided.tombstoned;
    total.present += decided.present;
  }
  return total;
}

/**
 * Drops the held deletions of these users, of all where none is named: the users stay as they are.
 * Returns how many users that were. A later finding may hold them again.
 * @throws Stopping
 */
export async function rejectHeld(
  mirror: Mirror,
  userIds: readonly string[],
  signal: AbortSignal,
  upTo?: number,
): Promise<number> {
  let rejected = 0;
  for await (const batch of batchesOf(mirror, { userIds, upTo }, signal)) {
    await mirror.db.execute(sql`
      update ${mirror.t.deletions}
      set state = 'rejected', decided_at = clock_timestamp(),
          evidence = concat_ws('; ', evidence, 'rejected')
      where state = 'held' and user_id = any(${textArray(batch)})`);
    rejected += batch.length;
  }
  return rejected;
}

/** Users held at the moment, by id, each once. */
async function* batchesOf(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  { userIds, upTo }: { readonly userIds: readonly string[]; readonly upTo: number | undefined },
  signal: AbortSignal,
): AsyncGenerator<string[], void> {
  const [newest] = await rows<{ deletionId: number }>(
    db,
    sql`select coalesce(max(deletion_id), 0)::float8 as "deletionId" from ${t.deletions}
        where state = 'held'`,
  );
  const last = Math.min(upTo ?? Infinity, newest?.deletionId ?? 0);
  const wanted = userIds.length === 0 ? sql`true` : sql`user_id = any(${textArray(userIds)})`;
  for (let after = ''; ;) {
    if (signal.aborted) throw new Stopping();
    const found = await rows<{ userId: string }>(
      db,
      sql`select distinct user_id as "userId" from ${t.deletions}
          where state = 'held' and user_id > ${after} and deletion_id <= ${last} and ${wanted}
          order by user_id limit ${LOAD_LIMIT}`,
    );
    const end = found.at(-1);
    if (!end) return;
    yield found.map((row) => row.userId);
    after = end.userId;
  }
}

/**
 * Writes what the loads showed, then decides by the rows themselves: where something newer than our
 * load has been seen of a user, that counts.
 */
async function settle(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  batch: readonly string[],
  { present, absent }: LookUp,
): Promise<Approved> {
  await applyObservations(tx, t, present, 'manual');
  await tombstone(tx, { t }, absent, 'manual');
  const decided = await rows<{ userId: string; isGone: boolean }>(
    tx,
    sql`
      update ${t.deletions} as d
      set state = case when u.deleted_at is null then 'present' else 'tombstoned' end,
          decided_at = clock_timestamp(), verified_at = coalesce(r.at, d.verified_at),
          evidence = concat_ws('; ', d.evidence,
            case when u.deleted_at is null then 'approved, but the user is there'
                 else 'approved: ' || coalesce(r.evidence, 'gone already') end)
      from ${t.users} as u left join ${asRecords(absent)} on r.user_id = u.user_id
      where d.user_id = u.user_id and d.state = 'held' and u.user_id = any(${textArray(batch)})
      returning d.user_id as "userId", u.deleted_at is not null as "isGone"`,
  );
  const gone = new Set(decided.filter((row) => row.isGone).map((row) => row.userId));
  const there = new Set(decided.filter((row) => !row.isGone).map((row) => row.userId));
  return { tombstoned: gone.size, present: there.size };
}
