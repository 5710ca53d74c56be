import { sql, type SQL } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { orStop, pause } from '../abort.ts';
import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';
import type { Priority } from './types.ts';

/*
 * One budget over every process: a virtual schedule (GCRA) in one row of `budgets`, kept by the mirror
 * database's clock. `next_at` is when the next request is due if requests came perfectly spread. Each
 * grant moves it on by one interval; a request may run ahead of it by its priority's tolerance.
 *
 * The tolerances are the order of precedence, and every process sees it without talking to another:
 * while events wait they keep `next_at` two seconds ahead, where no pull and no sweep is let in; while
 * pulls wait they keep it ahead of what sweeps need. Nobody books a slot in advance, so a process that
 * dies or is aborted while waiting wastes none, and a silence reaches all who wait.
 *
 * The numbers: in a window of W ms at most (W + tolerance) / interval + 1 grants fit. With the interval
 * below that stays within `perMinute` for every window up to 60.5 s: a minute, and half a second for
 * requests that arrive later than they were granted. Sustained use is 60 / 62.5 = 96 % of the budget.
 */
const MINUTE_MS = 60_000;
const JITTER_MS = 500;
const TOLERANCE_MS: Readonly<Record<Priority, number>> = { event: 2_000, pull: 1_250, sweep: 500 };
/** Waits are cut to this, so that a budget raised or a silence lifted by hand is noticed. */
const LONGEST_SLEEP_MS = 5_000;

export interface Budget {
  /**
   * Resolves when one request may leave, in this process first come first served within a priority;
   * with that moment, by the mirror database's clock.
   * @throws Stopping when the signal aborts the wait
   */
  take(priority: Priority, signal: AbortSignal): Promise<Instant>;
  /** Takes a slot if one is free now: 0 where it was; else the ms after which to try again. */
  tryTake(priority: Priority): Promise<number>;
  /** Nothing of ours, in any process, leaves for `ms` from now. Counted as a throttle. */
  silence(ms: number): Promise<void>;
}

export interface BudgetOptions {
  readonly mirror: Pick<Mirror, 'db' | 't'>;
  /** The row in `budgets`: processes that use the same name share the budget. */
  readonly name: string;
  readonly perMinute: number;
  /** SQL for "now"; the database's clock unless a test drives it. */
  readonly clock?: () => SQL;
}

const DATABASE_CLOCK = () => sql`clock_timestamp()`;

/** Requests per minute that all our processes together may send. Writes nothing before the first take. */
export function createBudget(options: BudgetOptions): Budget {
  const { mirror, name, clock = DATABASE_CLOCK } = options;
  const intervalMs = (MINUTE_MS + TOLERANCE_MS.event + JITTER_MS) / options.perMinute;
  const lanes = { event: createLane(), pull: createLane(), sweep: createLane() };

  async function askForSlot(priority: Priority): Promise<Slot> {
    for (;;) {
      const [slot] = await rows<Slot>(
        mirror.db,
        takeSlot(mirror, name, clock(), intervalMs, TOLERANCE_MS[priority]),
      );
      if (slot) return slot;
      await mirror.db.execute(sql`
        insert into ${mirror.t.budgets} (name, next_at) values (${name}, ${clock()})
        on conflict (name) do nothing`);
    }
  }

  return {
    tryTake: async (priority) => (await askForSlot(priority)).waitMs,
    take: (priority, signal) =>
      lanes[priority](signal, async () => {
        for (;;) {
          const { waitMs, now } = await askForSlot(priority);
          if (waitMs === 0) return now;
          await pause(Math.min(waitMs, LONGEST_SLEEP_MS), signal);
        }
      }),
    async silence(ms) {
      const until = sql`${clock()} + ${ms}::double precision * interval '1 millisecond'`;
      // The first after the silence leaves at its end, the rest evenly spread: no burst into a wound.
      const resume = sql`${TOLERANCE_MS.event}::double precision * interval '1 millisecond'`;
      await mirror.db.execute(sql`
        insert into ${mirror.t.budgets} as b (name, next_at, silent_until, throttled)
        values (${name}, ${until} + ${resume}, ${until}, 1)
        on conflict (name) do update set
          silent_until = greatest(b.silent_until, excluded.silent_until),
          next_at = greatest(b.next_at, excluded.next_at),
          throttled = b.throttled + 1`);
    },
  };
}

interface Slot {
  /** 0: the slot is ours. */
  readonly waitMs: number;
  readonly now: Instant;
}

/**
 * One statement a take: locks the budget's row, grants where the slot is free and tells the wait where
 * it is not. No row comes back when the budget has none yet.
 */
function takeSlot(
  mirror: Pick<Mirror, 't'>,
  name: string,
  now: SQL,
  intervalMs: number,
  toleranceMs: number,
): SQL {
  const interval = sql`${intervalMs}::double precision * interval '1 millisecond'`;
  const tolerance = sql`${toleranceMs}::double precision * interval '1 millisecond'`;
  return sql`
    with slot as (
      select greatest(next_at - ${tolerance}, silent_until) as free_at, ${now} as now
      from ${mirror.t.budgets} where name = ${name} for update
    ), granted as (
      update ${mirror.t.budgets} b
      set next_at = greatest(b.next_at, slot.now) + ${interval}, granted = b.granted + 1
      from slot where b.name = ${name} and slot.free_at <= slot.now
    )
    select case when free_at <= now then 0
      else greatest(1, ceil(extract(epoch from free_at - now) * 1000))
    end::double precision as "waitMs", ${asInstant(sql`now`)} as now from slot`;
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
