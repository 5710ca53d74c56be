import { z } from 'zod';

import { loadWindow, openSweep, unprovenWindows } from '../src/pull/ledger.ts';
import { readWindow } from '../src/pull/readWindow.ts';
import { advanceSweep, startSweep, type SweepDeps } from '../src/pull/sweep.ts';
import { defineJob, KEEP } from './define.ts';

import type { Enqueue, EnqueueOptions } from './queues.ts';

interface Deps {
  readonly sweep: SweepDeps;
  readonly enqueue: Enqueue;
}

const options = {
  attempts: 5,
  backoff: { type: 'exponential', delay: 2_000, jitter: 0.5 },
  ...KEEP,
} as const;

/**
 * Takes the sweep under way a step further: plan it, read its windows, or end it. Only with `begin` is
 * one begun where none is: a job that comes after the end must not read everyone once more.
 */
export const sweep = defineJob({
  name: 'sweep',
  queue: 'pulls',
  payload: z.strictObject({ reason: z.string(), begin: z.boolean().optional() }),
  options,
  async process(deps: Deps, { reason, begin = false }, signal): Promise<void> {
    const { mirror } = deps.sweep;
    const run = begin ? await startSweep(deps.sweep, reason) : await openSweep(mirror.db, mirror);
    if (!run) return;
    const state = await advanceSweep(deps.sweep, run.runId, signal);
    if (state.kind === 'finished') return;
    for (const windowId of state.windowIds) {
      await deps.enqueue(sweepWindow, { windowId }, onceAtATime(`window-${windowId}`));
    }
  },
});

/** One job of a name at a time, however long it waits for the budget. */
export function onceAtATime(name: string): EnqueueOptions {
  return { dedupeId: name, dedupeMs: 'untilDone' };
}

/** Reads one window of a sweep; the last one to be proven lets the sweep end. */
export const sweepWindow = defineJob({
  name: 'sweepWindow',
  queue: 'pulls',
  payload: z.strictObject({ windowId: z.int().positive() }),
  options,
  async process(deps: Deps, { windowId }, signal): Promise<void> {
    const { mirror } = deps.sweep;
    const window = await loadWindow(mirror.db, mirror, windowId);
    const outcome = await readWindow(deps.sweep, windowId, signal);
    if (!window || outcome !== 'proven') return;
    if ((await unprovenWindows(mirror.db, mirror, window)).length === 0) {
      await deps.enqueue(sweep, { reason: 'windows read' });
    }
  },
});
