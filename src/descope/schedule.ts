import { sql, type SQL } from 'drizzle-orm';

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

export interface Slot {
  /** 0: the slot is ours. Else the ms after which to ask again. */
  readonly waitMs: number;
  readonly now: Instant;
}

/** What all processes share of a budget. */
export interface Schedule {
  /** Takes a slot if one is free now, and tells the wait where none is. */
  ask(priority: Priority): Promise<Slot>;
  /** Nothing leaves for `ms` from now. Counts so many throttles. */
  silence(ms: number, throttles: number): Promise<void>;
}

export interface ScheduleOptions {
  readonly mirror: Pick<Mirror, 'db' | 't'>;
  /** The row in `budgets`: processes that use the same name share the budget. */
  readonly name: string;
  readonly perMinute: number;
  /** SQL for "now"; the database's clock unless a test drives it. */
  readonly clock?: () => SQL;
}

const DATABASE_CLOCK = () => sql`clock_timestamp()`;

/** Writes nothing before the first slot is asked for. Its methods throw the database's errors as they are. */
export function createSchedule(options: ScheduleOptions): Schedule {
  const { mirror, name, clock = DATABASE_CLOCK } = options;
  const intervalMs = (MINUTE_MS + TOLERANCE_MS.event + JITTER_MS) / options.perMinute;
  return {
    async ask(priority) {
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
    },
    async silence(ms, throttles) {
      const until = sql`${clock()} + ${ms}::double precision * interval '1 millisecond'`;
      // The first after the silence leaves at its end, the rest evenly spread: no burst into a wound.
      const resume = sql`${TOLERANCE_MS.event}::double precision * interval '1 millisecond'`;
      await mirror.db.execute(sql`
        insert into ${mirror.t.budgets} as b (name, next_at, silent_until, throttled)
        values (${name}, ${until} + ${resume}, ${until}, ${throttles})
        on conflict (name) do update set
          silent_until = greatest(b.silent_until, excluded.silent_until),
          next_at = greatest(b.next_at, excluded.next_at),
          throttled = b.throttled + excluded.throttled`);
    },
  };
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
