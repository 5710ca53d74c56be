import { describeError, Stopping, WindowUnproven } from '../errors.ts';
import { parseRecord } from '../inbox/parse.ts';
import { recordEvents } from '../inbox/record.ts';
import { transaction, type Mirror } from '../mirror/database.ts';
import {
  AUDIT_RETENTION_MS,
  advanceWindow,
  finishRun,
  loadWindow,
  markGap,
  openRun,
  openWindow,
  type Window,
} from './ledger.ts';
import { advanceWatermark, coverWindows, readWatermark, whileHoldingPull } from './watermark.ts';
import { sourceNowMs } from './sourceClock.ts';

import type { AuditPage, Call, DescopeClient } from '../descope/types.ts';
import type { DirectoryEvent } from '../inbox/event.ts';
import type { PullResult } from './modified.ts';

/*
 * The second witness: every user event since the watermark goes to the inbox under the same content
 * key as the webhook's. In: the audit search. Out: inbox rows, the ids of new ones to the queue, and
 * the watermark, which moves with the last page.
 */

export interface AuditDeps {
  readonly mirror: Mirror;
  readonly client: DescopeClient;
  readonly projectId: string;
  readonly archiveAll: boolean;
  readonly overlapMs: number;
  readonly settleMs: number;
  readonly enqueue: (eventIds: readonly string[]) => Promise<void>;
}

/** What changes a user's record, as far as Descope names it; everything is asked for where all is kept. */
export const USER_ACTIONS: readonly string[] = [
  'UserCreated',
  'UserModified',
  'UserDeleted',
  'UsersCreated',
  'UsersModified',
  'UsersDeleted',
  'LoginExceedMaxAttempts',
  'SCIMEvent',
];

/** A pull a minute reads the overlap and a minute or two. */
const LONG_RANGE_MS = 180_000;
/** A search that never ends is a fault: a thousand records a page, a million in one pull. */
const MAX_PAGES = 1_000;

/**
 * Pulls the audit trail from the watermark on. A downtime longer than the trail reaches opens a sweep
 * instead, and says so.
 * @throws the client's errors, WindowUnproven, Stopping; the window then stays a gap
 */
export async function pullAudit(
  deps: AuditDeps,
  signal: AbortSignal,
): Promise<PullResult | 'sweep'> {
  const { mirror } = deps;
  const watermark = await readWatermark(mirror.db, mirror, 'audit');
  if (watermark === null) return 'notBegun';
  return whileHoldingPull(mirror, 'audit', () => pullSince(deps, watermark, signal));
}

async function pullSince(
  deps: AuditDeps,
  watermark: number,
  signal: AbortSignal,
): Promise<'done' | 'sweep'> {
  const { mirror } = deps;
  const nowMs = await sourceNowMs(mirror, deps.client, { priority: 'pull', signal });
  const toMs = nowMs - deps.settleMs;
  const reachMs = nowMs - AUDIT_RETENTION_MS;
  if (watermark < reachMs) {
    // What happened before the trail begins can only be found by reading everyone. The sweep moves
    // this watermark when it is done; the trail that is left is pulled after that.
    const reason = 'the audit trail no longer reaches back to the last pull';
    await transaction(mirror, (tx) => openRun(tx, mirror, 'sweep', reason));
    return 'sweep';
  }
  const fromMs = Math.max(watermark - deps.overlapMs, reachMs);
  if (toMs <= fromMs) return 'done';
  const window = await open(deps, { fromMs, toMs });
  if (window) await read(deps, window, signal);
  return 'done';
}

async function open(
  deps: AuditDeps,
  range: { fromMs: number; toMs: number },
): Promise<Window | undefined> {
  const { mirror } = deps;
  const windowId = await transaction(mirror, async (tx) => {
    const { runId } = await openRun(tx, mirror, 'audit', 'schedule');
    await finishRun(tx, mirror, runId, 'complete');
    return openWindow(tx, mirror, { runId, pull: 'audit', ...range });
  });
  return loadWindow(mirror.db, mirror, windowId);
}

async function read(deps: AuditDeps, window: Window, signal: AbortSignal): Promise<void> {
  try {
    await readPages(deps, window, signal);
  } catch (error) {
    if (!(error instanceof Stopping)) {
      await markGap(deps.mirror.db, deps.mirror, window.windowId, describeError(error));
    }
    throw error;
  }
}

async function readPages(deps: AuditDeps, window: Window, signal: AbortSignal): Promise<void> {
  const call: Call = { priority: 'pull', signal };
  const toMs = window.toMs ?? window.fromMs;
  // Records may be the same to the letter, so places are counted, not contents. The trail only
  // grows at its young end, which lies beyond this window.
  let readSoFar = 0;
  for (let page = 0; page < MAX_PAGES; page++) {
    const query = {
      fromMs: window.fromMs,
      toMs,
      page,
      actions: deps.archiveAll ? [] : USER_ACTIONS,
    };
    let answer = await deps.client.searchAudit(query, call);
    // What a wrongly empty answer hides is seen again as long as the next pulls overlap it; over a
    // longer range, after a downtime, nothing at all is believed when it is said twice.
    if (page === 0 && answer.total === 0 && toMs - window.fromMs > deps.overlapMs + LONG_RANGE_MS) {
      answer = await deps.client.searchAudit(query, call);
    }
    readSoFar += answer.records.length;
    const isLast = readSoFar >= answer.total;
    if (!isLast && answer.records.length === 0) {
      throw new WindowUnproven(`${readSoFar} audit records read of ${answer.total}`);
    }
    await take(deps, window, answer, { isLast, rowsRead: readSoFar, requests: page + 1 });
    if (isLast) return;
    if (signal.aborted) throw new Stopping();
  }
  throw new WindowUnproven(`more than ${MAX_PAGES} pages of audit records`);
}

/** Commits a page's events, and with the last page's the watermark; then tells the queue. */
async function take(
  deps: AuditDeps,
  window: Window,
  answer: AuditPage,
  progress: { isLast: boolean; rowsRead: number; requests: number },
): Promise<void> {
  const { mirror } = deps;
  const receivedMs = Date.parse(answer.observedAt);
  const events = answer.records
    .map((record) => parseRecord(record, receivedMs, deps.projectId))
    .filter((event): event is DirectoryEvent => event !== null);
  const accepted = await transaction(mirror, async (tx) => {
    const recorded = await recordEvents(tx, mirror.t, events, 'audit', {
      archiveAll: deps.archiveAll,
    });
    if (progress.isLast) {
      await advanceWindow(tx, mirror, window, null, {
        rowsRead: progress.rowsRead,
        total: answer.total,
        requests: progress.requests,
        created: 0,
        updated: 0,
      });
      const range = { fromMs: window.fromMs, toMs: window.toMs ?? window.fromMs };
      await advanceWatermark(tx, mirror, 'audit', range);
      await coverWindows(tx, mirror, 'audit');
    }
    return recorded.accepted;
  });
  if (accepted.length > 0) await deps.enqueue(accepted);
}
