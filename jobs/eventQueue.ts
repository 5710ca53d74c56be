import { applyEvents } from './applyEvents.ts';

import type { Queues } from './queues.ts';

const EVENTS_A_JOB = 100;

/**
 * Hands new inbox events to the queue, one job a delivery. One round trip at a time: deliveries that
 * arrive meanwhile share the next one.
 */
export function createEventQueue(
  queues: Pick<Queues, 'enqueueAll'>,
): (eventIds: readonly string[]) => Promise<void> {
  let waiting: { eventIds: string[] }[] = [];
  let current: Promise<void> = Promise.resolve();
  let next: Promise<void> | undefined;

  async function send(): Promise<void> {
    // However the one before ended: its failure was told to those who waited for it.
    await current.catch(() => undefined);
    const payloads = waiting;
    waiting = [];
    current = queues.enqueueAll(applyEvents, payloads);
    next = undefined;
    await current;
  }

  return (eventIds) => {
    for (let at = 0; at < eventIds.length; at += EVENTS_A_JOB) {
      waiting.push({ eventIds: eventIds.slice(at, at + EVENTS_A_JOB) });
    }
    next ??= send();
    return next;
  };
}
