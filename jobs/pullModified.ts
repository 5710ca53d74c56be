import { z } from 'zod';

import { pullModified as pull, type ModifiedDeps } from '../src/pull/modified.ts';
import { defineJob, KEEP, type JobDefinition } from './define.ts';

import type { Enqueue } from './queues.ts';

interface Payload {
  /** Just the windows in the ledger that are not proven, such as an event's. */
  readonly gapsOnly?: boolean | undefined;
  /** Somebody waits for what was modified just now. */
  readonly soon?: boolean | undefined;
}

interface Deps {
  readonly modified: ModifiedDeps;
  readonly enqueue: Enqueue;
}

/** Who finds the pull taken comes again; of all who do, a few. The id must be free again by then. */
const AGAIN = { delayMs: 1_000, dedupeId: 'gaps-again', dedupeMs: 500 };

/** Reads users changed since the watermark. A failure leaves a gap that the next tick reads. */
export const pullModified: JobDefinition<Deps, Payload> = defineJob({
  name: 'pullModified',
  queue: 'pulls',
  payload: z.strictObject({ gapsOnly: z.boolean().optional(), soon: z.boolean().optional() }),
  options: { attempts: 1, ...KEEP },
  async process(deps: Deps, { gapsOnly = false, soon = false }, signal): Promise<void> {
    const reach = gapsOnly ? 'gaps' : soon ? 'now' : 'settled';
    const result = await pull(deps.modified, signal, reach);
    // Whoever has it listed the gaps before ours was there; a schedule's tick comes again by itself.
    if (result === 'busy' && gapsOnly) {
      await deps.enqueue(pullModified, { gapsOnly }, AGAIN);
    }
  },
});
