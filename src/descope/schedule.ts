import { sql, type SQL } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';
import type { Priority } from './types.ts';

/*
 * One budget over every process: one row of `budgets`, kept by the mirror database's clock. Three rules,
 * each of which every process sees without talking to another:
 *
 * Spread. `next_at` is when the next request is due if requests came perfectly spread (GCRA). Each grant
 * moves it on by one interval, a `perMinute`th of a minute; a request may run ahead of it by the tolerance.
 * So a budget that lay idle is not spent at once, and who asks up to 2 s late loses nothing.
 *
 * Cap. Never more than `perMinute` grants in 60.5 s: a minute, and half a second for requests that arrive
 * later than they were granted. Grants are counted by the half second, so a slot is free again after 60.5
 * to 61 s: sustained use is 98 % of the budget. How late a slot is then asked for is lost: no window could
 * hold it.
 *
 * Precedence. An event or a pull that has to wait leaves a mark, and asks again before it fades. While an
 * event's stands no pull gets a slot, while either stands no sweep does. The next grant to the same kind
 * takes it away, unless it leaves some of those who asked waiting. Nobody books a slot in advance: a process
 * that dies while waiting leaves a mark that fades, and a silence reaches all who wait.
 */
const MINUTE_MS = 60_000;
const TOLERANCE_MS = 2_000;
/** So many half seconds hold every stretch of 60.5 s, wherever in the first of them it begins. */
const HALVES = 122;
/** A dead waiter's mark costs no more than the tolerance makes up. Waiters ask again within half of it. */
const MARK_MS = 2_000;
/** Who stands behind a mark does not ask more often than this, however large the budget. */
const SHORTEST_TURN_MS = 100;

export interface Slots {
  /** How many of the wanted slots are ours; they may leave now. */
  readonly granted: number;
  /** Where none is: the ms after which to ask again. Else 0. */
  readonly waitMs: number;
  readonly now: Instant;
}

/** What all processes share of a budget. */
export interface Schedule {
  /**
   * Takes as many of the wanted slots (1 where not told) as are free now, and tells the wait where none is.
   * Who waits asks again within a second, or others may go first.
   */
  ask(priority: Priority, wanted?: number): Promise<Slots>;
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
  return {
    async ask(priority, wanted = 1) {
      for (;;) {
        const take = takeSlots({ ...options, clock }, priority, wanted);
        const [slots] = await rows<Slots>(mirror.db, take);
        if (slots) return slots;
        await mirror.db.execute(sql`
          insert into ${mirror.t.budgets} (name, next_at) values (${name}, ${clock()})
          on conflict (name) do nothing`);
      }
    },
    async silence(ms, throttles) {
      const until = sql`${clock()} + ${inMs(ms)}`;
      // The first after the silence leaves at its end, the rest evenly spread: no burst into a wound.
      await mirror.db.execute(sql`
        insert into ${mirror.t.budgets} as b (name, next_at, silent_until, throttled)
        values (${name}, ${until} + ${inMs(TOLERANCE_MS)}, ${until}, ${throttles})
        on conflict (name) do update set
          silent_until = greatest(b.silent_until, excluded.silent_until),
          next_at = greatest(b.next_at, excluded.next_at),
          throttled = b.throttled + excluded.throttled`);
    },
  };
}

/**
 * One statement a take: locks the budget's row, grants what is free, tells the wait where nothing is, and
 * leaves the mark of who has to wait. No row comes back when the budget has none yet.
 */
function takeSlots(options: Required<ScheduleOptions>, priority: Priority, wanted: number): SQL {
  const { name, perMinute, clock } = options;
  const { budgets } = options.mirror.t;
  const intervalMs = MINUTE_MS / perMinute;
  const tolerance = inMs(TOLERANCE_MS);
  const { others, mark } = MARKS[priority];
  return sql`
    with held as (
      select next_at, silent_until, recent, recent_to, ${others} as others_until
      from ${budgets} where name = ${name} for update
    ), timed as (
      -- The clock is read when the row is ours: to wait for it takes time.
      select held.*, ${clock()} as now from held
    ), told as (
      select *, floor(extract(epoch from now) * 2)::bigint as half_now from timed
    ), numbered as (
      -- After a clock was set back, what was granted counts as granted now, and what else lies farther ahead
      -- than it can means nothing.
      select now, silent_until, is_set_back,
        case when others_until <= now + ${inMs(MARK_MS)} then others_until else '-infinity' end as others_until,
        case when is_set_back then greatest(now, silent_until) else next_at end as next_at,
        case when is_set_back then half_now else greatest(recent_to, half_now) end as half,
        case when is_set_back then half_now else recent_to end as recent_to,
        case when is_set_back then array[(select sum(grants)::int from unnest(recent) grants)]
          else recent end as recent
      from told, lateral (select recent_to > half_now + 2 as is_set_back) clock
    ), counted as (
      -- From the newest on: the half second whose grants fill the cap must have passed.
      select max(of_half) filter (where so_far >= ${perMinute}) + ${HALVES} as room_at,
        coalesce(sum(grants) filter (where of_half > half - ${HALVES}), 0) as used
      from (
        select half, grants, recent_to + 1 - place as of_half, sum(grants) over (order by place) as so_far
        from numbered, unnest(recent) with ordinality as bucket (grants, place)
      ) buckets
    ), free as (
      select *, greatest(next_at - ${tolerance}, silent_until, to_timestamp(room_at / 2.0)) as free_at
      from numbered, counted
    ), slots as (
      select *, case when greatest(free_at, others_until) > now then 0
        else least(${wanted}::bigint, ${perMinute} - used, 1 + greatest(0, floor(
          extract(epoch from now + ${tolerance} - greatest(next_at, now)) * 1000 / ${intervalMs}::float8)))
      end::int as granted
      from free
    ), kept as (
      update ${budgets} b
      set next_at = greatest(slots.next_at, now) + slots.granted * ${inMs(intervalMs)},
        granted = b.granted + slots.granted,
        recent = array(
          select coalesce(slots.recent[place - least(half - slots.recent_to, ${HALVES})::int], 0)
            + case place when 1 then slots.granted else 0 end
          from generate_series(1, ${HALVES}) place order by place),
        recent_to = half${mark(sql`case when slots.granted < ${wanted} then now + ${inMs(MARK_MS)} end`)}
      from slots where b.name = ${name} and (slots.granted > 0 or is_set_back or ${priority !== 'sweep'})
    )
    select granted, ${asInstant(sql`now`)} as now, case when granted > 0 then 0
      -- Who goes first takes the next slot: ours may be the one after it.
      else greatest(1, ceil(extract(epoch from greatest(free_at, least(others_until,
        greatest(free_at, now) + ${inMs(Math.max(intervalMs, SHORTEST_TURN_MS))})) - now) * 1000))
    end::float8 as "waitMs" from slots`;
}

/** Whose marks a priority minds, and how it writes its own. */
const MARKS: Readonly<Record<Priority, { others: SQL; mark: (until: SQL) => SQL }>> = {
  event: {
    others: sql`'-infinity'::timestamptz`,
    mark: (until) => sql`, event_waits_until = ${until}`,
  },
  pull: {
    others: sql`coalesce(event_waits_until, '-infinity')`,
    mark: (until) => sql`, pull_waits_until = ${until}`,
  },
  sweep: {
    others: sql`coalesce(greatest(event_waits_until, pull_waits_until), '-infinity')`,
    mark: () => sql``,
  },
};

function inMs(ms: number): SQL {
  return sql`${ms}::double precision * interval '1 millisecond'`;
}
