import { sql, type SQL } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import {
  asInstant,
  rows,
  textArray,
  transaction,
  type Executor,
  type Mirror,
} from '../mirror/database.ts';
import { generations } from '../mirror/generations.ts';
import { clearedColumns } from './records.ts';

import type { MirrorTables } from '../mirror/schema.ts';
import type { Instant } from '../observation.ts';

/** As many as other writers lock at once. */
const TOMBSTONES_A_STEP = 1_000;
/** In `learnt`: no tombstone from before this instant holds more than its id. */
const REDUCED_TO = 'tombstonesReducedTo';

/**
 * Leaves of users who were deleted more than `days` ago the id alone, as of a tombstone whose user was
 * never seen: at most `steps` steps of 1,000, the oldest first. Returns how many. The write rule asks a
 * tombstone for its id and for when it was observed, and both stay, so whoever comes back is restored,
 * and an older observation still finds nothing to write. The feed tells of nothing: nobody has changed.
 * `deletions` holds ids and reasons of ours, `user_tenants` nobody who is gone. What a rebuild fills, and what
 * one has replaced, is treated the same; the count is of those that are read.
 *
 * Safe to run twice, and side by side: a step decides by the rows as it has locked them, in the order in
 * which every writer does.
 * @throws Stopping between two steps
 */
export async function reduceTombstones(
  mirror: Mirror,
  { days, steps }: { readonly days: number; readonly steps: number },
  signal: AbortSignal,
): Promise<number> {
  const to = await readCutoff(mirror, days);
  let reduced = 0;
  for (let step = 0; step < steps; step++) {
    if (signal.aborted) throw new Stopping();
    const done = await transaction(mirror, (tx) => reduceStep(tx, mirror, to));
    reduced += done.reduced;
    if (done.isLast) break;
  }
  return reduced;
}

async function readCutoff({ db }: Pick<Mirror, 'db'>, days: number): Promise<Instant> {
  const cutoff = sql`(clock_timestamp() - make_interval(days => ${days}))`;
  const [row] = await rows<{ to: Instant }>(db, sql`select ${asInstant(cutoff)} as to`);
  if (!row) throw new Error('the database did not tell the time');
  return row.to;
}

async function reduceStep(
  tx: Executor,
  mirror: Pick<Mirror, 't'>,
  to: Instant,
): Promise<{ reduced: number; isLast: boolean }> {
  const { t } = mirror;
  const full = sql`deleted_at < ${to}::timestamptz and raw <> '{}'::jsonb`;
  const all = await generations(tx, t);
  // Nobody is deleted in the past: behind the mark there is nothing new. Unless it is one of the future,
  // set while the clock was wrong: such a mark is none.
  const parts = all.map(
    ({ users }) => sql`(
      select user_id, deleted_at from ${users}
      where deleted_at >= coalesce((select (value #>> '{}')::timestamptz from ${t.learnt}
                                    where name = ${REDUCED_TO}
                                      and (value #>> '{}')::timestamptz <= clock_timestamp()), '-infinity')
        and ${full}
      order by deleted_at limit ${TOMBSTONES_A_STEP})`,
  );
  const found = await rows<{ userId: string; deletedAt: Instant }>(
    tx,
    sql`select user_id as "userId", ${asInstant(sql`deleted_at`)} as "deletedAt"
        from (${sql.join(parts, sql` union all `)}) as one
        order by deleted_at limit ${TOMBSTONES_A_STEP}`,
  );
  const userIds = found.map((row) => row.userId);
  let reduced = 0;
  for (const one of all) {
    const count = await reduceUsers(tx, one, sql`user_id = any(${textArray(userIds)}) and ${full}`);
    if (one === all[0]) reduced = count;
  }
  const isLast = found.length < TOMBSTONES_A_STEP;
  await moveMark(tx, { t }, isLast ? to : (found.at(-1)?.deletedAt ?? to));
  return { reduced, isLast };
}

/** Of one generation. Returns how many. */
async function reduceUsers(
  tx: Executor,
  { users }: Pick<MirrorTables, 'users'>,
  which: SQL,
): Promise<number> {
  const locked = await rows<{ userId: string }>(
    tx,
    sql`select user_id as "userId" from ${users} where ${which} order by user_id for update`,
  );
  await tx.execute(
    sql`update ${users} set ${clearedColumns}
        where user_id = any(${textArray(locked.map((row) => row.userId))})`,
  );
  return locked.length;
}

/** Only ever forward, but for one of the future: after `TOMBSTONE_RETENTION_DAYS` was raised there is nothing to do for a while. */
async function moveMark(tx: Executor, { t }: Pick<Mirror, 't'>, to: Instant): Promise<void> {
  await tx.execute(sql`
    insert into ${t.learnt} as known (name, value) values (${REDUCED_TO}, to_jsonb(${to}::text))
    on conflict (name) do update set value = excluded.value, learnt_at = clock_timestamp()
    where (known.value #>> '{}')::timestamptz < (excluded.value #>> '{}')::timestamptz
       or (known.value #>> '{}')::timestamptz > clock_timestamp()`);
}
