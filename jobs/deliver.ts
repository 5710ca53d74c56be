import { z } from 'zod';

import { deliver as deliverDue, type DeliverDeps } from '../src/outgoing/deliver.ts';
import { defineJob, KEEP } from './define.ts';

/**
 * Posts what is due to one endpoint, where it is still set, or to all: so an older version adds it. What it
 * leaves, the next tick finds.
 */
export const deliver = defineJob({
  name: 'deliver',
  queue: 'pulls',
  payload: z.object({ endpointId: z.string().optional() }),
  options: { attempts: 1, ...KEEP },
  async process(deps: { readonly outgoing: DeliverDeps }, { endpointId }, signal): Promise<void> {
    const endpoints = deps.outgoing.endpoints.filter(
      (one) => endpointId === undefined || one.endpointId === endpointId,
    );
    await deliverDue({ ...deps.outgoing, endpoints }, signal);
  },
});
