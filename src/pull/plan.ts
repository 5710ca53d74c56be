import { sql } from 'drizzle-orm';

import { countLive } from '../apply/deletions.ts';
import { rows, transaction, type Executor } from '../mirror/database.ts';
import { openWindow, type Db, type OneAtATime } from './ledger.ts';
import { SIDE_BY_SIDE, type PullDeps } from './readWindow.ts';
import { sourceNowMs } from './sourceClock.ts';

import type { Call } from '../descope/types.ts';

/*
 * In: an open run that is to read everyone. Out: all time cut into windows of the ledger, by when users
 * were created, or the reason why Descope's answer cannot be believed.
 */

/** A window is worth its own half-empty last page from about this many pages on. */
const PAGES_A_WINDOW = 50;
export interface Planned {
  readonly runId: number;
  readonly pull: OneAtATime;
  /** What else is done in the transaction of the plan; `nowMs` is of Descope's clock. */
  readonly along?: (tx: Executor, nowMs: number) => Promise<void>;
}

/** Whether a run has its windows. */
export async function isPlanned(db: Executor, { t }: Db, runId: number): Promise<boolean> {
  const found = await rows(db, sql`select 1 from ${t.syncWindows} where run_id = ${runId} limit 1`);
  return found.length > 0;
}

/** Cuts all time into windows; returns why the run cannot be believed, or null. */
export async function planWindows(
  { mirror, client, pageSize }: Pick<PullDeps, 'mirror' | 'client' | 'pageSize'>,
  { runId, pull, along }: Planned,
  call: Call,
): Promise<string | null> {
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
  const starts = cutWindows(oldest ? Date.parse(oldest) : nowMs, nowMs, first.total, pageSize);
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
      await openWindow(tx, mirror, { runId, pull, fromMs, toMs });
    }
    await along?.(tx, nowMs);
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
  const count = Math.max(1, Math.min(SIDE_BY_SIDE, wanted));
  const width = Math.max(0, nowMs - oldestMs) / count;
  const starts = [0];
  for (let at = 1; at < count; at++) {
    const start = Math.floor((oldestMs + at * width) / 1000) * 1000;
    if (start > (starts.at(-1) ?? 0)) starts.push(start);
  }
  return starts;
}
