import { z } from 'zod';

import { pullModified as pull, type ModifiedDeps } from '../src/pull/modified.ts';
import { defineJob, KEEP } from './define.ts';

/** Reads users changed since the watermark. A failure leaves a gap that the next tick reads. */
export const pullModified = defineJob({
  name: 'pullModified',
  queue: 'pulls',
  /** `gapsOnly`: just the windows in the ledger that are not proven, such as an event's. */
  payload: z.strictObject({ gapsOnly: z.boolean().optional() }),
  options: { attempts: 1, ...KEEP },
  async process(deps: { readonly modified: ModifiedDeps }, payload, signal): Promise<void> {
    await pull(deps.modified, signal, payload.gapsOnly ?? false);
  },
});
