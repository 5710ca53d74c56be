import { transaction } from '../mirror/database.ts';
import { finishRun, openRun, openWindow, unprovenWindows } from './ledger.ts';
import { leavePull, readWatermark, takePull } from './watermark.ts';
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

/** What a pull did: not begun (no sweep has), busy (a replica has it), or done. */
export type PullResult = 'notBegun' | 'busy' | 'done';

/** A pull that dies keeps its replicas waiting this long at most. */
const BUSY_SECONDS = 60;

/**
 * Reads the users changed since the watermark, gaps first (or `gapsOnly`), and moves the watermark
 * with their rows.
 * @throws the client's errors, WindowUnproven, Stopping; what was not proven stays a gap
 */
export async function pullModified(
  deps: ModifiedDeps,
  signal: AbortSignal,
  gapsOnly = false,
): Promise<PullResult> {
  const { mirror } = deps;
  const watermark = await readWatermark(mirror.db, mirror, 'modified');
  if (watermark === null && !gapsOnly) return 'notBegun';
  if (!(await takePull(mirror.db, mirror, 'modified', BUSY_SECONDS))) return 'busy';
  try {
    for (const windowId of await unprovenWindows(mirror.db, mirror, { pull: 'modified' })) {
      await readWindow(deps, windowId, signal);
    }
    if (gapsOnly || watermark === null) return 'done';
    const since = (await readWatermark(mirror.db, mirror, 'modified')) ?? watermark;
    const call: Call = { priority: 'pull', signal };
    const toMs = (await sourceNowMs(mirror, deps.client, call)) - deps.settleMs;
    const fromMs = since - deps.overlapMs;
    if (toMs > fromMs) {
      const windowId = await transaction(mirror, (tx) =>
        openModifiedWindow(tx, deps, 'schedule', { fromMs, toMs }),
      );
      await readWindow(deps, windowId, signal);
    }
    return 'done';
  } finally {
    await leavePull(mirror.db, mirror, 'modified');
  }
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
