import { sql } from 'drizzle-orm';

import { asInstant, rows, textArray } from '../mirror/database.ts';
import { changedFields, decideAll, note, tally, type Batch, type Decided } from './batch.ts';
import {
  insertTenants,
  recordColumns,
  toUserRecords,
  userColumns,
  userRecordType,
} from './records.ts';

import type { Observation } from '../observation.ts';
import type { Decision, StoredUser } from './ordering.ts';

/*
 * Writes to rows the mirror has. Each statement repeats the write rule in its own `where`: an older
 * observation finds no row to write.
 */

interface LockedUser extends StoredUser {
  readonly userId: string;
  /** As text: JavaScript's numbers would hide a change beyond 2^53. */
  readonly raw: string;
}

/** Locks the rows that differ, decides again on what the lock shows, and writes. Returns what it decided. */
export async function writeExisting(
  batch: Batch,
  decided: readonly Decided[],
): Promise<readonly Decided[]> {
  const writes = new Set<Decision>(['update', 'restore', 'tombstone']);
  const candidates = decided
    .filter((d) => !d.isNew && writes.has(d.decision))
    .map((d) => d.observation);
  if (candidates.length === 0) return [];
  const locked = await rows<LockedUser>(
    batch.tx,
    sql`select user_id as "userId", content_hash as "contentHash", deleted_at is not null as gone,
               ${asInstant(sql`observed_at`)} as "observedAt", raw::text as raw
        from ${batch.t.users} where user_id = any(${textArray(candidates.map((o) => o.userId))})
        order by user_id for update`,
  );
  const before = new Map(locked.map((row) => [row.userId, row]));
  const again = decideAll(candidates, before);
  tally(batch.summary, again);
  await updateUsers(batch, again, before);
  await tombstoneUsers(batch, again);
  return again;
}

async function updateUsers(
  batch: Batch,
  decided: readonly Decided[],
  before: ReadonlyMap<string, LockedUser>,
): Promise<void> {
  const updates = decided
    .filter((d) => d.decision === 'update' || d.decision === 'restore')
    .map((d) => d.observation)
    .filter((o) => o.kind === 'present');
  if (updates.length === 0) return;
  const { tx, t, witness } = batch;
  const written = await rows<{ userId: string }>(
    tx,
    sql`
      update ${t.users} as u
      set (${userColumns}, observed_at, changed_at, deleted_at, witness)
        = row(${recordColumns}, r.observed_at, clock_timestamp(), null::timestamptz, ${witness}::text)
      from jsonb_to_recordset(${toUserRecords(updates)}::jsonb) as r(${userRecordType})
      where u.user_id = r.user_id
        and (u.observed_at, u.deleted_at is null, u.content_hash)
          < (r.observed_at, true, r.content_hash)
      returning u.user_id as "userId"`,
  );
  const done = new Set(written.map((row) => row.userId));
  const changed = updates.filter((o) => done.has(o.userId));
  batch.summary.stale.push(...updates.filter((o) => !done.has(o.userId)).map((o) => o.userId));
  await deleteTenants(batch, changed);
  if (changed.some(({ row }) => row.tenants.length > 0)) {
    await tx.execute(insertTenants(t, changed));
  }
  for (const o of changed) {
    const old = before.get(o.userId);
    const kind = old?.gone ? 'restored' : 'updated';
    note(batch, o, kind, changedFields(old?.raw ?? '{}', o.row.raw));
  }
}

async function tombstoneUsers(batch: Batch, decided: readonly Decided[]): Promise<void> {
  const absent = decided.filter((d) => d.decision === 'tombstone').map((d) => d.observation);
  if (absent.length === 0) return;
  const records = JSON.stringify(
    absent.map((o) => ({ user_id: o.userId, observed_at: o.observedAt })),
  );
  const written = await rows<{ userId: string }>(
    batch.tx,
    sql`
      update ${batch.t.users} as u
      set deleted_at = clock_timestamp(), changed_at = clock_timestamp(),
          observed_at = r.observed_at, witness = ${batch.witness}
      from jsonb_to_recordset(${records}::jsonb) as r(user_id text, observed_at timestamptz)
      where u.user_id = r.user_id and u.deleted_at is null and u.observed_at < r.observed_at
      returning u.user_id as "userId"`,
  );
  const done = new Set(written.map((row) => row.userId));
  const gone = absent.filter((o) => done.has(o.userId));
  await deleteTenants(batch, gone);
  for (const o of gone) note(batch, o, 'deleted', []);
}

/** The same as the mirror has, seen later by a load. Returns what a row that was written meanwhile refused. */
export async function touch(
  { tx, t, summary }: Batch,
  decided: readonly Decided[],
): Promise<Observation[]> {
  const seen = decided.filter((d) => d.decision === 'touch').map((d) => d.observation);
  if (seen.length === 0) return [];
  const records = JSON.stringify(
    seen.map((o) => {
      const contentHash = o.kind === 'present' ? o.row.contentHash : null;
      return { user_id: o.userId, observed_at: o.observedAt, content_hash: contentHash };
    }),
  );
  const touched = await rows<{ userId: string }>(
    tx,
    sql`
      update ${t.users} as u set observed_at = r.observed_at
      from (select * from jsonb_to_recordset(${records}::jsonb)
              as r(user_id text, observed_at timestamptz, content_hash text)
            order by user_id) as r
      where u.user_id = r.user_id and u.observed_at < r.observed_at
        -- What was seen later must be what the row holds: to move it with another's content were a lie.
        and (u.deleted_at is not null) = (r.content_hash is null)
        and u.content_hash = coalesce(r.content_hash, u.content_hash)
      returning u.user_id as "userId"`,
  );
  const done = new Set(touched.map((row) => row.userId));
  const lost = seen.filter((o) => !done.has(o.userId));
  summary.unchanged -= lost.length;
  return lost;
}

async function deleteTenants({ tx, t }: Batch, of: readonly Observation[]): Promise<void> {
  if (of.length === 0) return;
  await tx.execute(
    sql`delete from ${t.userTenants} where user_id = any(${textArray(of.map((o) => o.userId))})`,
  );
}
