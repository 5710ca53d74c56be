import { sql } from 'drizzle-orm';
import { randomUUID } from 'node:crypto';

import { rows, type Executor, type Mirror } from '../mirror/database.ts';
import { epochMs, instantOf, type Db, type Pull } from './ledger.ts';

/*
 * What is proven, a pull at a time (guarantee G5). A watermark moves only in the transaction that
 * proves the range it moves over, and never over a hole.
 */

/** The instant (epoch ms) up to which a pull is proven complete; null where it never ran. */
export async function readWatermark(db: Executor, { t }: Db, pull: Pull): Promise<number | null> {
  const [row] = await rows<{ complete_toMs: number | null }>(
    db,
    sql`select ${epochMs('complete_to')} from ${t.watermarks} where pull = ${pull}`,
  );
  return row?.complete_toMs == null ? null : Math.round(row.complete_toMs);
}

/** Begins a pull's coverage at `atMs` where it has none yet. */
export async function beginWatermark(
  tx: Executor,
  { t }: Db,
  pull: Pull,
  atMs: number,
): Promise<void> {
  await tx.execute(sql`
    insert into ${t.watermarks} as w (pull, complete_to) values (${pull}, ${instantOf(atMs)})
    on conflict (pull) do update set complete_to = excluded.complete_to, updated_at = clock_timestamp()
    where w.complete_to is null`);
}

/** Gaps that lie wholly behind a watermark are gaps no longer: something else has proven them. */
export async function coverWindows(tx: Executor, { t }: Db, pull: Pull): Promise<void> {
  await tx.execute(sql`
    update ${t.syncWindows}
    set state = 'proven', proven_at = clock_timestamp(), updated_at = clock_timestamp()
    where pull = ${pull} and state <> 'proven'
      and to_time <= (select complete_to from ${t.watermarks} where pull = ${pull})`);
}

/**
 * A complete sweep has shown everyone as of when it was planned, so it closes what the other pulls
 * left open before that: all of the modified pull's, and of the audit pull's what lies too far back
 * for the trail to tell.
 */
export async function coverBySweep(
  tx: Executor,
  { t }: Db,
  sweep: { readonly coversToMs: number; readonly auditReachMs: number },
): Promise<void> {
  const to = instantOf(sweep.coversToMs);
  await tx.execute(sql`
    update ${t.watermarks} set complete_to = ${to}, updated_at = clock_timestamp()
    where pull = 'modified' and complete_to < ${to}`);
  await coverWindows(tx, { t }, 'modified');
  const reach = instantOf(sweep.coversToMs - sweep.auditReachMs);
  await tx.execute(sql`
    update ${t.watermarks} set complete_to = ${reach}, updated_at = clock_timestamp()
    where pull = 'audit' and complete_to < ${reach}`);
  await coverWindows(tx, { t }, 'audit');
}

/** The sweep's watermark: everyone who existed when this run was planned has been read. */
export async function setWatermark(
  tx: Executor,
  { t }: Db,
  pull: Pull,
  runId: number,
): Promise<void> {
  await tx.execute(sql`
    insert into ${t.watermarks} as w (pull, complete_to)
    select ${pull}, covers_to from ${t.syncRuns} where run_id = ${runId}
    on conflict (pull) do update
      set complete_to = greatest(w.complete_to, excluded.complete_to), updated_at = clock_timestamp()`);
}

/** Moves a watermark forward over a proven range that joins on; over a hole it never moves. */
export async function advanceWatermark(
  tx: Executor,
  { t }: Db,
  pull: Pull,
  range: { readonly fromMs: number; readonly toMs: number },
): Promise<void> {
  await tx.execute(sql`
    update ${t.watermarks}
    set complete_to = ${instantOf(range.toMs)}, updated_at = clock_timestamp()
    where pull = ${pull} and complete_to >= ${instantOf(range.fromMs)}
      and complete_to < ${instantOf(range.toMs)}`);
}

/** Long enough to outlive a slow statement, short enough that a killed process holds up nobody for long. */
const LEASE_SECONDS = 12;
const RENEW_EVERY_MS = 3_000;

/**
 * Does `work` while no replica does the same pull, so that they do not read one range side by side.
 * Only thrift: two at once would be harmless. `busy` where another has it.
 */
export async function whileHoldingPull<T>(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  pull: Pull,
  work: () => Promise<T>,
): Promise<T | 'busy'> {
  const holder = randomUUID();
  const taken = await rows(
    db,
    sql`
      insert into ${t.watermarks} as w (pull, busy_until, busy_by)
      values (${pull}, ${leaseEnd}, ${holder})
      on conflict (pull) do update set busy_until = excluded.busy_until, busy_by = excluded.busy_by
      where w.busy_until is null or w.busy_until < clock_timestamp()
      returning 1`,
  );
  if (taken.length === 0) return 'busy';
  const ours = sql`pull = ${pull} and busy_by = ${holder}`;
  const timer = setInterval(() => {
    // A renewal that fails is made up for by the next; the lease ends by itself otherwise.
    db.execute(sql`update ${t.watermarks} set busy_until = ${leaseEnd} where ${ours}`).catch(
      () => undefined,
    );
  }, RENEW_EVERY_MS);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    await db
      .execute(sql`update ${t.watermarks} set busy_until = null where ${ours}`)
      .catch(() => undefined);
  }
}

const leaseEnd = sql`clock_timestamp() + make_interval(secs => ${sql.raw(String(LEASE_SECONDS))})`;
