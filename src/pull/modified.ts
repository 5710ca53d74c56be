import { WindowUnproven } from '../errors.ts';
import { transaction } from '../mirror/database.ts';
import { finishRun, loadWindow, openRun, openWindow, unprovenWindows } from './ledger.ts';
import { readWatermark, whileHoldingPull } from './watermark.ts';
import { readWindow, type PullDeps } from './readWindow.ts';
import { sourceNowMs } from './sourceClock.ts';

import type { Call } from '../descope/types.ts';
import type { Executor } from '../mirror/database.ts';

export interface ModifiedDeps extends PullDeps {
  /** Each pull reads again what lies this far behind the watermark: provider lag, clock skew. */
  readonly overlapMs: number;
  /** The newest this much is left alone: it may still be settling. */
  readonly settleMs: number;
}

/**
 * How far a pull reads: only the windows in the ledger that are not proven; on from the watermark to what
 * has settled; or to this moment, for those who wait for it. What has not settled is never counted as proven.
 */
export type Reach = 'gaps' | 'settled' | 'now';

/** What a pull did: not begun (no sweep has), busy (a replica has it), or done. */
export type PullResult = 'notBegun' | 'busy' | 'done';

/**
 * Reads the users changed since the watermark, gaps first, as far as `reach` says, and moves the
 * watermark with their rows.
 * @throws the client's errors, WindowUnproven, Stopping; what was not proven stays a gap
 */
export async function pullModified(
  options: ModifiedDeps,
  signal: AbortSignal,
  reach: Reach = 'settled',
): Promise<PullResult> {
  const deps = { ...options, doubtMs: Math.min(DOUBT_MS, options.overlapMs) };
  const { mirror } = deps;
  const watermark = await readWatermark(mirror.db, mirror, 'modified');
  if (watermark === null && reach !== 'gaps') return 'notBegun';
  return whileHoldingPull(mirror, 'modified', async () => {
    const failures = await readGaps(deps, signal);
    // A gap that reaches beyond the watermark is where this pull would begin: it has just failed.
    const isBlocked = failures.some(({ toMs }) => toMs > (watermark ?? 0));
    if (reach !== 'gaps' && watermark !== null && !isBlocked) {
      await readOn(deps, watermark, reach, signal);
    }
    // Told last: a gap that stays one keeps nothing new from being read.
    if (failures[0]) throw failures[0].error;
    return 'done' as const;
  });
}

/** By then every copy at the provider has heard of a deletion. */
const DOUBT_MS = 60_000;

/** Rather a little late than early: now is known to half a second. */
const AHEAD_MS = 1_000;

/** A window that could not be proven, and where it ends (epoch ms). */
interface Failure {
  readonly toMs: number;
  readonly error: WindowUnproven;
}

/** Reads every window that is not proven; one that fails again does not hold up the others. */
async function readGaps(deps: ModifiedDeps, signal: AbortSignal): Promise<Failure[]> {
  const { mirror } = deps;
  const failures: Failure[] = [];
  for (const windowId of await unprovenWindows(mirror.db, mirror, { pull: 'modified' })) {
    try {
      await readWindow(deps, windowId, signal);
    } catch (error) {
      // Only an answer that contradicts itself is the window's own; all else would fail the next too.
      if (!(error instanceof WindowUnproven)) throw error;
      const window = await loadWindow(mirror.db, mirror, windowId);
      failures.push({ toMs: window?.toMs ?? Infinity, error });
    }
  }
  return failures;
}

/** Reads what has changed since the watermark. */
async function readOn(
  deps: ModifiedDeps,
  watermark: number,
  reach: Reach,
  signal: AbortSignal,
): Promise<void> {
  const { mirror } = deps;
  const since = (await readWatermark(mirror.db, mirror, 'modified')) ?? watermark;
  const call: Call = { priority: 'pull', signal };
  const nowMs = await sourceNowMs(mirror, deps.client, call);
  const toMs = reach === 'now' ? nowMs + AHEAD_MS : nowMs - deps.settleMs;
  const fromMs = since - deps.overlapMs;
  if (toMs <= fromMs) return;
  const windowId = await transaction(mirror, (tx) =>
    openModifiedWindow(tx, deps, 'schedule', { fromMs, toMs }),
  );
  await readWindow(deps, windowId, signal);
}

/** Puts a window into the ledger; from then on it is read whatever happens to the queue. */
export async function openModifiedWindow(
  tx: Executor,
  { mirror }: Pick<PullDeps, 'mirror'>,
  reason: string,
  range: { readonly fromMs: number; readonly toMs: number },
): Promise<number> {
  const { runId } = await openRun(tx, mirror, 'modified', reason);
  // The run is its one window: whether it is complete is the window's to tell.
  await finishRun(tx, mirror, runId, 'complete');
  return openWindow(tx, mirror, { runId, pull: 'modified', ...range });
}
