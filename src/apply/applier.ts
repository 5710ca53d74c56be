import { sql } from 'drizzle-orm';

import {
  describeError,
  DescopeRejected,
  DescopeThrottled,
  DescopeUnauthorised,
  DescopeUnavailable,
  findCode,
  Stopping,
} from '../errors.ts';
import { rows, textArray } from '../mirror/database.ts';
import { NO_TRACES, type Place, type Traces } from '../traces.ts';
import { applyEvents, type Applied, type EventDeps } from './events.ts';

/*
 * Collects events across the jobs in flight, so that many deliveries share a load of up to a hundred
 * users. A full flight leaves at once, a smaller one when the one before has landed or is late; while a flight
 * waits for the budget, the next one fills.
 */

export interface ApplierDeps extends EventDeps {
  /** Aborted when the process stops. */
  readonly signal: AbortSignal;
  /** Told of each flight: what it did, what to look at again and what is to be read. */
  readonly onApplied?: (applied: Applied) => void;
  readonly traces?: Traces;
}

export interface Applier {
  /** Resolves when these events have been applied, parked, or put off to be looked at again. */
  apply(eventIds: readonly string[]): Promise<void>;
}

const FULL_FLIGHT = 100;
/** Users that the events of a flight name together; a single event may name more. */
const MOST_USERS = 500;
const MAX_FLIGHTS = 4;
/** One that is in the air for longer, on a request that hangs, no longer keeps a smaller one waiting. */
const LATE_MS = 1_000;
/** The first of a burst waits this long for the others. */
const LINGER_MS = 15;

interface Boarding {
  readonly eventIds: readonly string[];
  readonly place: Place;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export function createApplier(deps: ApplierDeps): Applier {
  const { traces = NO_TRACES } = deps;
  const boarding: Boarding[] = [];
  let flights = 0;
  let late = 0;
  let lingering = false;

  function count(): number {
    return boarding.reduce((sum, job) => sum + job.eventIds.length, 0);
  }

  function pump(): void {
    if (boarding.length === 0 || flights >= MAX_FLIGHTS || lingering) return;
    if (count() >= FULL_FLIGHT) {
      void fly();
    } else if (flights === late) {
      lingering = true;
      setTimeout(() => {
        lingering = false;
        if (boarding.length > 0) void fly();
      }, LINGER_MS);
    }
  }

  async function fly(): Promise<void> {
    const jobs = takeFlight(boarding);
    flights++;
    let isLate = 0;
    const timer = setTimeout(() => {
      isLate = 1;
      late++;
      pump();
    }, LATE_MS);
    pump();
    try {
      const eventIds = [...new Set(jobs.flatMap((job) => job.eventIds))];
      const places = jobs.map((job) => job.place);
      await traces.joint('apply events', places, async () => {
        for (const part of await splitByUsers(deps, eventIds)) {
          const applied = await applyApart(deps, part);
          deps.onApplied?.(applied);
        }
      });
      for (const job of jobs) job.resolve();
    } catch (error) {
      for (const job of jobs) job.reject(error);
    } finally {
      clearTimeout(timer);
      late -= isLate;
      flights--;
      pump();
    }
  }

  return {
    apply(eventIds) {
      return new Promise((resolve, reject) => {
        boarding.push({ eventIds, place: traces.place(), resolve, reject });
        pump();
      });
    },
  };
}

/** Whole jobs, until the flight is full. */
function takeFlight(boarding: Boarding[]): Boarding[] {
  const jobs: Boarding[] = [];
  let events = 0;
  while (boarding[0] && (events === 0 || events + boarding[0].eventIds.length <= FULL_FLIGHT)) {
    const job = boarding.shift();
    if (!job) break;
    jobs.push(job);
    events += job.eventIds.length;
  }
  return jobs;
}

/** A flight in parts by the users its events name: what is loaded is held until it is written. */
async function splitByUsers(
  { mirror: { db, t } }: ApplierDeps,
  eventIds: readonly string[],
): Promise<string[][]> {
  const found = await rows<{ eventId: string; users: number }>(
    db,
    sql`select event_id as "eventId",
               cardinality(case when user_ids = '{}' then login_ids else user_ids end) as users
        from ${t.events} where event_id = any(${textArray(eventIds)})`,
  );
  const named = new Map(found.map(({ eventId, users }) => [eventId, users]));
  const parts: string[][] = [[]];
  let users = 0;
  for (const eventId of eventIds) {
    const more = named.get(eventId) ?? 0;
    if (users > 0 && users + more > MOST_USERS) {
      parts.push([]);
      users = 0;
    }
    parts.at(-1)?.push(eventId);
    users += more;
  }
  return parts;
}

/** Applies together; where one event spoils it for all, each on its own, and the spoilt one is put aside. */
async function applyApart(deps: ApplierDeps, eventIds: readonly string[]): Promise<Applied> {
  const call = { priority: 'event', signal: deps.signal } as const;
  try {
    return await applyEvents(deps, eventIds, call);
  } catch (error) {
    if (!isPoison(error)) throw error;
    // A refusal may be of everything just now (a changed API, a rule at the edge): then it is no event's.
    if (error instanceof DescopeRejected && !(await isAnswering(deps))) throw error;
    const [only, ...others] = eventIds;
    if (only !== undefined && others.length === 0) {
      await putAside(deps, only, describeError(error));
      return NOTHING;
    }
    let all = NOTHING;
    for (const eventId of eventIds) all = add(all, await applyApart(deps, [eventId]));
    return all;
  }
}

/** Whether the failure is the event's own: not the network's, the key's, the database's or a stop. */
function isPoison(error: unknown): boolean {
  if (error instanceof DescopeRejected) return true;
  for (const kind of [DescopeThrottled, DescopeUnavailable, DescopeUnauthorised, Stopping]) {
    if (error instanceof kind) return false;
  }
  // SQLSTATE classes 22 and 54: data that Postgres cannot store, or not index.
  return /^(22|54)/.test(findCode(error) ?? '');
}

/** Whether Descope answers the simplest of our requests. */
async function isAnswering(deps: ApplierDeps): Promise<boolean> {
  try {
    const call = { priority: 'event', signal: deps.signal } as const;
    await deps.client.searchUsers({ field: 'createdTime', limit: 1 }, call);
    return true;
  } catch {
    return false;
  }
}

/** After this many attempts an event is parked: kept, shown in `status`, applied again on request. */
const MAX_ATTEMPTS = 5;

async function putAside(deps: ApplierDeps, eventId: string, reason: string): Promise<void> {
  await deps.mirror.db.execute(sql`
    update ${deps.mirror.t.events}
    set attempts = attempts + 1, error = ${reason},
        state = case when attempts + 1 >= ${MAX_ATTEMPTS} then 'parked' else state end,
        due_at = clock_timestamp() + interval '5 seconds' * power(3, attempts)
    where event_id = ${eventId} and state = 'pending'`);
}

const NOTHING: Applied = {
  events: 0,
  created: 0,
  updated: 0,
  deleted: 0,
  again: new Map(),
  opened: false,
  pullSoon: false,
};

function add(a: Applied, b: Applied): Applied {
  const again = new Map(a.again);
  for (const [ms, ids] of b.again) again.set(ms, [...(again.get(ms) ?? []), ...ids]);
  return {
    events: a.events + b.events,
    created: a.created + b.created,
    updated: a.updated + b.updated,
    deleted: a.deleted + b.deleted,
    again,
    opened: a.opened || b.opened,
    pullSoon: a.pullSoon || b.pullSoon,
  };
}
