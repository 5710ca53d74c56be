import { z } from 'zod';

import { deliver as deliverDue, type DeliverDeps } from '../src/outgoing/deliver.ts';
import { defineJob, KEEP } from './define.ts';

/** Posts what is due to every endpoint. What it leaves, the next tick finds. */
export const deliver = defineJob({
  name: 'deliver',
  queue: 'pulls',
  payload: z.strictObject({}),
  options: { attempts: 1, ...KEEP },
  async process(deps: { readonly outgoing: DeliverDeps }, _payload, signal): Promise<void> {
    await deliverDue(deps.outgoing, signal);
  },
});
