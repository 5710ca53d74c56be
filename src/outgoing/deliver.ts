import { Stopping } from '../errors.ts';
import { MOST_ATTEMPTS } from './backoff.ts';
import { tellsOfUser, toBody, type UserLook } from './body.ts';
import {
  disableEndpoint,
  settleDelivered,
  settleFailed,
  settleParked,
  settleStopped,
  type Answer,
} from './settle.ts';
import { takeDeliveries, TAKEN_SECONDS, type Delivery } from './take.ts';

import type { Mirror } from '../mirror/database.ts';
import type { Endpoint } from './endpoints.ts';
import type { post } from './post.ts';

/** What became of one attempt. */
export type DeliveryOutcome = 'delivered' | 'failed' | 'parked';

export interface DeliverDeps {
  readonly mirror: Mirror;
  readonly endpoints: readonly Endpoint[];
  readonly mirrorId: string;
  readonly post: typeof post;
  /** How long to wait after the nth failure. */
  readonly backoffMs: (attempts: number) => number;
  /** The user as applications read them; absent where bodies are to carry ids alone. */
  readonly findUser?: ((userId: string) => Promise<UserLook>) | undefined;
  readonly onOutcome: (
    outcome: DeliveryOutcome,
    told: { readonly endpointId: string; readonly deliveryId: number; readonly answer: Answer },
  ) => void;
}

/** Posts to one endpoint under way at once. */
const CONCURRENCY = 8;
/** A job that goes on and on would hide that it does; the next tick begins another. */
const RUN_MS = 20_000;
/** A post begun later than this might still be under way when another process takes its row. */
const BEGUN_WITHIN_MS = (TAKEN_SECONDS / 2) * 1000;

/**
 * Posts whatever is due, to all endpoints side by side, until nothing is or 20 s are over. Safe to run twice
 * and beside its twin; no transaction is open while a receiver takes its time.
 * @throws Stopping on abort; the database's errors
 */
export async function deliver(deps: DeliverDeps, signal: AbortSignal): Promise<void> {
  const ended = await Promise.allSettled(
    deps.endpoints.map((endpoint) => deliverTo(deps, endpoint, signal)),
  );
  const failed = ended.find((one) => one.status === 'rejected');
  if (failed) throw failed.reason;
  if (signal.aborted) throw new Stopping();
}

/** Takes more whenever one is settled, so that a slow answer holds up nobody but its own user. */
async function deliverTo(
  deps: DeliverDeps,
  endpoint: Endpoint,
  signal: AbortSignal,
): Promise<void> {
  const { mirror, mirrorId } = deps;
  const startedAtMs = performance.now();
  const underWay = new Set<Promise<void>>();
  const failures: unknown[] = [];
  while (!signal.aborted && failures.length === 0 && performance.now() - startedAtMs < RUN_MS) {
    const wasIdle = underWay.size === 0;
    const takenAtMs = performance.now();
    const options = { mirrorId, concurrency: CONCURRENCY };
    for (const delivery of await takeDeliveries(mirror, endpoint.endpointId, options)) {
      const one = deliverOne(deps, endpoint, delivery, { signal, takenAtMs })
        .catch((error: unknown) => {
          failures.push(error);
        })
        .finally(() => underWay.delete(one));
      underWay.add(one);
    }
    // What was settled while we looked may have let the next one of its user go.
    if (underWay.size > 0) await Promise.race(underWay);
    else if (wasIdle) break;
  }
  await Promise.all(underWay);
  if (failures.length > 0) throw failures[0];
}

async function deliverOne(
  deps: DeliverDeps,
  endpoint: Endpoint,
  delivery: Delivery,
  { signal, takenAtMs }: { readonly signal: AbortSignal; readonly takenAtMs: number },
): Promise<void> {
  const { mirror } = deps;
  const { webhookId, userId } = delivery;
  const user =
    deps.findUser && tellsOfUser(delivery) ? { look: await deps.findUser(userId) } : undefined;
  const isLate = performance.now() - takenAtMs > BEGUN_WITHIN_MS;
  const isStopping = () => signal.aborted;
  if (isStopping() || isLate) return settleStopped(mirror, delivery);
  const body = toBody(delivery, user?.look);
  const answer = await deps.post(endpoint, { webhookId, body }, signal);
  if (answer.error !== null && isStopping()) return settleStopped(mirror, delivery);
  await settle(deps, endpoint, delivery, answer);
}

async function settle(
  deps: DeliverDeps,
  { endpointId }: Endpoint,
  delivery: Delivery,
  answer: Answer,
): Promise<void> {
  const { mirror, onOutcome } = deps;
  const told = { endpointId, deliveryId: delivery.deliveryId, answer };
  if (answer.error === null) {
    await settleDelivered(mirror, delivery, answer);
    onOutcome('delivered', told);
    return;
  }
  const isGone = answer.status === 410;
  if (isGone) await disableEndpoint(mirror, endpointId);
  if (!isGone && delivery.attempts >= MOST_ATTEMPTS) {
    await settleParked(mirror, delivery, answer);
    onOutcome('parked', told);
    return;
  }
  const delayMs = Math.max(deps.backoffMs(delivery.attempts), answer.retryAfterMs);
  await settleFailed(mirror, delivery, answer, delayMs);
  onOutcome('failed', told);
}
