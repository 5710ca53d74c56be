import { startOutgoing } from '../jobs/outgoing.ts';
import { createNotifier, type Notifier } from './feed/notify.ts';
import { backoffMs } from './outgoing/backoff.ts';
import { toEndpoints } from './outgoing/endpoints.ts';
import { post } from './outgoing/post.ts';
import { findUser } from './readers/users.ts';

import type { Queues } from '../jobs/queues.ts';
import type { Ticks } from '../jobs/ticks.ts';
import type { Config } from './config.ts';
import type { Engine } from './engine.ts';
import type { Logger } from './log.ts';
import type { Mirror } from './mirror/database.ts';
import type { ReleaseStack } from './release.ts';
import type { DeliverDeps } from './outgoing/deliver.ts';

/* What tells others of changes, put together from the settings. */

interface Parts {
  readonly config: Config;
  readonly engine: Pick<Engine, 'mirror' | 'metrics'>;
  readonly log: Logger;
  readonly mirrorId: string;
}

/** What the job `deliver` needs; without addresses there is nothing for it to do. */
export function createOutgoing({ config, engine, log, mirrorId }: Parts): DeliverDeps {
  const { mirror, metrics } = engine;
  const reader = { db: mirror.pool, schema: mirror.schema };
  return {
    mirror,
    endpoints: toEndpoints(config.OUTGOING_URLS, config.OUTGOING_SECRETS),
    mirrorId,
    post,
    backoffMs,
    findUser:
      config.OUTGOING_BODY === 'full'
        ? async (userId) => {
            const user = await findUser(reader, userId);
            return user && { ...user };
          }
        : undefined,
    onOutcome: (outcome, { endpointId, deliveryId, answer }) => {
      metrics.outgoing.inc({ outcome });
      const line = { endpointId, deliveryId, outcome, status: answer.status, reason: answer.error };
      if (outcome === 'parked') {
        log.warn(line, "a delivery was given up until it is replayed; its user's later ones wait");
      } else log.debug(line, 'a change was posted');
      if (answer.status === 410)
        log.warn({ endpointId }, 'a receiver is gone; its endpoint is disabled');
    },
  };
}

/** Begins to look for what is to be delivered. */
export function startDeliveries(
  { mirror, endpoints }: Pick<DeliverDeps, 'mirror' | 'endpoints'>,
  queues: Queues,
  log: Logger,
): Ticks {
  return startOutgoing({
    mirror,
    queues,
    endpoints,
    onError: (error) => {
      log.warn({ err: error }, 'deliveries could not be looked for; the next look is in a second');
    },
  });
}

/** Tells listeners of Postgres that the feed has grown; poked after each transaction. */
export function startNotifier(mirror: Mirror, log: Logger, releases: ReleaseStack): Notifier {
  const notifier = createNotifier(mirror, (error) => {
    log.debug({ err: error }, 'listeners could not be told of changes; they ask by themselves');
  });
  releases.push('notifier', () => notifier.stop());
  return notifier;
}
