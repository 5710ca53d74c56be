import { sql } from 'drizzle-orm';

import { asInstant, rows, textArray, type Mirror } from '../mirror/database.ts';
import { whereNamed } from '../mirror/named.ts';
import { toStory, type StoryLine } from './story.ts';

import type { Instant } from '../observation.ts';

/*
 * In: a user id or a login id. Out: everything the mirror knows of that user's history: ids, times and
 * names of fields, nothing else that is personal (guarantee G10).
 */

type Db = Pick<Mirror, 'db' | 't'>;

/** The row as it is now. */
export interface PresentState {
  readonly state: 'live' | 'tombstone';
  /** Since when it is a tombstone. */
  readonly deletedAt: Instant | null;
  readonly observedAt: Instant;
  readonly changedAt: Instant;
  readonly witness: string;
  readonly createdTime: Instant | null;
  readonly modifiedTime: Instant | null;
  readonly test: boolean;
}

/** An event of the inbox that names the user. */
export interface ToldEvent {
  readonly eventId: string;
  /** It names nobody by id, only a login id that the user has, or that was asked for. */
  readonly byLoginId: boolean;
  /** Such a one from before the user is known to have had its login ids of today: it may be about somebody else. */
  readonly perhapsAnothers: boolean;
  readonly action: string;
  readonly occurredAt: Instant;
  readonly receivedAt: Instant;
  readonly webhookAt: Instant | null;
  readonly auditAt: Instant | null;
  readonly archiveAt: Instant | null;
  readonly appliedAt: Instant | null;
  /** pending, applied, parked or archived. */
  readonly state: string;
  readonly attempts: number;
  readonly looks: number;
  /** When a pending one is looked at (again). */
  readonly dueAt: Instant;
  readonly outcome: string | null;
  readonly error: string | null;
}

/** A row of the feed. */
export interface WrittenChange {
  readonly seq: number;
  /** created, updated, deleted or restored. */
  readonly kind: string;
  /** Names of fields, no values. */
  readonly changed: readonly string[];
  readonly observedAt: Instant;
  readonly writtenAt: Instant;
  readonly witness: string;
}

/** A deletion that was suspected, with what became of it. */
export interface KnownDeletion {
  readonly deletionId: number;
  readonly state: string;
  readonly witness: string;
  readonly runId: number | null;
  /** Which pull's run it was; null where events told. */
  readonly pull: string | null;
  readonly nominatedAt: Instant;
  readonly verifiedAt: Instant | null;
  readonly decidedAt: Instant | null;
  readonly evidence: string | null;
}

/** A window of a pull that had to show the user: a sweep's by their creation, the modified pull's by their last change. */
export interface CoveringWindow {
  /** sweep or modified. */
  readonly pull: string;
  readonly windowId: number;
  readonly runId: number;
  /** open, proven or gap. */
  readonly state: string;
  readonly provenAt: Instant | null;
  /** How the run ended; null while it runs. */
  readonly outcome: string | null;
  readonly error: string | null;
}

/** That a person had the user erased: since then nothing of them is kept. */
export interface ErasedState {
  readonly erasedAt: Instant;
  readonly erasedBy: string;
}

export interface Explanation {
  /** Null where all that is known are events of a login id that no user in the mirror has or had. */
  readonly userId: string | null;
  /** Other users, tombstones as a rule, that had the login id asked for. */
  readonly others: readonly string[];
  /** Null where the mirror has no row. */
  readonly present: PresentState | null;
  /** Null where they were not erased. */
  readonly erased: ErasedState | null;
  /** Everything below, in order of time; what is still so now comes last. */
  readonly story: readonly StoryLine[];
  /** The latest, oldest first. */
  readonly events: readonly ToldEvent[];
  readonly changes: readonly WrittenChange[];
  readonly deletions: readonly KnownDeletion[];
  /** The latest of each pull, newest first. */
  readonly windows: readonly CoveringWindow[];
  /** There is more than is listed: only the latest of each kind are. */
  readonly truncated: boolean;
}

/** Of each kind; a user in normal use has fewer in a month. */
const MOST = 500;
const WINDOWS = 3;

/** Null where nothing at all is known: no row, no event, no change, no deletion, no erasure. */
export async function readExplain(mirror: Db, userOrLoginId: string): Promise<Explanation | null> {
  const { userId, loginIds, others } = await findMeant(mirror, userOrLoginId);
  const [present, erased, events, changes, deletions] = await Promise.all([
    readPresent(mirror, userId),
    readErased(mirror, userId),
    listEvents(mirror, userId, loginIds),
    listChanges(mirror, userId),
    listDeletions(mirror, userId),
  ]);
  const isNamed = present !== null || events.some((event) => !event.byLoginId);
  const isKnown = isNamed || erased !== null || changes.length + deletions.length > 0;
  if (!isKnown && events.length === 0) return null;
  const windows = await Promise.all([
    listWindows(mirror, 'modified', present?.modifiedTime ?? null),
    listWindows(mirror, 'sweep', present?.createdTime ?? null),
  ]);
  const latest = {
    events: markAnothers(events.slice(0, MOST).reverse(), isKnown ? changes : null),
    changes: changes.slice(0, MOST).reverse(),
    deletions: deletions.slice(0, MOST).reverse(),
  };
  return {
    userId: isKnown ? userId : null,
    others,
    present,
    erased,
    story: toStory(latest),
    ...latest,
    windows: windows.flat(),
    truncated: [events, changes, deletions].some((found) => found.length > MOST),
  };
}

/** An event of the inbox, before it is held against the feed. */
type FoundEvent = Omit<ToldEvent, 'perhapsAnothers'>;

/**
 * Whose a login id was is known since the latest change of the user's (`changes`, newest first). Null:
 * the login id is nobody's, so nobody's else.
 */
function markAnothers(
  events: readonly FoundEvent[],
  changes: readonly WrittenChange[] | null,
): ToldEvent[] {
  const gained = changes?.find((one) => one.kind !== 'updated' || one.changed.includes('loginIds'));
  const since = gained?.observedAt ?? null;
  return events.map((event) => ({
    ...event,
    perhapsAnothers:
      event.byLoginId && changes !== null && (since === null || event.occurredAt < since),
  }));
}

/** Whom it is about, by what login ids they may be meant, and who else has or had the one asked for. */
export interface Meant {
  readonly userId: string;
  readonly loginIds: readonly string[];
  readonly others: readonly string[];
}

/** The user of that id; else those who have or had the login id, who has it now first; else who may be of that id. */
export async function findMeant({ db, t }: Db, userOrLoginId: string): Promise<Meant> {
  const found = await rows<{ userId: string; isId: boolean; loginIds: readonly string[] }>(
    db,
    sql`select user_id as "userId", user_id = ${userOrLoginId} as "isId", login_ids as "loginIds"
        from ${t.users}
        where user_id = ${userOrLoginId} or login_ids @> ${textArray([userOrLoginId])}
        order by 2 desc, deleted_at is not null, observed_at desc limit 20`,
  );
  const [first, ...others] = found;
  // The mirror may never have seen them: events may name them all the same, either way.
  if (!first) return { userId: userOrLoginId, loginIds: [userOrLoginId], others: [] };
  if (first.isId) return { ...first, others: [] };
  return { ...first, others: others.map((row) => row.userId) };
}

async function readPresent({ db, t }: Db, userId: string): Promise<PresentState | null> {
  const [row] = await rows<PresentState>(
    db,
    sql`select case when deleted_at is null then 'live' else 'tombstone' end as state,
               ${asInstant(sql`deleted_at`)} as "deletedAt",
               ${asInstant(sql`observed_at`)} as "observedAt",
               ${asInstant(sql`changed_at`)} as "changedAt", witness,
               ${asInstant(sql`created_time`)} as "createdTime",
               ${asInstant(sql`modified_time`)} as "modifiedTime", test
        from ${t.users} where user_id = ${userId}`,
  );
  return row ?? null;
}

async function readErased({ db, t }: Db, userId: string): Promise<ErasedState | null> {
  const [row] = await rows<ErasedState>(
    db,
    sql`select ${asInstant(sql`erased_at`)} as "erasedAt", erased_by as "erasedBy"
        from ${t.erasures} where user_id = ${userId}`,
  );
  return row ?? null;
}

async function listEvents(
  { db, t }: Db,
  userId: string,
  loginIds: readonly string[],
): Promise<FoundEvent[]> {
  return rows<FoundEvent>(
    db,
    // One that names somebody by id is about them, whoever had the login id before.
    sql`with named as materialized (
          select event_id, received_at, seq from ${t.events}
          where ${whereNamed([userId], textArray(loginIds))}),
        latest as (
          select event_id from named order by received_at desc, seq desc limit ${MOST + 1})
        select event_id as "eventId", user_ids = '{}' as "byLoginId", action,
               ${asInstant(sql`occurred_at`)} as "occurredAt",
               ${asInstant(sql`received_at`)} as "receivedAt",
               ${asInstant(sql`webhook_at`)} as "webhookAt",
               ${asInstant(sql`audit_at`)} as "auditAt",
               ${asInstant(sql`archive_at`)} as "archiveAt",
               ${asInstant(sql`applied_at`)} as "appliedAt", state, attempts, looks,
               ${asInstant(sql`due_at`)} as "dueAt", outcome, error
        from ${t.events} join latest using (event_id) order by received_at desc, seq desc`,
  );
}

async function listChanges({ db, t }: Db, userId: string): Promise<WrittenChange[]> {
  return rows<WrittenChange>(
    db,
    sql`select seq::float8, kind, changed, ${asInstant(sql`observed_at`)} as "observedAt",
               ${asInstant(sql`written_at`)} as "writtenAt", witness
        from ${t.userChanges} as change where user_id = ${userId}
        order by change.seq desc limit ${MOST + 1}`,
  );
}

async function listDeletions({ db, t }: Db, userId: string): Promise<KnownDeletion[]> {
  return rows<KnownDeletion>(
    db,
    sql`select deletion_id::float8 as "deletionId", state, witness, run_id::float8 as "runId", pull,
               ${asInstant(sql`nominated_at`)} as "nominatedAt",
               ${asInstant(sql`verified_at`)} as "verifiedAt",
               ${asInstant(sql`decided_at`)} as "decidedAt", evidence
        from ${t.deletions} left join ${t.syncRuns} using (run_id)
        where user_id = ${userId} order by deletion_id desc limit ${MOST + 1}`,
  );
}

/** Of the modified pull, windows that begin so few before the time are looked at: each begins a minute after the last. */
const NEAREST = 200;
/** Of sweeps, the latest so many are looked at. */
const SWEEPS = 20;

async function listWindows(
  { db, t }: Db,
  pull: 'sweep' | 'modified',
  time: Instant | null,
): Promise<CoveringWindow[]> {
  if (time === null) return [];
  const near =
    pull === 'modified'
      ? sql`select * from ${t.syncWindows}
            where pull = 'modified' and from_time <= ${time}::timestamptz
            order by from_time desc limit ${NEAREST}`
      : sql`select w.* from (select run_id from ${t.syncRuns} where pull = 'sweep'
                             order by run_id desc limit ${SWEEPS}) as latest
            join ${t.syncWindows} w using (run_id)`;
  return rows<CoveringWindow>(
    db,
    // A window around an event ends after it was read: proven it is no further than to then.
    sql`select w.pull, window_id::float8 as "windowId", run_id::float8 as "runId", state,
               ${asInstant(sql`proven_at`)} as "provenAt", outcome, w.error
        from (${near}) as w join ${t.syncRuns} r using (run_id)
        where from_time <= ${time}::timestamptz
          and least(coalesce(to_time, covers_to, 'infinity'), proven_at) >= ${time}::timestamptz
        order by window_id desc limit ${WINDOWS}`,
  );
}
