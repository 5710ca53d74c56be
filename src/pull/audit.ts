import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { parseRecord } from '../inbox/parse.ts';
import { recordEvents } from '../inbox/record.ts';
import { rows, transaction, type Mirror } from '../mirror/database.ts';
import {
  AUDIT_RETENTION_MS,
  advanceWindow,
  finishRun,
  instantOf,
  loadWindow,
  openRun,
  openWindow,
  readOrLeaveGap,
  type Window,
} from './ledger.ts';
import { readTrail, type TrailStep } from './readTrail.ts';
import { advanceWatermark, coverWindows, readWatermark, whileHoldingPull } from './watermark.ts';
import { sourceNowMs } from './sourceClock.ts';

import type { DescopeClient } from '../descope/types.ts';
import type { Exclusion } from '../exclude.ts';
import type { DirectoryEvent } from '../inbox/event.ts';
import type { PullResult } from './modified.ts';

/*
 * The second witness: every user event since the watermark goes to the inbox under the same content
 * key as the webhook's. In: the audit search. Out: inbox rows, the ids of new ones to the queue, and
 * the watermark, which moves with the last page. A window's cursor moves with every page, and who comes
 * later goes on from there.
 */

export interface AuditDeps {
  readonly mirror: Mirror;
  readonly client: DescopeClient;
  readonly projectId: string;
  readonly archiveAll: boolean;
  /** Fields that no payload is to tell of. */
  readonly exclude?: Exclusion;
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
  if ((await readWatermark(mirror.db, mirror, 'audit')) === null) return 'notBegun';
  return whileHoldingPull(mirror, 'audit', () => pullSince(deps, signal));
}

async function pullSince(deps: AuditDeps, signal: AbortSignal): Promise<'done' | 'busy' | 'sweep'> {
  const { mirror } = deps;
  for (;;) {
    const nowMs = await sourceNowMs(mirror, deps.client, { priority: 'pull', signal });
    const toMs = nowMs - deps.settleMs;
    const reachMs = nowMs - AUDIT_RETENTION_MS;
    const watermark = (await readWatermark(mirror.db, mirror, 'audit')) ?? 0;
    const begun = await findBegun(deps, watermark);
    if (Math.max(watermark, begun?.cursorMs ?? 0) < reachMs) {
      // What happened before the trail begins can only be found by reading everyone. The sweep moves
      // this watermark when it is done; the trail that is left is pulled after that.
      const reason = 'the audit trail no longer reaches back to the last pull';
      await transaction(mirror, (tx) => openRun(tx, mirror, 'sweep', reason));
      return 'sweep';
    }
    const fromMs = Math.max(watermark - deps.overlapMs, reachMs);
    if (!begun && toMs <= fromMs) return 'done';
    const window = begun ?? (await open(deps, { fromMs, toMs }));
    const read = () => readSteps(deps, window, signal);
    if ((await readOrLeaveGap(mirror, window.windowId, read)) === 'left') return 'busy';
    if (!begun) return 'done';
  }
}

/**
 * The window that a pull before this one began to read and did not end, where reading on takes the
 * watermark further: it joins on, and has come further than a new one would begin.
 */
async function findBegun(
  { mirror, overlapMs }: AuditDeps,
  watermark: number,
): Promise<Window | undefined> {
  const [found] = await rows<{ windowId: number }>(
    mirror.db,
    sql`select window_id::float8 as "windowId" from ${mirror.t.syncWindows}
        where pull = 'audit' and state <> 'proven'
          and from_time <= ${instantOf(watermark)} and to_time > ${instantOf(watermark)}
          and cursor_time > ${instantOf(watermark - overlapMs)}
        order by cursor_time desc limit 1`,
  );
  return found && loadWindow(mirror.db, mirror, found.windowId);
}

async function open(
  { mirror }: AuditDeps,
  range: { fromMs: number; toMs: number },
): Promise<Window> {
  return transaction(mirror, async (tx) => {
    const { runId } = await openRun(tx, mirror, 'audit', 'schedule');
    await finishRun(tx, mirror, runId, 'complete');
    const window = { runId, pull: 'audit', ...range } as const;
    const windowId = await openWindow(tx, mirror, window);
    return { ...window, windowId, cursorMs: null, state: 'open' };
  });
}

async function readSteps(deps: AuditDeps, window: Window, signal: AbortSignal): Promise<void> {
  const toMs = window.toMs ?? window.fromMs;
  let requests = 0;
  const counting = {
    searchAudit: (...args: Parameters<DescopeClient['searchAudit']>) => {
      requests++;
      return deps.client.searchAudit(...args);
    },
  };
  const trail = {
    fromMs: window.cursorMs ?? window.fromMs,
    toMs,
    actions: deps.archiveAll ? [] : USER_ACTIONS,
  };
  // What a wrongly empty answer hides is seen again as long as the next pulls overlap it. Not so over a
  // longer range, after a downtime; and where reading goes on, a record led to the cursor.
  const isDoubted =
    window.cursorMs !== null || toMs - window.fromMs > deps.overlapMs + LONG_RANGE_MS;
  const reading = readTrail(counting, trail, isDoubted ? 1 : 0, { priority: 'pull', signal });
  let at = window;
  for await (const step of reading) {
    const spent = requests;
    requests = 0;
    await take(deps, at, step, spent);
    at = { ...at, cursorMs: step.untilMs };
    if (signal.aborted && step.untilMs !== null) throw new Stopping();
  }
}

/** Commits a page's events and the cursor, and with the last page's the watermark; then tells the queue. */
async function take(
  deps: AuditDeps,
  window: Window,
  step: TrailStep,
  requests: number,
): Promise<void> {
  const { mirror } = deps;
  const receivedMs = Date.parse(step.observedAt);
  const events = step.records
    .map((record) => parseRecord(record, receivedMs, deps.projectId))
    .filter((event): event is DirectoryEvent => event !== null);
  const accepted = await transaction(mirror, async (tx) => {
    const recorded = await recordEvents(tx, mirror.t, events, 'audit', {
      archiveAll: deps.archiveAll,
      ...(deps.exclude === undefined ? {} : { exclude: deps.exclude }),
    });
    await advanceWindow(tx, mirror, window, step.untilMs, {
      rowsRead: step.records.length,
      total: step.total,
      requests,
      created: 0,
      updated: 0,
    });
    if (step.untilMs === null) {
      const range = { fromMs: window.fromMs, toMs: window.toMs ?? window.fromMs };
      await advanceWatermark(tx, mirror, 'audit', range);
      await coverWindows(tx, mirror, 'audit');
    }
    return recorded.accepted;
  });
  if (accepted.length > 0) await deps.enqueue(accepted);
}
