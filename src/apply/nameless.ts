import { sql } from 'drizzle-orm';

import { rows, type Executor } from '../mirror/database.ts';
import { hintOf, type Judged } from './hints.ts';

import type { MirrorTables } from '../mirror/schema.ts';
import type { DueEvent, EventDeps } from './events.ts';

/*
 * Events that name nobody. In: what was judged of a flight. Out: those done whose moment has been read
 * since they came, by a sweep (deletions) or a pull of what was modified (all else); the others put off,
 * and what they wait for opened in the flight's own transaction, where nothing else would read it.
 * A proof counts that was begun after the event came: until then the event is pending, and holds `as_of`.
 */

/** By then every replica at the provider has heard of what an event told at once. */
const SETTLED_MS = 2_000;
/** A sweep begins so long after the event that asks for it: one is enough for a burst. */
const GATHER_MS = 3_000;
const STEP_MS = 500;
/** What an event waits for takes seconds to hours: it is asked for at growing intervals. */
const AGAIN_MS = { least: 2_000, most: 60_000 };
/** After sweeps that failed the next one waits, longer each time. */
const REST_MS = { least: 4_000, most: 3_600_000 };
/** An event is written a moment after the change it tells of: a window is open for it where it has this to spare. */
const MARGIN_MS = 60_000;
/** Newest runs of the modified pull among whose windows, however long, a proof is looked for: some hours of them. */
const RUNS_BACK = 200;

/** What is to be done about a flight's events. */
export interface NamelessVerdict {
  readonly judged: readonly Judged[];
  /** A window or a sweep was opened. */
  readonly opened: boolean;
  /** The next modified pull shows what events wait for. */
  readonly pullSoon: boolean;
}

interface Nameless {
  readonly event: DueEvent;
  /** When it happened, in epoch ms of Descope's clock. */
  readonly atMs: number;
  /** What was begun from then on shows what the event tells; epoch ms of the database's clock. */
  readonly sinceMs: number;
}

/** How long to wait (ms, null: done), by event id. */
type Waits = Map<string, { readonly againMs: number | null; readonly outcome: string }>;

/** Decides about the events of a flight that name nobody, and opens what they ask for. */
export async function judgeNameless(
  deps: EventDeps,
  tx: Executor,
  judged: readonly Judged[],
): Promise<NamelessVerdict> {
  const lost = judged
    .filter(({ event }) => event.userIds.length === 0 && event.loginIds.length === 0)
    .map(({ event }) => toNameless(event, deps.client.clockOffsetMs()));
  const deletions = lost.filter(({ event }) => hintOf(event.action) === 'deleted');
  const changes = lost.filter((one) => !deletions.includes(one));
  const waits: Waits = new Map();
  const opensSweep = deletions.length > 0 && (await judgeDeletions(deps, tx, deletions, waits));
  const found =
    changes.length > 0
      ? await judgeChanges(deps, tx, changes, waits)
      : { opened: false, pullSoon: false };
  return {
    judged: judged.map((j) => ({ ...j, ...waits.get(j.event.eventId) })),
    opened: opensSweep || found.opened,
    pullSoon: found.pullSoon,
  };
}

/** Nothing has happened after it was told, whatever the event says of its moment. */
function toNameless(event: DueEvent, offsetMs: number): Nameless {
  const atMs = Math.min(event.occurredMs, event.receivedMs + offsetMs);
  return { event, atMs, sinceMs: Math.max(event.receivedMs, atMs - offsetMs + SETTLED_MS) };
}

const doubled = (times: number, { least, most }: typeof AGAIN_MS) =>
  Math.min(most, least * 2 ** Math.min(times, 20));

/** Deletions need a sweep of everyone. Returns whether one was opened. */
async function judgeDeletions(
  deps: EventDeps,
  tx: Executor,
  deletions: readonly Nameless[],
  waits: Waits,
): Promise<boolean> {
  const { nowMs, provenMs, isSweeping, restsUntilMs } = await readSweeps(deps, tx);
  let opens = false;
  for (const { event, sinceMs } of deletions) {
    const ripeMs = Math.max(sinceMs, event.receivedMs + GATHER_MS, restsUntilMs);
    if (provenMs >= sinceMs) {
      const outcome = 'names nobody: a sweep has read everyone since';
      waits.set(event.eventId, { againMs: null, outcome });
    } else if (!isSweeping && ripeMs > nowMs) {
      // In steps: those of a burst come back together.
      const againMs = Math.ceil((ripeMs - nowMs) / STEP_MS) * STEP_MS;
      waits.set(event.eventId, { againMs, outcome: 'names nobody: waiting before a sweep' });
    } else {
      // One under way that was begun too early may have read past these users: another follows it.
      opens ||= !isSweeping;
      const outcome = 'names nobody: waiting for the end of a sweep';
      waits.set(event.eventId, { againMs: doubled(event.looks, AGAIN_MS), outcome });
    }
  }
  if (opens) await deps.openSweep(tx, 'users deleted, the event does not say which');
  return opens;
}

/** Epoch ms of the database's clock. */
interface Sweeps {
  readonly nowMs: number;
  /** When the last sweep that has read everyone was begun. */
  readonly provenMs: number;
  readonly isSweeping: boolean;
  /** No other is begun before: those since then have failed. */
  readonly restsUntilMs: number;
}

async function readSweeps({ mirror: { t } }: EventDeps, tx: Executor): Promise<Sweeps> {
  const [found] = await rows<{
    nowMs: number;
    provenMs: number | null;
    isSweeping: boolean;
    failures: number;
    failedMs: number | null;
  }>(
    tx,
    sql`
      with sweeps as (
        select *, outcome <> 'blocked' and covers_to <=
            (select complete_to from ${t.watermarks} where pull = 'sweep') as is_proof
        from ${t.syncRuns} where pull = 'sweep'
      ), failed as (
        select count(*)::int as failures, max(finished_at) as failed_at from sweeps
        where outcome is not null
          and run_id > coalesce((select max(run_id) from sweeps where is_proof), 0))
      select extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs",
             extract(epoch from (select max(started_at) from sweeps where is_proof))::float8 * 1000
               as "provenMs",
             exists (select 1 from sweeps where outcome is null) as "isSweeping",
             failures, extract(epoch from failed_at)::float8 * 1000 as "failedMs"
      from failed`,
  );
  if (!found) throw new Error('sweeps were not read');
  const { nowMs, provenMs, isSweeping, failures, failedMs } = found;
  const restsUntilMs = failedMs === null ? 0 : failedMs + doubled(failures - 1, REST_MS);
  return { nowMs, provenMs: provenMs ?? 0, isSweeping, restsUntilMs };
}

/** Brings events that name nobody back at once: what they may have waited for has been read. */
export async function bringBackNameless(
  tx: Executor,
  { t }: { readonly t: MirrorTables },
): Promise<void> {
  await tx.execute(sql`
    update ${t.events} set due_at = clock_timestamp()
    where state = 'pending' and due_at > clock_timestamp()
      and user_ids = '{}' and login_ids = '{}' and looks > 0`);
}

/** All else shows in what was modified: the next pull reads that, but for moments it has left behind. */
async function judgeChanges(
  deps: EventDeps,
  tx: Executor,
  changes: readonly Nameless[],
  waits: Waits,
): Promise<Pick<NamelessVerdict, 'opened' | 'pullSoon'>> {
  let standing = await readWindows(deps, tx, changes);
  if ([...standing.values()].some(needsWindow)) {
    // Flights side by side would each open the same.
    const lock = `rollcall event windows ${deps.mirror.schema}`;
    await tx.execute(sql`select pg_advisory_xact_lock(hashtextextended(${lock}, 0))`);
    standing = await readWindows(deps, tx, changes);
  }
  let coveredToMs = -Infinity;
  let pullSoon = false;
  for (const { event, atMs } of changes.toSorted((a, b) => a.atMs - b.atMs)) {
    const found = standing.get(event.eventId) ?? NOWHERE;
    if (found.isProven) {
      waits.set(event.eventId, { againMs: null, outcome: 'names nobody: its window was read' });
      continue;
    }
    if (needsWindow(found) && atMs > coveredToMs) {
      const halfMs = halfOf(deps);
      await deps.openWindow(tx, { fromMs: atMs - halfMs, toMs: atMs + halfMs });
      coveredToMs = atMs + deps.overlapMs;
    }
    pullSoon ||= !found.isBehind && !found.isOpen;
    const outcome = 'names nobody: waiting for its window to be read';
    waits.set(event.eventId, { againMs: doubled(event.looks, AGAIN_MS), outcome });
  }
  return { opened: coveredToMs > -Infinity, pullSoon };
}

/** How far the modified pull is with the moment of an event. */
interface Standing {
  /** A window around it has been read that was begun since the event came. */
  readonly isProven: boolean;
  /** One around it waits to be read. */
  readonly isOpen: boolean;
  /** The pull does not reach back to it. */
  readonly isBehind: boolean;
}

const NOWHERE: Standing = { isProven: false, isOpen: false, isBehind: false };

/** A window for an event reaches so far to both sides of its moment. */
const halfOf = ({ overlapMs }: EventDeps) => overlapMs + MARGIN_MS;

const needsWindow = ({ isProven, isOpen, isBehind }: Standing) => isBehind && !isProven && !isOpen;

async function readWindows(
  deps: EventDeps,
  tx: Executor,
  changes: readonly Nameless[],
): Promise<Map<string, Standing>> {
  const { t } = deps.mirror;
  const records = JSON.stringify(
    changes.map(({ event, atMs, sinceMs }) => {
      return { event_id: event.eventId, at_s: atMs / 1000, since_s: sinceMs / 1000 };
    }),
  );
  const found = await rows<Standing & { readonly eventId: string }>(
    tx,
    sql`
      with asked as (
        select event_id, to_timestamp(at_s) as at, to_timestamp(since_s) as since
        from jsonb_to_recordset(${records}::jsonb)
          as r(event_id text, at_s float8, since_s float8)
      ), recent as materialized (
        select started_at, from_time, to_time
        from (select run_id, started_at from ${t.syncRuns} where pull = 'modified'
              order by run_id desc limit ${RUNS_BACK}) as run
        join ${t.syncWindows} using (run_id) where state = 'proven'
      ), swept as materialized (
        select max(started_at) as started_at from ${t.syncRuns}
        where pull = 'sweep' and outcome <> 'blocked' and covers_to <=
            (select complete_to from ${t.watermarks} where pull = 'sweep')
      ), watermark as (select complete_to from ${t.watermarks} where pull = 'modified')
      select event_id as "eventId",
             coalesce((select started_at from swept) >= since, false)
               or exists (select 1 from recent
                          where started_at >= since and at between from_time and to_time)
               -- By place: thousands of events may have had a window opened each.
               or exists (select 1 from ${t.syncWindows} w join ${t.syncRuns} r using (run_id)
                          where w.pull = 'modified' and w.state = 'proven'
                            and w.from_time between at - make_interval(secs => ${(2 * halfOf(deps)) / 1000})
                                                and at
                            and w.to_time >= at and r.started_at >= since) as "isProven",
             exists (select 1 from ${t.syncWindows}
                     where state <> 'proven' and pull = 'modified'
                       and from_time <= at - make_interval(secs => ${MARGIN_MS / 1000})
                       and to_time >= at + make_interval(secs => ${MARGIN_MS / 1000})) as "isOpen",
             coalesce(at < (select complete_to from watermark)
                           - make_interval(secs => ${deps.overlapMs / 1000}), false) as "isBehind"
      from asked`,
  );
  return new Map(found.map((row) => [row.eventId, row]));
}
