import { NO_TRACES, type Place, type Traces } from '../src/traces.ts';
import { applyEvents, toJobs } from './applyEvents.ts';

import type { Queues } from './queues.ts';

/**
 * Hands new inbox events to the queue. One round trip at a time: events of deliveries that arrive
 * meanwhile share the next one, and its jobs, so that a burst costs few of both. A delivery that comes
 * alone is a job of its own, at once.
 */
export function createEventQueue(
  queues: Pick<Queues, 'enqueueAll'>,
  traces: Traces = NO_TRACES,
): (eventIds: readonly string[]) => Promise<void> {
  let waiting: string[] = [];
  let places: Place[] = [];
  let current: Promise<void> = Promise.resolve();
  let next: Promise<void> | undefined;

  async function send(): Promise<void> {
    // However the one before ended: its failure was told to those who waited for it.
    await current.catch(() => undefined);
    const eventIds = waiting;
    const from = places;
    waiting = [];
    places = [];
    current = traces.joint('enqueue events', from, () =>
      queues.enqueueAll(applyEvents, toJobs(eventIds)),
    );
    next = undefined;
    await current;
  }

  return (eventIds) => {
    for (const eventId of eventIds) waiting.push(eventId);
    const place = traces.place();
    if (place) places.push(place);
    next ??= send();
    return next;
  };
}
