import { sql } from 'drizzle-orm';

import { findCode } from '../errors.ts';
import { withoutExcludedAnywhere, type Exclusion } from '../exclude.ts';
import { toCanonicalJson } from '../json.ts';
import { rows, type Executor, type Mirror } from '../mirror/database.ts';
import { within } from '../within.ts';
import { isAboutErased, namedErased, REDACTED, withoutErased } from './redact.ts';

import type { MirrorTables } from '../mirror/schema.ts';
import type { DirectoryEvent } from './event.ts';

/*
 * In: events of any witness. Out: rows of `events`, committed before anyone is told so (guarantee G1).
 * Never acts on an event, and never changes one that is there, but for the time a second witness came.
 */

/** Who told us of an event. */
export type EventWitness = 'webhook' | 'audit' | 'archive';

export interface RecordOptions {
  /** Keep events that are not about users as well, never to be acted on (`EVENT_ARCHIVE=all`). */
  readonly archiveAll: boolean;
  /** Fields that no payload is to tell of. */
  readonly exclude?: Exclusion;
}

export interface Recorded {
  /** The new events to act on, by id. */
  readonly accepted: readonly string[];
  /** New events kept without being acted on. */
  readonly archived: number;
  /** Events that were there already, or twice among those given. */
  readonly duplicates: number;
  /** Events that were not kept: not about users, or only about users who were erased. */
  readonly ignored: number;
}

/** What a statement wrote of the events it was given. */
interface Written {
  /** New ones, by id. */
  readonly fresh: Set<string>;
  /** Those about nobody but users who were erased. */
  readonly refused: ReadonlySet<string>;
}

/** The inbox did not commit. `code` is Postgres' SQLSTATE or the system's error code, empty where neither. */
export class InboxUnavailable extends Error {
  readonly code: string;
  constructor(reason: string, code = '') {
    super(`events could not be stored: ${reason}${code ? ` (${code})` : ''}`);
    this.name = 'InboxUnavailable';
    this.code = code;
  }
}

const MAX_OCCURRED_MS = Date.UTC(9999, 11, 31);

/** An event's moment in a form Postgres takes: one absurd moment must not fail a whole batch. */
function toOccurredAt(occurredMs: number): string {
  const bounded = Math.min(Math.max(occurredMs, 0), MAX_OCCURRED_MS);
  return new Date(Number.isNaN(bounded) ? 0 : bounded).toISOString();
}

/** One row of the statement's parameter; the payload is JSON text already and goes in as it is. */
function toRowText(event: DirectoryEvent, exclude: Exclusion | undefined): string {
  const columns = JSON.stringify({
    event_id: event.eventId,
    action: event.action,
    occurred_at: toOccurredAt(event.occurredMs),
    user_ids: event.userIds,
    login_ids: event.loginIds,
    actor_id: event.actorId,
    tenant_ids: exclude?.names.includes('userTenants') ? [] : event.tenantIds,
    state: event.kind === 'other' ? 'archived' : 'pending',
  });
  const payload =
    exclude === undefined || exclude.names.length === 0
      ? event.payload
      : toCanonicalJson(withoutExcludedAnywhere(JSON.parse(event.payload), exclude));
  return `${columns.slice(0, -1)},"payload":${payload}}`;
}

function isKept(event: DirectoryEvent, options: RecordOptions): boolean {
  return event.kind !== 'other' || options.archiveAll;
}

/**
 * Writes the events in one statement, but for those about nobody but users who were erased. One that tells
 * of others too keeps these, and nothing of what it was received with.
 */
async function writeEvents(
  executor: Executor,
  t: MirrorTables,
  given: readonly DirectoryEvent[],
  witness: EventWitness,
  exclude: Exclusion | undefined,
): Promise<Written> {
  // A statement may not touch a row twice; and in one order, two statements cannot deadlock.
  const unique = [...new Map(given.map((event) => [event.eventId, event])).values()].sort((a, b) =>
    a.eventId < b.eventId ? -1 : 1,
  );
  if (unique.length === 0) return { fresh: new Set(), refused: new Set() };
  const witnessedAt = sql.identifier(`${witness}_at`);
  try {
    const written = await rows<{ event_id: string; is_new: boolean; is_refused: boolean }>(
      executor,
      // A row this statement inserted was locked by nobody: its xmax is 0.
      sql`
        with given as materialized (
          select * from jsonb_to_recordset(${`[${unique.map((event) => toRowText(event, exclude)).join(',')}]`}::jsonb) as given
            (event_id text, action text, occurred_at timestamptz, user_ids text[], login_ids text[],
             actor_id text, tenant_ids text[], payload jsonb, state text)
        ), ${namedErased(t)}, written as (
          insert into ${t.events} as stored
            (event_id, action, occurred_at, user_ids, login_ids, actor_id, tenant_ids, payload, state, ${witnessedAt})
          select event_id, action, occurred_at, ${withoutErased}, tenant_ids,
            case when ids is null then payload else ${REDACTED}::jsonb end, state, clock_timestamp()
          from given left join erased using (event_id)
          where not ${isAboutErased} order by event_id
          on conflict (event_id) do update set ${witnessedAt} = excluded.${witnessedAt}
            where stored.${witnessedAt} is null
          returning event_id, xmax = 0 as is_new
        )
        select event_id, is_new, false as is_refused from written
        union all
        select event_id, false, true from given join erased using (event_id) where ${isAboutErased}`,
    );
    const idsOf = (found: typeof written) => new Set(found.map((row) => row.event_id));
    return {
      fresh: idsOf(written.filter((row) => row.is_new)),
      refused: idsOf(written.filter((row) => row.is_refused)),
    };
  } catch (error) {
    // Not as `cause`: the driver's error quotes the statement's parameters, which are personal data.
    throw new InboxUnavailable('Postgres refused or did not answer', findCode(error));
  }
}

/** Sorts one caller's events; takes from `fresh` what it counts as accepted, so that nobody else does. */
function tally(
  given: readonly DirectoryEvent[],
  { fresh, refused }: Written,
  options: RecordOptions,
): Recorded {
  const kept = given.filter((event) => isKept(event, options) && !refused.has(event.eventId));
  const claimed = kept.filter((event) => fresh.delete(event.eventId));
  const accepted = claimed.filter((event) => event.kind !== 'other');
  return {
    accepted: accepted.map((event) => event.eventId),
    archived: claimed.length - accepted.length,
    duplicates: kept.length - claimed.length,
    ignored: given.length - kept.length,
  };
}

/**
 * Stores events in one statement and one round trip; its size is the caller's to bound. An event that is
 * there already keeps everything but the time this witness first told of it.
 * @throws InboxUnavailable
 */
export async function recordEvents(
  executor: Executor,
  t: MirrorTables,
  events: readonly DirectoryEvent[],
  witness: EventWitness,
  options: RecordOptions,
): Promise<Recorded> {
  const kept = events.filter((event) => isKept(event, options));
  return tally(events, await writeEvents(executor, t, kept, witness, options.exclude), options);
}

export interface Inbox {
  /**
   * Stores one delivery's events; resolves once they are committed.
   * @throws InboxUnavailable within about 5 s; the events may yet turn out to be stored
   */
  record(events: readonly DirectoryEvent[]): Promise<Recorded>;
}

export interface InboxOptions extends RecordOptions {
  readonly mirror: Mirror;
  /** How long a delivery waits for its commit. Default 5 s: the sender is still there to hear 503. */
  readonly deadlineMs?: number;
}

/** A delivery in line for a commit. */
interface Waiting {
  readonly events: readonly DirectoryEvent[];
  readonly bytes: number;
  readonly resolve: (recorded: Recorded) => void;
  readonly reject: (error: InboxUnavailable) => void;
}

/** One statement stays small enough to be quick; a single larger delivery (1 MiB at most) goes alone. */
const MAX_BATCH_EVENTS = 500;
const MAX_BATCH_BYTES = 2 * 1024 * 1024;
/** While Postgres does not answer, deliveries beyond this are refused at once (guarantee G8). */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;

/** Takes from the front as many deliveries as one statement may carry, one at least. */
function takeBatch(waiting: Waiting[]): Waiting[] {
  let events = 0;
  let bytes = 0;
  let size = 0;
  for (const delivery of waiting) {
    events += delivery.events.length;
    bytes += delivery.bytes;
    if (size > 0 && (events > MAX_BATCH_EVENTS || bytes > MAX_BATCH_BYTES)) break;
    size += 1;
  }
  return waiting.splice(0, size);
}

function giveUp(): never {
  throw new InboxUnavailable('Postgres did not answer in time');
}

/**
 * The webhook's way in. Deliveries that arrive while a commit is under way share the next one, so a
 * burst costs few commits and a single delivery waits for nobody. Starts nothing and holds nothing
 * while idle.
 */
export function createInbox(options: InboxOptions): Inbox {
  const { mirror, deadlineMs = 5_000 } = options;
  const waiting: Waiting[] = [];
  let waitingBytes = 0;
  let isDraining = false;

  async function commit(batch: readonly Waiting[]): Promise<void> {
    const events = batch.flatMap((delivery) => delivery.events);
    try {
      // Bounded here too: a connection that went silent must not hold up every later delivery.
      const writing = writeEvents(mirror.db, mirror.t, events, 'webhook', options.exclude);
      const written = await within(deadlineMs, writing, giveUp);
      for (const delivery of batch) delivery.resolve(tally(delivery.events, written, options));
    } catch (error) {
      const failure =
        error instanceof InboxUnavailable ? error : new InboxUnavailable('unexpected failure');
      for (const delivery of batch) delivery.reject(failure);
    }
  }

  async function drain(): Promise<void> {
    if (isDraining) return;
    isDraining = true;
    while (waiting.length > 0) {
      const batch = takeBatch(waiting);
      await commit(batch);
    }
    isDraining = false;
  }

  function waitForCommit(events: readonly DirectoryEvent[], bytes: number): Promise<Recorded> {
    return new Promise((resolve, reject) => {
      waiting.push({ events, bytes, resolve, reject });
      void drain();
    });
  }

  return {
    async record(given) {
      const events = given.filter((event) => isKept(event, options));
      const ignored = given.length - events.length;
      if (events.length === 0) return { accepted: [], archived: 0, duplicates: 0, ignored };
      const bytes = events.reduce((sum, event) => sum + event.payload.length, 0);
      if (waitingBytes + bytes > MAX_WAITING_BYTES) {
        throw new InboxUnavailable('too many deliveries are waiting');
      }
      waitingBytes += bytes;
      try {
        const recorded = await within(deadlineMs, waitForCommit(events, bytes), giveUp);
        return { ...recorded, ignored: recorded.ignored + ignored };
      } finally {
        waitingBytes -= bytes;
        // Out of the line, where the deadline came before its turn.
        const position = waiting.findIndex((delivery) => delivery.events === events);
        if (position >= 0) waiting.splice(position, 1);
      }
    },
  };
}
