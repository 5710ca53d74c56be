import { sql } from 'drizzle-orm';

import { whereWanted } from '../apply/wanted.ts';
import { rows } from '../mirror/database.ts';
import { sourceNowMs } from './sourceClock.ts';

import type { Call } from '../descope/types.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * In: nothing but Descope's `total`, a request a window, and our own counts. Out: the windows in which
 * they differ, and the stretches, small enough for a page, in which the difference is.
 */

/** A closed range of creation times, in epoch ms at whole seconds. From 0: from the beginning. */
export interface Range {
  readonly fromMs: number;
  readonly toMs: number;
}

export interface CountComparison {
  /** Users, as the directory and as the mirror counts them. */
  readonly told: number;
  readonly ours: number;
  /** Windows whose counts differ. */
  readonly unequal: readonly Range[];
  /** Stretches of them that a page can hold; not all, where the difference is in many places. */
  readonly narrow: readonly Range[];
}

/** A user lost in one window and one too many in another: only in windows apart do counts show both. */
const HALVINGS = 3;
/** Counts for narrowing down stop here: a mirror that is off in so many places is the sweep's to mend. */
const MOST_COUNTS = 32;
/** Who was created within this time may be on the way. */
const YOUNG_MS = 60_000;
/** So long a silence around a cut leaves nobody within the edges of either count. */
const CLEAR_CUT_MS = 6_000;
/** Among so many users around the middle of a range the quietest moment is chosen to cut it. */
const AROUND_MIDDLE = 64;

/**
 * Compares counts, window by window, and narrows down where they differ.
 * @throws the client's errors, Stopping
 */
export async function compareCounts(deps: PullDeps, call: Call): Promise<CountComparison> {
  const nowMs = (await sourceNowMs(deps.mirror, deps.client, call)) - YOUNG_MS;
  const everyone = { fromMs: 0, toMs: Math.floor(nowMs / 1000) * 1000 - 1 };
  const unequal: Counted[] = [];
  let told = 0;
  const { most: ours } = await countOurs(deps, everyone);
  for (const range of await cutWindows(deps, { ...everyone, users: ours })) {
    const there = await countTold(deps, range, call);
    told += there;
    if (!isEqual(there, await countOurs(deps, range))) unequal.push({ ...range, told: there });
  }
  return { told, ours, unequal, narrow: await narrowDown(deps, unequal, call) };
}

/** How many more (or fewer: `extra`) users the directory counts in these ranges than the mirror does. */
export async function countGap(
  deps: PullDeps,
  ranges: readonly Range[],
  call: Call,
): Promise<{ missing: number; extra: number }> {
  let missing = 0;
  let extra = 0;
  for (const range of ranges) {
    const told = await countTold(deps, range, call);
    const { least, most } = await countOurs(deps, range);
    missing += Math.max(0, told - most);
    extra += Math.max(0, least - told);
  }
  return { missing, extra };
}

interface Counted extends Range {
  /** The directory's count, or what it must be by those of its neighbours. */
  readonly told: number;
}

interface Ours {
  readonly least: number;
  readonly most: number;
}

function isEqual(told: number, { least, most }: Ours): boolean {
  return told >= least && told <= most;
}

/** A range, and about how many of our users are in it. */
interface Peopled extends Range {
  readonly users: number;
}

/**
 * Eight windows of about equally many users, or fewer where they would not fill a page, or where nobody
 * knows on which side of the cut to count whom.
 */
async function cutWindows(deps: PullDeps, everyone: Peopled): Promise<Peopled[]> {
  let windows = [everyone];
  for (let level = 0; level < HALVINGS; level++) {
    const pieces: Peopled[] = [];
    for (const range of windows) {
      const { users } = range;
      const middle = users > 2 * deps.pageSize ? await quietMiddle(deps, range, users) : null;
      if (middle && middle.silenceMs >= CLEAR_CUT_MS) {
        const [older, younger] = cutAt(range, middle.atMs);
        pieces.push({ ...older, users: middle.before });
        pieces.push({ ...younger, users: users - middle.before });
      } else pieces.push(range);
    }
    windows = pieces;
  }
  return windows;
}

/** Halves unequal ranges until a page can hold them: a count a step, the other half's is what is left. */
async function narrowDown(
  deps: PullDeps,
  unequal: readonly Counted[],
  call: Call,
): Promise<Range[]> {
  const stack = [...unequal];
  const narrow: Range[] = [];
  let counts = 0;
  for (let range = stack.pop(); range; range = stack.pop()) {
    const ours = await countOurs(deps, range);
    if (isEqual(range.told, ours)) continue;
    if (Math.max(range.told, ours.most) <= deps.pageSize) {
      narrow.push(range);
      continue;
    }
    const middle = counts < MOST_COUNTS ? await quietMiddle(deps, range, ours.most) : null;
    if (!middle) continue;
    const [older, younger] = cutAt(range, middle.atMs);
    const told = await countTold(deps, older, call);
    counts++;
    stack.push({ ...older, told }, { ...younger, told: range.told - told });
  }
  return narrow;
}

function cutAt({ fromMs, toMs }: Range, atMs: number): [Range, Range] {
  return [
    { fromMs, toMs: atMs - 1 },
    { fromMs: atMs, toMs },
  ];
}

async function countTold(deps: PullDeps, { fromMs, toMs }: Range, call: Call): Promise<number> {
  const bounds = { ...(fromMs > 0 ? { fromMs } : {}), toMs };
  const query = { field: 'createdTime', ...bounds, limit: 1 } as const;
  const { total } = await deps.client.searchUsers(query, call);
  // An answer of nobody at all may be wrongly empty: it is believed when it comes twice.
  return total > 0 ? total : (await deps.client.searchUsers(query, call)).total;
}

const instant = (ms: number) => sql`to_timestamp(${ms / 1000}::float8)`;

/**
 * Our own count, with and without the users at the edges: the request asks a unit more on each side,
 * and whether an edge itself is told is not certain. Nor is whether the directory still has those erased
 * here whom it showed when the last sweep looked.
 */
async function countOurs(deps: PullDeps, { fromMs, toMs }: Range): Promise<Ours> {
  const { db, t } = deps.mirror;
  const isNear = sql`(created_time between ${instant(fromMs - 2_000)} and ${instant(toMs + 2_000)}
                      ${fromMs > 0 ? sql`` : sql`or created_time is null`})`;
  const [row] = await rows<Ours>(
    db,
    sql`select count(*)::int
                 + (select count(*)::int from ${t.erasures} where seen_at is not null and ${isNear})
                 as most,
               count(*) filter (where created_time >= ${instant(fromMs + 1_000)}
                                  and created_time <= ${instant(toMs - 1_000)})::int as least
        from ${t.users}
        where deleted_at is null and ${whereWanted(deps)} and ${isNear}`,
  );
  return row ?? { least: 0, most: 0 };
}

/** Where a range is cut, at a whole second, and about how many of our users are before it. */
interface Middle {
  readonly atMs: number;
  readonly before: number;
  /** Between the users before and after it. */
  readonly silenceMs: number;
}

/**
 * Where to cut a range of `users` users in about equal parts: in the longest silence near the middle, so
 * that nobody is at the edge. Not the same place every time: two faults that hide each other in one
 * window are apart in another. Null where nothing is left to cut.
 */
async function quietMiddle(
  deps: PullDeps,
  { fromMs, toMs }: Range,
  users: number,
): Promise<Middle | null> {
  const middle = Math.floor(users * (0.4 + 0.2 * Math.random()));
  const skipped = Math.max(0, middle - AROUND_MIDDLE / 2);
  const [found] = await rows<Middle>(
    deps.mirror.db,
    sql`
      with near as (
        select created_time as at from ${deps.mirror.t.users}
        where deleted_at is null and ${whereWanted(deps)} and created_time between ${instant(fromMs)} and ${instant(toMs)}
        order by created_time offset ${skipped} limit ${AROUND_MIDDLE}),
      silences as (
        select at, lead(at) over w - at as silence, row_number() over w as place
        from near window w as (order by at))
      select (extract(epoch from at + silence / 2) * 1000)::float8 as "atMs",
             (${skipped}::bigint + place)::int as before,
             (extract(epoch from silence) * 1000)::float8 as "silenceMs"
      from silences where silence is not null order by silence desc limit 1`,
  );
  if (!found) return null;
  const atMs = Math.floor(found.atMs / 1000) * 1000;
  return atMs > fromMs && atMs <= toMs ? { ...found, atMs } : null;
}
