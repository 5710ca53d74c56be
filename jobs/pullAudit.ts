import { z } from 'zod';

import { pullAudit as pull, type AuditDeps } from '../src/pull/audit.ts';
import { defineJob, KEEP } from './define.ts';
import { sweep } from './sweep.ts';

import type { Enqueue } from './queues.ts';

/** Reads user events since the watermark into the inbox. A failure leaves a gap that the next tick reads. */
export const pullAudit = defineJob({
  name: 'pullAudit',
  queue: 'pulls',
  payload: z.strictObject({}),
  options: { attempts: 1, ...KEEP },
  async process(
    deps: { readonly audit: AuditDeps; readonly enqueue: Enqueue },
    _payload,
    signal,
  ): Promise<void> {
    if ((await pull(deps.audit, signal)) === 'sweep')
      await deps.enqueue(sweep, { reason: 'the audit trail is too short' });
  },
});
