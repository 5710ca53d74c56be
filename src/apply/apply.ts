import { sql, type SQL } from 'drizzle-orm';

import { asInstant, rows, textArray, type Executor } from '../mirror/database.ts';
import {
  decideAll,
  emptySummary,
  insertChanges,
  isRead,
  tally,
  type ApplySummary,
  type Batch,
  type Decided,
} from './batch.ts';
import { winner, type StoredUser } from './ordering.ts';
import {
  insertTenants,
  recordColumns,
  toUserRecords,
  userColumns,
  userRecordType,
} from './records.ts';
import { touch, writeExisting } from './writes.ts';

import type { MirrorTables } from '../mirror/schema.ts';
import type { Observation, Present, Witness } from '../observation.ts';

/*
 * In: observations of any age, order and number. Out: the mirror's rows, its tenants and the feed,
 * written in the caller's transaction. Never asks Descope, never decides whether an absence is true.
 * A generation that nobody reads yet is written by the same rule, and the feed does not hear of it.
 */

/** A statement carries no more, whatever is handed over at once (guarantee G8). */
const MOST_A_STATEMENT = 1_000;

/**
 * Applies observations inside the caller's transaction. Unchanged rows are neither written nor
 * locked; rows are inserted and locked in the order of their ids, so that writers do not deadlock.
 */
export async function applyObservations(
  tx: Executor,
  t: MirrorTables,
  observations: readonly Observation[],
  witness: Witness,
): Promise<ApplySummary> {
  const summary = emptySummary();
  const all = oneEach(observations);
  for (let at = 0; at < all.length; at += MOST_A_STATEMENT) {
    const batch: Batch = { tx, t, witness, summary, changes: [] };
    await applyBatch(batch, all.slice(at, at + MOST_A_STATEMENT));
  }
  return summary;
}

/**
 * A boolean: whether the mirror has the users of a page just so, and applying it would write nothing
 * (the write rule's `unchanged`). A count tells it: the rows themselves would take longer to hand over.
 */
export function isUnchanged(t: MirrorTables, page: readonly Present[]): SQL {
  const userIds = page.map((o) => o.userId);
  const hashes = page.map((o) => o.row.contentHash);
  return sql`(
    select count(*) = ${page.length}
    from unnest(${textArray(userIds)}, ${textArray(hashes)}) as seen (user_id, content_hash)
    join ${t.users} as u using (user_id)
    where u.content_hash = seen.content_hash and u.deleted_at is null)`;
}

async function applyBatch(batch: Batch, observations: Observation[]): Promise<void> {
  const { tx, t } = batch;
  let remaining = observations;
  // A further turn happens only for users that another transaction wrote between our read and our
  // write; by then its row can be seen.
  while (remaining.length > 0) {
    const { stored, erased } = await readStored(tx, t, remaining);
    const isErased = ({ userId }: Observation) => erased.has(userId);
    if (erased.size > 0) await noteErased(batch, remaining.filter(isErased));
    const open = remaining.filter((o) => !isErased(o));
    const decided = decideAll(open, stored);
    tally(batch.summary, decided);
    const lost = await insertNew(batch, decided);
    const locked = await writeExisting(batch, decided);
    remaining = [...lost, ...(await touch(batch, [...decided, ...locked]))];
  }
  await insertChanges(batch);
}

/** One observation a user, the one that wins, sorted by id. */
export function oneEach<Seen extends Observation>(observations: readonly Seen[]): Seen[] {
  const byUser = new Map<string, Seen>();
  for (const observation of observations) {
    const other = byUser.get(observation.userId);
    byUser.set(observation.userId, other ? winner(other, observation) : observation);
  }
  return [...byUser.values()].sort((a, b) => (a.userId < b.userId ? -1 : 1));
}

async function readStored(
  tx: Executor,
  t: MirrorTables,
  observations: readonly Observation[],
): Promise<{ stored: Map<string, StoredUser>; erased: ReadonlySet<string> }> {
  const userIds = textArray(observations.map((o) => o.userId));
  const found = await rows<StoredUser & { userId: string; isErased: boolean }>(
    tx,
    sql`select user_id as "userId", content_hash as "contentHash", deleted_at is not null as gone,
               ${asInstant(sql`observed_at`)} as "observedAt", false as "isErased"
        from ${t.users} where user_id = any(${userIds})
        union all
        select user_id, '', true, ${asInstant(sql`erased_at`)}, true
        from ${t.erasures} where user_id = any(${userIds})`,
  );
  const erased = new Set(found.filter((row) => row.isErased).map((row) => row.userId));
  return { stored: new Map(found.map((row) => [row.userId, row])), erased };
}

/**
 * Keeps of users who were erased whether the directory still shows them, and nothing else: its counts are
 * held against ours.
 */
async function noteErased({ tx, t, summary }: Batch, seen: readonly Observation[]): Promise<void> {
  summary.erased.push(...seen.map((o) => o.userId));
  const records = JSON.stringify(
    seen.map((o) => {
      const created = o.kind === 'present' ? o.row.createdTime : null;
      return { user_id: o.userId, at: o.observedAt, is_there: o.kind === 'present', created };
    }),
  );
  await tx.execute(sql`
    update ${t.erasures} as e
    set seen_at = case when r.is_there then r.at end, created_time = r.created
    from jsonb_to_recordset(${records}::jsonb)
      as r(user_id text, at timestamptz, is_there boolean, created timestamptz)
    where e.user_id = r.user_id and coalesce(e.seen_at, '-infinity') < r.at
      and (r.is_there or e.seen_at is not null)`);
}

/**
 * Inserts users, with their tenants and their news for the feed, and bare tombstones the mirror has no
 * row of; returns those somebody else inserted first.
 */
async function insertNew(batch: Batch, decided: readonly Decided[]): Promise<Observation[]> {
  const fresh = decided.filter((d) => d.isNew).map((d) => d.observation);
  if (fresh.length === 0) return [];
  const present = fresh.filter((o) => o.kind === 'present');
  const absent = fresh.filter((o) => o.kind === 'absent');
  const inserted = new Set<string>();
  if (present.length > 0) {
    const done = await rows<{ userId: string }>(batch.tx, insertUsers(batch, present));
    for (const { userId } of done) inserted.add(userId);
  }
  if (absent.length > 0) {
    const done = await rows<{ userId: string }>(batch.tx, insertTombstones(batch, absent));
    for (const { userId } of done) inserted.add(userId);
  }
  batch.summary.created.push(...present.map((o) => o.userId).filter((id) => inserted.has(id)));
  // A tombstone of a user that was never seen is no news to a reader of the feed.
  return fresh.filter((o) => !inserted.has(o.userId));
}

function insertUsers({ t, witness }: Batch, present: readonly Present[]): SQL {
  return sql`
    with inserted as (
      insert into ${t.users} (${userColumns}, observed_at, changed_at, witness)
      select ${recordColumns}, r.observed_at, ${changedAt(t)}, ${witness}
      from jsonb_to_recordset(${toUserRecords(present)}::jsonb) as r(${userRecordType})
      where ${isNotErased(t)}
      -- One order for all writers, and the feed's within a transaction: a join may bring them in any.
      order by r.user_id
      on conflict (user_id) do nothing
      returning user_id, observed_at
    ), tenants as (
      ${insertTenants(t, present, sql`where user_id in (select user_id from inserted)`)}
    )${isRead(t) ? newsOfInserted(t, witness) : sql``}
    select user_id as "userId" from inserted`;
}

function newsOfInserted(t: MirrorTables, witness: Witness): SQL {
  return sql`, news as (
      insert into ${t.userChanges} (user_id, kind, changed, observed_at, witness)
      select user_id, 'created', '{}', observed_at, ${witness} from inserted
    )`;
}

/**
 * When the content of a new row of the recordset `r` last changed: now. Of a generation beside the one that
 * is read: when that one has it from, where it has just the same.
 */
function changedAt(t: MirrorTables): SQL {
  if (isRead(t)) return sql`clock_timestamp()`;
  const schema = sql.identifier(t.schema.schemaName);
  return sql`coalesce((select changed_at from ${schema}.users as read
    where read.user_id = r.user_id and read.content_hash = r.content_hash
      and read.deleted_at is null), clock_timestamp())`;
}

function insertTombstones({ t, witness }: Batch, absent: readonly Observation[]): SQL {
  const records = JSON.stringify(
    absent.map((o) => ({ user_id: o.userId, observed_at: o.observedAt })),
  );
  return sql`
    insert into ${t.users} (user_id, observed_at, changed_at, deleted_at, witness)
    select user_id, observed_at, clock_timestamp(), clock_timestamp(), ${witness}
    from jsonb_to_recordset(${records}::jsonb) as r(user_id text, observed_at timestamptz)
    where ${isNotErased(t)}
    order by r.user_id
    on conflict (user_id) do nothing
    returning user_id as "userId"`;
}

/**
 * Of rows `r`, or `f`: not of users who were erased. In the write itself, which sees every erasure that ended
 * before it: one under way lets nobody write.
 */
export function isNotErased(t: MirrorTables, of: 'r' | 'f' = 'r'): SQL {
  return sql`not exists (select from ${t.erasures} e where e.user_id = ${sql.raw(of)}.user_id)`;
}
