import { Stopping } from '../errors.ts';
import { orStop, pause } from '../abort.ts';
import { createSchedule, type ScheduleOptions } from './schedule.ts';

import type { Instant } from '../observation.ts';
import type { Priority } from './types.ts';

/** Waits are cut to this, so that a budget raised or a silence lifted by hand is noticed. */
const LONGEST_SLEEP_MS = 5_000;
/** A silence that Postgres could not be told of is told again this often. */
const TELL_AGAIN_MS = 1_000;

export interface Budget {
  /**
   * Resolves when one request may leave, in this process first come first served within a priority;
   * with that moment, by the mirror database's clock.
   * @throws Stopping when the signal aborts the wait
   */
  take(priority: Priority, signal: AbortSignal): Promise<Instant>;
  /**
   * Nothing of ours, in any process, leaves for `ms` from now. Counted as a throttle. Where Postgres is
   * away this process keeps silent by itself, and tells the others when Postgres is back.
   */
  silence(ms: number): Promise<void>;
}

/** Requests per minute that all our processes together may send. Writes nothing before the first take. */
export function createBudget(options: Omit<ScheduleOptions, 'clock'>): Budget {
  const schedule = createSchedule(options);
  const silence = createSilence((ms, throttles) => schedule.silence(ms, throttles));
  const lanes = { event: createLane(), pull: createLane(), sweep: createLane() };
  return {
    take: (priority, signal) =>
      lanes[priority](signal, async () => {
        for (;;) {
          const silentMs = await silence.untold();
          if (silentMs === 0) {
            const { waitMs, now } = await schedule.ask(priority);
            if (waitMs === 0) return now;
            await pause(Math.min(waitMs, LONGEST_SLEEP_MS), signal);
          } else {
            await pause(Math.min(silentMs, TELL_AGAIN_MS), signal);
          }
        }
      }),
    silence: silence.begin,
  };
}

interface Silence {
  readonly begin: (ms: number) => Promise<void>;
  /** The ms left of a silence that Postgres cannot be told of; 0 where there is none, or it knows. */
  readonly untold: () => Promise<number>;
}

/** A silence that was heard, until Postgres knows it: from then on it is Postgres' to keep. */
function createSilence(tell: (ms: number, throttles: number) => Promise<void>): Silence {
  let untilMs = 0;
  let throttles = 0;
  let telling: Promise<void> | undefined;
  const leftMs = () => Math.max(0, untilMs - performance.now());

  async function tellAll(): Promise<void> {
    const told = throttles;
    await tell(leftMs(), told);
    throttles -= told;
  }

  /** Who comes while it is told waits for the same telling. */
  function tellOnce(): Promise<void> {
    telling ??= tellAll().finally(() => {
      telling = undefined;
    });
    return telling;
  }

  async function untold(): Promise<number> {
    while (throttles > 0) {
      try {
        await tellOnce();
      } catch (error) {
        if (leftMs() > 0) return leftMs();
        throw error;
      }
    }
    return 0;
  }

  return {
    untold,
    async begin(ms) {
      untilMs = Math.max(untilMs, performance.now() + ms);
      throttles++;
      // What fails now is told by the next take, before it asks for a slot.
      await untold().catch(() => undefined);
    },
  };
}

type Lane = <T>(signal: AbortSignal, work: () => Promise<T>) => Promise<T>;

/** One waiter of a kind asks the database; the others stand behind it, and may leave. */
function createLane(): Lane {
  let last: Promise<unknown> = Promise.resolve();
  return (signal, work) => {
    const turn = last.then(() => {
      if (signal.aborted) throw new Stopping();
      return work();
    });
    last = turn.catch(() => undefined);
    return orStop(turn, signal);
  };
}
