import { sql } from 'drizzle-orm';

import { redactResolved } from '../inbox/redact.ts';
import { asInstant, rows, textArray, transaction, type Executor } from '../mirror/database.ts';
import { applyObservations } from './apply.ts';
import { deleteReported, type Breaker } from './deletions.ts';
import { noteFates, tellFates, type Fates } from './fates.ts';
import { judgeLooks, hintOf, type Judged, type Sight } from './hints.ts';
import { LOAD_LIMIT, lookUp, type Absence } from './lookUp.ts';
import { judgeNameless } from './nameless.ts';
import { isWanted } from './wanted.ts';

import type { Call, DescopeClient } from '../descope/types.ts';
import type { Mirror } from '../mirror/database.ts';
import type { Instant, Present, Witness } from '../observation.ts';

/*
 * In: ids of inbox events. Out: the users they name looked at, written, and the events marked done in
 * the same transaction. An event that names nobody waits for a window or a sweep instead. Never writes
 * anything an event says.
 */

export interface EventDeps {
  readonly mirror: Mirror;
  readonly client: DescopeClient;
  readonly includeTestUsers: boolean;
  readonly breaker: Breaker;
  /** Each modified pull reads again what lies this far behind its watermark. */
  readonly overlapMs: number;
  /** Opens a window of modified users (epoch ms of Descope's clock), durably. */
  readonly openWindow: (
    tx: Executor,
    range: { readonly fromMs: number; readonly toMs: number },
  ) => Promise<void>;
  /** Opens a sweep, durably. */
  readonly openSweep: (tx: Executor, reason: string) => Promise<void>;
}

/** An event of the inbox that waits to be applied. */
export interface DueEvent {
  readonly eventId: string;
  readonly action: string;
  readonly userIds: readonly string[];
  readonly loginIds: readonly string[];
  readonly occurredAt: Instant;
  /** The same in epoch ms, of Descope's clock; and when it was told, of the database's. */
  readonly occurredMs: number;
  readonly receivedMs: number;
  readonly looks: number;
  /** Told so long after it happened that no lag at the provider explains what is seen. */
  readonly isLate: boolean;
  readonly witness: Witness;
}

/** What a flight of events did. */
export interface Applied {
  readonly events: number;
  readonly created: number;
  readonly updated: number;
  readonly deleted: number;
  /** Events to look at again, by the wait until then. */
  readonly again: ReadonlyMap<number, readonly string[]>;
  /** A window or a sweep was opened. */
  readonly opened: boolean;
  /** Events wait for what the next modified pull reads. */
  readonly pullSoon: boolean;
}

/**
 * Applies those of these events that are pending and due.
 * @throws the client's errors; nothing is marked done then, and all of it may be done again
 */
export async function applyEvents(
  deps: EventDeps,
  eventIds: readonly string[],
  call: Call,
): Promise<Applied> {
  const due = await readDue(deps, eventIds);
  const named = await resolveLoginIds(deps, due, call);
  const hints = hintsByUser(named);
  const seen = new Map<string, Present>();
  const absences = new Map<string, Absence>();
  const userIds = [...hints.keys()];
  const suspected = (userId: string) => hints.get(userId)?.has('deleted') ?? false;
  for (let at = 0; at < userIds.length; at += LOAD_LIMIT) {
    const chunk = userIds.slice(at, at + LOAD_LIMIT);
    const { present, absent } = await lookUp(deps.client, chunk, suspected, call);
    for (const observation of present) seen.set(observation.userId, observation);
    for (const absence of absent) absences.set(absence.userId, absence);
  }
  const reported = new Set(userIds.filter(suspected));
  const byLoginId = new Set(idsOfEvents(due.filter((event) => event.userIds.length === 0)));
  return transaction(deps.mirror, async (tx) => {
    const known = await readKnown(deps, tx, userIds);
    const sight = { seen, absences, reported, ...known };
    const applied = await commit(deps, tx, sight, named);
    // Whose login id it was nobody could tell before.
    const resolved = named.filter((event) => byLoginId.has(event.eventId));
    await redactResolved(tx, deps.mirror.t, resolved);
    return applied;
  });
}

async function readDue(deps: EventDeps, eventIds: readonly string[]): Promise<DueEvent[]> {
  const { db, t } = deps.mirror;
  return rows<DueEvent>(
    db,
    sql`select event_id as "eventId", action, user_ids as "userIds", login_ids as "loginIds",
               ${asInstant(sql`occurred_at`)} as "occurredAt",
               extract(epoch from occurred_at)::float8 * 1000 as "occurredMs",
               extract(epoch from received_at)::float8 * 1000 as "receivedMs", looks,
               received_at - occurred_at > interval '1 hour' as "isLate",
               case when webhook_at is not null then 'webhook'
                    when audit_at is not null then 'audit' else 'archive' end as witness
        from ${t.events}
        where event_id = any(${textArray(eventIds)}) and state = 'pending'
          and due_at <= clock_timestamp()
        order by seq`,
  );
}

/** Events that name users by login id only: Descope is asked who that is, and the mirror who it was. */
async function resolveLoginIds(
  deps: EventDeps,
  due: readonly DueEvent[],
  call: Call,
): Promise<DueEvent[]> {
  const resolved: DueEvent[] = [];
  for (const event of due) {
    if (event.userIds.length > 0 || event.loginIds.length === 0) {
      resolved.push(event);
      continue;
    }
    const userIds = new Set<string>();
    for (const loginId of event.loginIds) {
      const { user } = await deps.client.loadUserByLoginId(loginId, call);
      if (user) userIds.add(user.userId);
    }
    const owners = await rows<{ userId: string }>(
      deps.mirror.db,
      sql`select user_id as "userId" from ${deps.mirror.t.users}
          where login_ids && ${textArray(event.loginIds)} and deleted_at is null`,
    );
    for (const { userId } of owners) userIds.add(userId);
    resolved.push({ ...event, userIds: [...userIds] });
  }
  return resolved;
}

function hintsByUser(events: readonly DueEvent[]): Map<string, Set<string>> {
  const hints = new Map<string, Set<string>>();
  for (const event of events) {
    for (const userId of event.userIds) {
      const known = hints.get(userId) ?? new Set();
      hints.set(userId, known.add(hintOf(event.action)));
    }
  }
  return hints;
}

/** Of these users, those the mirror knows, and those of whom "not found", or "found", is credible at once. */
async function readKnown(
  deps: EventDeps,
  tx: Executor,
  userIds: readonly string[],
): Promise<Pick<Sight, 'known' | 'settled' | 'justDeleted'>> {
  const { t } = deps.mirror;
  const found = await rows<{ userId: string; settled: boolean; justDeleted: boolean }>(
    tx,
    // A user created a moment ago may not have reached every replica of Descope's database.
    sql`select user_id as "userId",
               deleted_at is not null or created_time is null
                 or created_time < clock_timestamp() - interval '2 minutes' as settled,
               coalesce(deleted_at > clock_timestamp() - interval '1 minute', false)
                 as "justDeleted"
        from ${t.users} where user_id = any(${textArray(userIds)})`,
  );
  return {
    known: new Set(idsOf(found)),
    settled: new Set(idsOf(found.filter((row) => row.settled))),
    justDeleted: new Set(idsOf(found.filter((row) => row.justDeleted))),
  };
}

async function commit(
  deps: EventDeps,
  tx: Executor,
  sight: Sight,
  events: readonly DueEvent[],
): Promise<Applied> {
  const { t } = deps.mirror;
  const counts = { created: 0, updated: 0, deleted: 0 };
  const fates: Fates = new Map();
  const looked = events.map((event) => judgeLooks(event, sight));
  // Users that some event still waits for are neither removed nor restored on the word of this look.
  const unsettled = new Set(looked.flatMap((j) => (j.againMs === null ? [] : j.doubted)));
  const isDoubted = ({ userId }: Present) => unsettled.has(userId) && sight.justDeleted.has(userId);
  for (const witness of ['webhook', 'audit', 'archive'] as const) {
    const users = usersOf(looked, witness);
    const seen = pick(users, sight.seen);
    const present = seen.filter((o) => isWanted(deps, o) && !isDoubted(o));
    const missing = pick(users, sight.absences);
    const absent = missing.filter((a) => !unsettled.has(a.userId));
    const written = await applyObservations(tx, t, present, witness);
    const decided = await deleteReported(tx, deps.mirror, absent, witness, deps.breaker);
    const { summary } = decided;
    noteFates(fates, {
      present: idsOf(present),
      absent: idsOf(absent),
      leftOut: idsOf(seen.filter((o) => !isWanted(deps, o))),
      unsettled: idsOf(missing.filter((a) => unsettled.has(a.userId))),
      notRestored: idsOf(seen.filter(isDoubted)),
      held: decided.waiting,
      written: [written, summary],
    });
    counts.created += written.created.length;
    counts.updated += written.updated.length + written.restored.length;
    counts.deleted += summary.deleted.length;
  }
  const told = looked.map((j) => {
    if (j.againMs !== null) return j;
    return { ...j, outcome: tellFates(j.outcome, j.event.userIds, fates, sight) };
  });
  const { judged, opened, pullSoon } = await judgeNameless(deps, tx, told);
  const again = await markEvents(deps, tx, judged);
  return { events: events.length, ...counts, again, opened, pullSoon };
}

/** Users looked at because of this witness, each under one witness only: the first to tell. */
function usersOf(judged: readonly Judged[], witness: Witness): Set<string> {
  const order: readonly Witness[] = ['webhook', 'audit', 'archive'];
  const earlier = new Set(order.slice(0, order.indexOf(witness)));
  const taken = new Set(
    judged.filter((j) => earlier.has(j.event.witness)).flatMap((j) => j.event.userIds),
  );
  return new Set(
    judged
      .filter((j) => j.event.witness === witness)
      .flatMap((j) => j.event.userIds.filter((userId) => !taken.has(userId))),
  );
}

const idsOfEvents = (events: readonly DueEvent[]) => events.map((event) => event.eventId);

const idsOf = (found: readonly { readonly userId: string }[]) => found.map((o) => o.userId);

function pick<T>(userIds: ReadonlySet<string>, from: ReadonlyMap<string, T>): T[] {
  return [...userIds].map((userId) => from.get(userId)).filter((found) => found !== undefined);
}

/** Marks events done, or due again; in the transaction of the rows they asked for. */
async function markEvents(
  deps: EventDeps,
  tx: Executor,
  judged: readonly Judged[],
): Promise<Map<number, string[]>> {
  const again = new Map<number, string[]>();
  const records = judged.map(({ event, againMs, outcome }) => {
    if (againMs !== null) {
      again.set(againMs, [...(again.get(againMs) ?? []), event.eventId]);
    }
    return { event_id: event.eventId, outcome, again_ms: againMs };
  });
  if (records.length === 0) return again;
  records.sort((a, b) => (a.event_id < b.event_id ? -1 : 1));
  await tx.execute(sql`
    update ${deps.mirror.t.events} as e
    set state = case when r.again_ms is null then 'applied' else 'pending' end,
        applied_at = case when r.again_ms is null then clock_timestamp() end,
        looks = e.looks + 1, outcome = r.outcome, error = null,
        due_at = clock_timestamp() + make_interval(secs => coalesce(r.again_ms, 0) / 1000.0)
    from jsonb_to_recordset(${JSON.stringify(records)}::jsonb)
      as r(event_id text, outcome text, again_ms integer)
    where e.event_id = r.event_id and e.state = 'pending'`);
  return again;
}
