import { Stopping } from '../errors.ts';
import { orStop, pause } from '../abort.ts';
import { createSchedule, type ScheduleOptions, type Slots } from './schedule.ts';

import type { Instant } from '../observation.ts';
import type { Priority } from './types.ts';

/**
 * Waits are cut to this: the mark of who waits must not fade, and a budget raised or a silence lifted by
 * hand is noticed.
 */
const LONGEST_SLEEP_MS = 1_000;
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

export interface BudgetOptions extends Omit<ScheduleOptions, 'clock'> {
  /** Told of every slot taken, and how long it was waited for. */
  readonly onTake?: (priority: Priority, waitedMs: number) => void;
}

/** Requests per minute that all our processes together may send. Writes nothing before the first take. */
export function createBudget({ onTake, ...options }: BudgetOptions): Budget {
  const schedule = createSchedule(options);
  const silence = createSilence((ms, throttles) => schedule.silence(ms, throttles));
  const laneOf = (priority: Priority) =>
    createLane(async (wanted, signal) => {
      for (;;) {
        const silentMs = await silence.untold();
        if (silentMs === 0) {
          const slots = await schedule.ask(priority, wanted());
          if (slots.granted > 0) return slots;
          await pause(Math.min(slots.waitMs, LONGEST_SLEEP_MS), signal);
        } else {
          await pause(Math.min(silentMs, TELL_AGAIN_MS), signal);
        }
      }
    });
  const lanes = { event: laneOf('event'), pull: laneOf('pull'), sweep: laneOf('sweep') };
  return {
    async take(priority, signal) {
      const startMs = performance.now();
      const grantedAt = await lanes[priority](signal);
      onTake?.(priority, performance.now() - startMs);
      return grantedAt;
    },
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

type Lane = (signal: AbortSignal) => Promise<Instant>;

/** The first in line of a kind asks the database for all of them; who stands behind it may leave. */
function createLane(ask: (wanted: () => number, signal: AbortSignal) => Promise<Slots>): Lane {
  const behind: AbortSignal[] = [];
  /** How many of those behind were there when the database was asked: a slot is not older than its taker. */
  let counted = 0;
  const wanted = () => {
    counted = behind.length;
    return 1 + behind.filter((signal) => !signal.aborted).length;
  };
  let last: Promise<unknown> = Promise.resolve();
  let taken: { left: number; now: Instant } | undefined;

  async function serve(signal: AbortSignal): Promise<Instant> {
    if (!taken && !signal.aborted) {
      const { granted, now } = await ask(wanted, signal);
      taken = { left: granted, now };
    }
    if (!taken || signal.aborted) throw new Stopping();
    taken.left--;
    return taken.now;
  }

  return (signal) => {
    behind.push(signal);
    const turn = last.then(async () => {
      behind.shift();
      try {
        return await serve(signal);
      } finally {
        // A slot is for now: what nobody in line wants any more is not kept for who came later.
        if (taken?.left === 0 || counted-- === 0) taken = undefined;
      }
    });
    last = turn.catch(() => undefined);
    return orStop(turn, signal);
  };
}
