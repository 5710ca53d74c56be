import { sql, type SQL } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { redactMentions } from '../inbox/mentions.ts';
import { redactNamed } from '../inbox/redact.ts';
import { asInstant, rows, transactionAlone, type Executor } from '../mirror/database.ts';
import { scrubAdminLog } from '../mirror/adminLog.ts';
import { generations } from '../mirror/generations.ts';
import { findKnownBy, isKnown, type KnownBy } from './knownBy.ts';

import type { Mirror } from '../mirror/database.ts';
import type { Instant } from '../observation.ts';

/*
 * In: a user id. Out: nothing of that user in any table, but a row of `erasures`: the proof, and by every
 * write's own `where` what keeps the user out from now on. The queue holds ids of events only, never a
 * user's.
 */

export interface EraseRequest {
  readonly userId: string;
  /** Who asked for it, for the proof. */
  readonly by: string;
  /** Further addresses, numbers and login ids of the person, such as former ones. */
  readonly also: readonly string[];
  /** Also a user of whom nothing is known: kept out from now on. */
  readonly unknownToo: boolean;
}

/** Rows removed or changed, by table. */
export type ErasedCounts = Readonly<Record<string, number>>;

export interface Erased {
  readonly userId: string;
  readonly erasedAt: Instant;
  /** They had been erased before. */
  readonly again: boolean;
  readonly counts: ErasedCounts;
}

/** What the person is known by may change while events are read. */
const TRIES = 5;

/**
 * Erases a user, or does so again. Null where nothing is known of the user, and nothing was done.
 *
 * First every event that mentions them is redacted, which may take as long as reading the inbox does; the
 * rest is one short transaction beside which nobody writes. Killed before that, it is run again.
 * @throws Stopping before that transaction; what Postgres throws
 */
export async function eraseUser(
  mirror: Mirror,
  request: EraseRequest,
  signal: AbortSignal,
): Promise<Erased | null> {
  const { db, t } = mirror;
  const { userId } = request;
  if (!request.unknownToo && !(await isKnown(db, t, userId))) return null;
  let redacted = 0;
  for (let attempt = 1; ; attempt++) {
    const mentioned = await findKnownBy(db, t, userId, request.also);
    const since = await beforeAllUnderWay(mirror);
    redacted += await redactMentions(db, t, { mentioned, since: '-infinity', signal });
    if (signal.aborted) throw new Stopping();
    const done = await transactionAlone(mirror, async (tx) => {
      const now = await findKnownBy(tx, t, userId, request.also);
      const isMore = now.values.some((value) => !mentioned.values.includes(value));
      if (isMore && attempt < TRIES) return null;
      const scan = { mentioned: now, since, signal: new AbortController().signal };
      const late = await redactMentions(tx, t, scan);
      return eraseNow(tx, mirror, { request, known: now, redacted: redacted + late });
    });
    if (done !== null) return done;
  }
}

/** Received before this, an event is committed: no statement of ours takes longer. */
async function beforeAllUnderWay({ db }: Pick<Mirror, 'db'>): Promise<Instant> {
  const before = sql`(clock_timestamp() - interval '70 seconds')`;
  const [row] = await rows<{ at: Instant }>(db, sql`select ${asInstant(before)} as at`);
  if (!row) throw new Error('the database did not tell the time');
  return row.at;
}

interface Step {
  readonly request: EraseRequest;
  readonly known: KnownBy;
  /** Events that only mentioned the user. */
  readonly redacted: number;
}

async function eraseNow(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  { request, known, redacted }: Step,
): Promise<Erased> {
  const { userId } = request;
  const removeFrom = async (table: SQL) =>
    (await rows(tx, sql`delete from ${table} where user_id = ${userId} returning 1`)).length;
  const events = await redactNamed(tx, t, known);
  const users = await removeUser(tx, { t }, userId);
  const counts = {
    users: users.users,
    user_tenants: users.userTenants,
    user_changes: await leaveFeed(tx, { t }, userId),
    outgoing_deliveries: await withdrawDeliveries(tx, { t }, userId),
    events: events.removed,
    events_redacted: events.redacted + redacted,
    deletions: await removeFrom(sql`${t.deletions}`),
    admin_log: await scrubAdminLog(tx, { t }, known.values),
  };
  return leaveProof(tx, { t }, { request, counts, live: users.live });
}

/** Removes the user from every generation of the tables; `live` is the row that readers saw, where there was one. */
async function removeUser(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  userId: string,
): Promise<{ users: number; userTenants: number; live: Removed | null }> {
  const done = { users: 0, userTenants: 0 };
  let live: Removed | null = null;
  for (const of of await generations(tx, t)) {
    const [row] = await rows<Removed & { isLive: boolean }>(
      tx,
      sql`delete from ${of.users} where user_id = ${userId}
          returning ${asInstant(sql`created_time`)} as "createdTime", deleted_at is null as "isLive"`,
    );
    if (row) done.users++;
    if (row?.isLive && of.generation === '') live = row;
    const tenants = await rows(
      tx,
      sql`delete from ${of.userTenants} where user_id = ${userId} returning 1`,
    );
    done.userTenants += tenants.length;
  }
  return { ...done, live };
}

/** The row that was the user's. */
interface Removed {
  readonly createdTime: Instant | null;
}

/**
 * Makes the user's rows of the feed rows of nobody, which no reader is shown: a reader's cursor may be one
 * of them. Who has a copy hears of it by one row more, which carries the id alone.
 */
async function leaveFeed(tx: Executor, { t }: Pick<Mirror, 't'>, userId: string): Promise<number> {
  // Of one who is erased already the feed has that row, and nothing was written since.
  const left = await rows(
    tx,
    sql`update ${t.userChanges} set user_id = '', changed = '{}'
        where user_id = ${userId}
          and not exists (select from ${t.erasures} e where e.user_id = ${userId})
        returning 1`,
  );
  if (left.length > 0) {
    await tx.execute(sql`
      insert into ${t.userChanges} (user_id, kind, observed_at, witness)
      values (${userId}, 'deleted', clock_timestamp(), 'manual')`);
  }
  return left.length;
}

/**
 * Takes back what was to be posted of the user, and its log. One that is being posted at this moment stays, with
 * the id alone: behind it waits the change that tells of the erasure, and must not overtake it.
 */
async function withdrawDeliveries(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  userId: string,
): Promise<number> {
  const erasedBefore = sql`exists (select from ${t.erasures} e where e.user_id = ${userId})`;
  // Of one who is erased already there is only what tells of it.
  const withdrawn = await rows(
    tx,
    sql`delete from ${t.outgoingDeliveries} where user_id = ${userId} and not ${erasedBefore}
          and (taken_until is null or taken_until <= clock_timestamp()) returning 1`,
  );
  await tx.execute(sql`
    update ${t.outgoingDeliveries} set changed = '{}', error = null
    where user_id = ${userId} and not ${erasedBefore}`);
  return withdrawn.length;
}

async function leaveProof(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  proof: {
    readonly request: EraseRequest;
    readonly counts: ErasedCounts;
    readonly live: Removed | null;
  },
): Promise<Erased> {
  const { request, counts, live } = proof;
  const [row] = await rows<{ erasedAt: Instant; again: boolean }>(
    tx,
    sql`
      insert into ${t.erasures} as known (user_id, erased_by, counts, created_time, seen_at)
      values (${request.userId}, ${request.by}, ${JSON.stringify(counts)}::jsonb,
              ${live?.createdTime ?? null}::timestamptz,
              case when ${live !== null} then clock_timestamp() end)
      on conflict (user_id) do update set counts = (
        select jsonb_object_agg(key, coalesce((known.counts ->> key)::bigint, 0) + value::bigint)
        from jsonb_each_text(excluded.counts))
      returning ${asInstant(sql`erased_at`)} as "erasedAt", xmax <> 0 as again`,
  );
  if (!row) throw new Error('the proof was not written');
  return { userId: request.userId, ...row, counts };
}

/**
 * Lets a user be mirrored again, by the next sweep or by the next event or pull that looks at them. False
 * where they were not erased.
 */
export async function undoErasure(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  userId: string,
): Promise<boolean> {
  const undone = await rows(
    db,
    sql`delete from ${t.erasures} where user_id = ${userId} returning 1`,
  );
  return undone.length > 0;
}
