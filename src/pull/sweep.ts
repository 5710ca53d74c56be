import { sql } from 'drizzle-orm';

import { countLive, decideSuspects, settleSuspects } from '../apply/deletions.ts';
import { LOAD_LIMIT, lookUp } from '../apply/lookUp.ts';
import { bringBackNameless } from '../apply/nameless.ts';
import { whereWanted } from '../apply/wanted.ts';
import { rows, textArray, transaction, type Executor } from '../mirror/database.ts';
import {
  AUDIT_RETENTION_MS,
  finishRun,
  openRun,
  openWindow,
  unprovenWindows,
  type Db,
  type Outcome,
} from './ledger.ts';
import { beginWatermark, coverBySweep, setWatermark } from './watermark.ts';
import { sourceNowMs } from './sourceClock.ts';

import type { Breaker } from '../apply/deletions.ts';
import type { Call } from '../descope/types.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * The sweep reads everyone, by creation time, in windows; the initial backfill is the first one.
 * In: an open run of the ledger. Out: its windows, then the decision about the users it missed.
 * Every step can be taken again: the ledger tells which are done.
 */

export interface SweepDeps extends PullDeps {
  readonly breaker: Breaker;
  /** Coverage by the other pulls begins this long before the first sweep does. */
  readonly overlapMs: number;
}

/** Where a sweep stands: windows still to read, or how it ended. */
export type SweepState =
  | { readonly kind: 'reading'; readonly windowIds: readonly number[] }
  | { readonly kind: 'finished'; readonly outcome: Outcome };

/** A window is worth its own half-empty last page from about this many pages on. */
const PAGES_A_WINDOW = 50;
/**
 * Read side by side; more would only crowd the budget. A kill costs each of them up to seven pages (see
 * `ahead`), so that all together stay below one window's.
 */
const MAX_WINDOWS = 7;

/** Users younger than this when the sweep was planned are left out of the count at its end. */
const EDGE_MS = 10_000;

/** Begins a sweep, or joins the one that is under way. */
export async function startSweep(
  deps: Pick<SweepDeps, 'mirror'>,
  reason: string,
): Promise<{ runId: number; isNew: boolean }> {
  return transaction(deps.mirror, (tx) => openRun(tx, deps.mirror, 'sweep', reason));
}

/**
 * Takes a sweep as far as it goes without reading windows: plans it, or tells which windows are to be
 * read, or, when all are proven, decides and ends it.
 */
export async function advanceSweep(
  deps: SweepDeps,
  runId: number,
  signal: AbortSignal,
): Promise<SweepState> {
  const { mirror } = deps;
  const ended = await readOutcome(deps, runId);
  if (ended !== undefined) return { kind: 'finished', outcome: ended };
  const call: Call = { priority: 'sweep', signal };
  if (!(await isPlanned(mirror.db, mirror, runId))) {
    const blocked = await plan(deps, runId, call);
    if (blocked !== null) {
      await finishRun(mirror.db, mirror, runId, 'blocked', blocked);
      return { kind: 'finished', outcome: 'blocked' };
    }
  }
  const windowIds = await unprovenWindows(mirror.db, mirror, { runId });
  if (windowIds.length > 0) return { kind: 'reading', windowIds };
  return finish(deps, runId, call);
}

async function readOutcome(deps: SweepDeps, runId: number): Promise<Outcome | undefined> {
  const { db, t } = deps.mirror;
  const [run] = await rows<{ outcome: Outcome | null }>(
    db,
    sql`select outcome from ${t.syncRuns} where run_id = ${runId}`,
  );
  return run?.outcome ?? undefined;
}

async function isPlanned(db: Executor, { t }: Db, runId: number): Promise<boolean> {
  const found = await rows(db, sql`select 1 from ${t.syncWindows} where run_id = ${runId} limit 1`);
  return found.length > 0;
}

/** Cuts all time into windows; returns why the sweep cannot be believed, or null. */
async function plan(deps: SweepDeps, runId: number, call: Call): Promise<string | null> {
  const { mirror, client } = deps;
  const query = { field: 'createdTime', limit: 1 } as const;
  let first = await client.searchUsers(query, call);
  // That nobody exists is believed, and the sweep blocked by it, only when it is said twice.
  if (first.total === 0) first = await client.searchUsers(query, call);
  const nowMs = await sourceNowMs(mirror, client, call);
  if (first.total === 0) {
    const live = await countLive(mirror.db, mirror);
    if (live > 0) return `Descope reports no users at all while the mirror holds ${live}`;
  }
  const oldest = first.users[0]?.createdTime;
  const starts = cutWindows(oldest ? Date.parse(oldest) : nowMs, nowMs, first.total, deps.pageSize);
  await transaction(mirror, async (tx) => {
    await tx.execute(sql`select 1 from ${mirror.t.syncRuns} where run_id = ${runId} for update`);
    // Somebody else may have planned this run while we asked.
    if (await isPlanned(tx, mirror, runId)) return;
    await tx.execute(sql`
      update ${mirror.t.syncRuns}
      set total = ${first.total}, covers_to = to_timestamp(${nowMs / 1000}::float8)
      where run_id = ${runId}`);
    for (const [at, fromMs] of starts.entries()) {
      const next = starts[at + 1];
      const toMs = next === undefined ? null : next - 1;
      await openWindow(tx, mirror, { runId, pull: 'sweep', fromMs, toMs });
    }
    // Subscribe first, then fill: what changes from here on is the other pulls' to find.
    await beginWatermark(tx, mirror, 'modified', nowMs - deps.overlapMs);
    await beginWatermark(tx, mirror, 'audit', nowMs - deps.overlapMs);
  });
  return null;
}

/**
 * Starts of the windows, ascending, in whole seconds of epoch ms. The first is the epoch (from the
 * beginning), the last one's window stays open towards now. Pure.
 */
export function cutWindows(
  oldestMs: number,
  nowMs: number,
  total: number,
  pageSize: number,
): number[] {
  const wanted = Math.floor(total / (PAGES_A_WINDOW * pageSize));
  const count = Math.max(1, Math.min(MAX_WINDOWS, wanted));
  const width = Math.max(0, nowMs - oldestMs) / count;
  const starts = [0];
  for (let at = 1; at < count; at++) {
    const start = Math.floor((oldestMs + at * width) / 1000) * 1000;
    if (start > (starts.at(-1) ?? 0)) starts.push(start);
  }
  return starts;
}

/** All windows are proven: look at the users nobody saw, count once more, decide. */
async function finish(deps: SweepDeps, runId: number, call: Call): Promise<SweepState> {
  const { mirror } = deps;
  await verifySuspects(deps, runId, call);
  const reopened = await reopenShortWindows(deps, runId, call);
  if (reopened.length > 0) return { kind: 'reading', windowIds: reopened };
  const short = await countShort(deps, runId, call);
  await transaction(mirror, async (tx) => {
    // Whoever ends it, and whoever opens its windows again, holds the run meanwhile.
    if (!(await holdOpenRun(tx, deps, runId))) return;
    const { deleted, held } = await decideSuspects(tx, mirror, runId, deps.breaker);
    await tx.execute(
      sql`update ${mirror.t.syncRuns} set deleted = deleted + ${deleted} where run_id = ${runId}`,
    );
    if (short <= 0) {
      await setWatermark(tx, mirror, 'sweep', runId);
      // A day less than the trail reaches: it goes on ageing until the next audit pull.
      const auditReachMs = AUDIT_RETENTION_MS - 86_400_000;
      await coverBySweep(tx, mirror, { coversToMs: await coversTo(deps, runId), auditReachMs });
      await bringBackNameless(tx, mirror);
    }
    const left = describeLeft(short, held);
    await finishRun(tx, mirror, runId, left === null ? 'complete' : 'partial', left);
  });
  return { kind: 'finished', outcome: (await readOutcome(deps, runId)) ?? 'partial' };
}

/**
 * What is known to differ when a sweep has ended; null: nothing, and only then it is a proof. Everyone
 * has been read all the same where deletions are held: that does not hold up the watermarks.
 */
function describeLeft(short: number, held: number): string | null {
  if (short > 0) return `the directory counts ${short} users more than the mirror`;
  return held > 0 ? `${held} users are gone, and their deletion waits for a person` : null;
}

/** Locks a run that has not ended; false where somebody else ended it. */
async function holdOpenRun(tx: Executor, { mirror }: SweepDeps, runId: number): Promise<boolean> {
  const held = await rows(
    tx,
    sql`select 1 from ${mirror.t.syncRuns} where run_id = ${runId} and outcome is null for update`,
  );
  return held.length > 0;
}

/** Loads the suspects of a run by id, a load's worth at a time, and keeps what the answers say. */
async function verifySuspects(deps: SweepDeps, runId: number, call: Call): Promise<void> {
  const { mirror, client } = deps;
  for (;;) {
    const suspects = await rows<{ userId: string }>(
      mirror.db,
      sql`select distinct user_id as "userId" from ${mirror.t.deletions}
          where run_id = ${runId} and state = 'suspected' order by user_id limit ${LOAD_LIMIT}`,
    );
    if (suspects.length === 0) return;
    const ids = suspects.map((row) => row.userId);
    const answer = await lookUp(client, ids, () => true, call);
    await transaction(mirror, (tx) => settleSuspects(tx, mirror, runId, answer));
  }
}

interface Count {
  readonly windowId: number;
  readonly fromMs: number;
  readonly toMs: number;
  readonly rereads: number;
}

/** How many more users the directory counts than the mirror, up to when the sweep began. */
async function countShort(deps: SweepDeps, runId: number, call: Call): Promise<number> {
  return shortOf(deps, 0, await coversTo(deps, runId), call);
}

/** When the run was planned, in epoch ms of Descope's clock. */
async function coversTo(deps: SweepDeps, runId: number): Promise<number> {
  const { db, t } = deps.mirror;
  const [run] = await rows<{ coversToMs: number }>(
    db,
    sql`select (extract(epoch from covers_to) * 1000)::float8 as "coversToMs"
        from ${t.syncRuns} where run_id = ${runId}`,
  );
  return Math.round(run?.coversToMs ?? 0);
}

/** The directory's count of a range less the mirror's own; below zero where it has lost users since. */
async function shortOf(deps: SweepDeps, fromMs: number, toMs: number, call: Call): Promise<number> {
  const { mirror, client } = deps;
  // The request asks a unit more on each side, a second at most; ours is counted two seconds more, so
  // that an edge never makes the mirror look short. What is younger than the margin is not asked about.
  const endMs = Math.floor((toMs - EDGE_MS) / 1000) * 1000;
  const { total } = await client.searchUsers(
    { field: 'createdTime', ...(fromMs > 0 ? { fromMs } : {}), toMs: endMs - 1, limit: 1 },
    call,
  );
  const [row] = await rows<{ live: string }>(
    mirror.db,
    sql`select count(*) as live from ${mirror.t.users}
        where deleted_at is null and ${whereWanted(deps)}
          and (created_time between to_timestamp(${fromMs / 1000 - 2}::float8)
                                and to_timestamp(${endMs / 1000 + 2}::float8)
               or (created_time is null and ${fromMs === 0}))`,
  );
  return total - Number(row?.live ?? 0);
}

/** Windows are read again where the directory counts more users than the mirror; twice at most. */
async function reopenShortWindows(deps: SweepDeps, runId: number, call: Call): Promise<number[]> {
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
