import { sql } from 'drizzle-orm';

import { whereWanted } from '../apply/wanted.ts';
import { rows, textArray, transaction, type Executor, type Mirror } from '../mirror/database.ts';

import type { Call } from '../descope/types.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * In: a run whose windows are all proven. Out: whether the directory counts more users than were written,
 * and those windows opened again. The users counted are those of the tables of `deps.mirror`.
 */

/** Users younger than this when the sweep was planned are left out of the count at its end. */
const EDGE_MS = 10_000;

/** Locks a run that has not ended; false where somebody else ended it. */
export async function holdOpenRun(
  tx: Executor,
  { mirror }: PullDeps,
  runId: number,
): Promise<boolean> {
  const held = await rows(
    tx,
    sql`select 1 from ${mirror.t.syncRuns} where run_id = ${runId} and outcome is null for update`,
  );
  return held.length > 0;
}

interface Count {
  readonly windowId: number;
  readonly fromMs: number;
  readonly toMs: number;
  readonly rereads: number;
}

/** How many more users the directory counts than the mirror, up to when the sweep began. */
export async function countShort(deps: PullDeps, runId: number, call: Call): Promise<number> {
  return shortOf(deps, 0, await coversTo(deps, runId), call);
}

/** When the run was planned, in epoch ms of Descope's clock. */
export async function coversTo(deps: PullDeps, runId: number): Promise<number> {
  const { db, t } = deps.mirror;
  const [run] = await rows<{ coversToMs: number }>(
    db,
    sql`select (extract(epoch from covers_to) * 1000)::float8 as "coversToMs"
        from ${t.syncRuns} where run_id = ${runId}`,
  );
  return Math.round(run?.coversToMs ?? 0);
}

/**
 * Of erased users whom this run has not shown, the directory counts none any more: nothing is left of them but
 * the proof.
 */
export async function forgetUnseen(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  runId: number,
): Promise<void> {
  await db.execute(sql`
    update ${t.erasures} set seen_at = null, created_time = null
    where seen_at < (select started_at from ${t.syncRuns} where run_id = ${runId})`);
}

/** The directory's count of a range less ours, with erased users it shows; below zero where it has lost users since. */
async function shortOf(deps: PullDeps, fromMs: number, toMs: number, call: Call): Promise<number> {
  const { mirror, client } = deps;
  // The request asks a unit more on each side, a second at most; ours is counted two seconds more, so
  // that an edge never makes the mirror look short. What is younger than the margin is not asked about.
  const endMs = Math.floor((toMs - EDGE_MS) / 1000) * 1000;
  const { total } = await client.searchUsers(
    { field: 'createdTime', ...(fromMs > 0 ? { fromMs } : {}), toMs: endMs - 1, limit: 1 },
    call,
  );
  const isWithin = sql`(created_time between to_timestamp(${fromMs / 1000 - 2}::float8)
                                         and to_timestamp(${endMs / 1000 + 2}::float8)
                        or (created_time is null and ${fromMs === 0}))`;
  const [row] = await rows<{ live: string }>(
    mirror.db,
    sql`select (select count(*) from ${mirror.t.users}
                where deleted_at is null and ${whereWanted(deps)} and ${isWithin})
             + (select count(*) from ${mirror.t.erasures}
                where seen_at is not null and ${isWithin}) as live`,
  );
  return total - Number(row?.live ?? 0);
}

/** Windows are read again where the directory counts more users than the mirror; twice at most. */
export async function reopenShortWindows(
  deps: PullDeps,
  runId: number,
  call: Call,
): Promise<number[]> {
  if ((await countShort(deps, runId, call)) <= 0) return [];
  const { mirror } = deps;
  const windows = await rows<Count>(
    mirror.db,
    sql`select w.window_id::float8 as "windowId", w.rereads,
               (extract(epoch from w.from_time) * 1000)::float8 as "fromMs",
               (extract(epoch from coalesce(w.to_time, r.covers_to)) * 1000)::float8 as "toMs"
        from ${mirror.t.syncWindows} w join ${mirror.t.syncRuns} r using (run_id)
        where run_id = ${runId} and rereads < 2 order by window_id`,
  );
  const short: string[] = [];
  for (const window of windows) {
    const missing = await shortOf(deps, window.fromMs, window.toMs, call);
    if (missing > 0) short.push(String(window.windowId));
  }
  if (short.length === 0) return [];
  await transaction(mirror, async (tx) => {
    if (await holdOpenRun(tx, deps, runId)) {
      await tx.execute(sql`
      update ${mirror.t.syncWindows}
      set state = 'open', cursor_time = null, proven_at = null, rereads = rereads + 1
      where window_id::text = any(${textArray(short)})`);
    }
  });
  return short.map(Number);
}
