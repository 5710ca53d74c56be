import { randomUUID } from 'node:crypto';

import { registerEndpoints, type Endpoint } from '../src/outgoing/endpoints.ts';
import { listDue } from '../src/outgoing/take.ts';
import { deliver } from './deliver.ts';
import { startTicks, type Ticks } from './ticks.ts';

import type { Mirror } from '../src/mirror/database.ts';
import type { Queues } from './queues.ts';

export interface OutgoingSettings {
  readonly mirror: Mirror;
  readonly queues: Pick<Queues, 'enqueue'>;
  readonly endpoints: readonly Endpoint[];
  readonly onError: (error: unknown) => void;
}

/** How late a delivery may be for want of asking. */
const TICK_MS = 1_000;
/**
 * For so long a job of this process is not joined by a second one; after that it may be that the queue has
 * lost it.
 */
const BELIEVED_MS = 30_000;

/**
 * Looks each second whether anything is to be delivered, and if so adds jobs. Postgres knows what that is, so
 * a flushed queue or a killed process is made up for by the next look of whoever is left. A job an endpoint: a
 * slow receiver holds up no other.
 */
export function startOutgoing({ mirror, queues, endpoints, onError }: OutgoingSettings): Ticks {
  const life = randomUUID();
  const endpointIds = endpoints.map(({ endpointId }) => endpointId);
  let isRegistered = false;
  const work = async () => {
    if (!isRegistered) await registerEndpoints(mirror, endpoints);
    isRegistered = true;
    if (endpointIds.length === 0) return;
    const believed = `${life}-${Math.floor(performance.now() / BELIEVED_MS)}`;
    for (const endpointId of await listDue(mirror, endpointIds)) {
      const dedupeId = `deliver-${endpointId}-${believed}`;
      await queues.enqueue(deliver, { endpointId }, { dedupeId, dedupeMs: 'untilDone' });
    }
  };
  return startTicks({ work, everyMs: TICK_MS, onError });
}
