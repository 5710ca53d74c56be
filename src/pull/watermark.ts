import { setTimeout as sleep } from 'node:timers/promises';

import { sql } from 'drizzle-orm';

import { rows, type Executor } from '../mirror/database.ts';
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

/** Gaps inside a range that something else has now proven are gaps no longer. */
export async function coverWindows(
  tx: Executor,
  { t }: Db,
  pull: Pull,
  range: { readonly fromMs: number; readonly toMs: number },
): Promise<void> {
  await tx.execute(sql`
    update ${t.syncWindows}
    set state = 'proven', proven_at = clock_timestamp(), updated_at = clock_timestamp()
    where pull = ${pull} and state <> 'proven'
      and from_time >= ${instantOf(range.fromMs)} and to_time <= ${instantOf(range.toMs)}`);
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
  await coverWindows(tx, { t }, 'modified', { fromMs: 0, toMs: sweep.coversToMs });
  const reach = instantOf(sweep.coversToMs - sweep.auditReachMs);
  await tx.execute(sql`
    update ${t.watermarks} set complete_to = ${reach}, updated_at = clock_timestamp()
    where pull = 'audit' and complete_to < ${reach}`);
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

/**
 * Takes a pull for `seconds`, so that replicas do not read the same range side by side. Only thrift:
 * two at once would be harmless. False where another holds it.
 */
export async function takePull(
  db: Executor,
  { t }: Db,
  pull: Pull,
  seconds: number,
): Promise<boolean> {
  const taken = await rows(
    db,
    sql`
      insert into ${t.watermarks} as w (pull, busy_until)
      values (${pull}, clock_timestamp() + make_interval(secs => ${seconds}))
      on conflict (pull) do update set busy_until = excluded.busy_until
      where w.busy_until is null or w.busy_until < clock_timestamp()
      returning 1`,
  );
  return taken.length > 0;
}

/** Between tries to leave a pull while Postgres is away, in ms: some six seconds in all. */
const LEAVE_AGAIN_MS = [200, 400, 800, 1_600, 3_200];

/** Lets others have a pull. Tried again for a while: else a blink of Postgres would stop pulls for minutes. */
export async function leavePull(db: Executor, { t }: Db, pull: Pull): Promise<void> {
  for (const waitMs of [...LEAVE_AGAIN_MS, null]) {
    try {
      await db.execute(sql`update ${t.watermarks} set busy_until = null where pull = ${pull}`);
      return;
    } catch (error) {
      if (waitMs === null) throw error;
      await sleep(waitMs);
    }
  }
}
