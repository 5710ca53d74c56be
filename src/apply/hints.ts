import type { Present } from '../observation.ts';
import type { DueEvent } from './events.ts';
import type { Absence } from './lookUp.ts';

/** What an event leads us to expect of its users. */
export type Hint = 'created' | 'modified' | 'deleted';

/** By the action's ending; singular and plural alike. */
export function hintOf(action: string): Hint {
  if (/created$/i.test(action)) return 'created';
  if (/deleted$/i.test(action)) return 'deleted';
  return 'modified';
}

/** What the loads showed of all users of a flight. */
export interface Sight {
  readonly seen: ReadonlyMap<string, Present>;
  readonly absences: ReadonlyMap<string, Absence>;
  /** Users the mirror has a row of. */
  readonly known: ReadonlySet<string>;
  /** Those of them that it has held for some time, or that are tombstones already. */
  readonly settled: ReadonlySet<string>;
  /** Users whose tombstone was written a moment ago. */
  readonly justDeleted: ReadonlySet<string>;
  /** Users that some event of the flight reports deleted. */
  readonly reported: ReadonlySet<string>;
}

/** An event and what to do with it now. */
export interface Judged {
  readonly event: DueEvent;
  /** Wait until the next look, in ms; null: done. */
  readonly againMs: number | null;
  /** Users for whom this look is not the last word. */
  readonly doubted: readonly string[];
  readonly outcome: string;
}

/** Waits before looking again. A provider's replica that lags more than this is the pulls' to mend. */
const AGAIN_MS = [1_000, 3_000, 10_000, 30_000];
/** A stale copy or a user that outlives its deletion is looked at again this often. */
const DOUBTS = 3;
/** Actions that say: this user's record is, was or has just become what a read shows. */
const ABOUT_RECORDS = /^Users?(Created|Modified|Deleted)$/;
/** An event is written a moment after the change it tells of. */
const TOLERANCE_MS = 2_000;

/**
 * Decides whether what was seen fits what the event told. Reads at the provider may lag behind its
 * events: a created user that is not there yet, a deleted one that still is (or is again), a copy older
 * than its change are looked at again, a few times, before they are believed. Pure.
 */
export function judgeLooks(event: DueEvent, sight: Sight): Judged {
  const hint = hintOf(event.action);
  const doubted = event.userIds.filter((userId) => isDoubtful(event, hint, userId, sight));
  const unresolved = event.userIds.length === 0 && event.loginIds.length > 0;
  const isUnseen = unresolved
    ? ABOUT_RECORDS.test(event.action)
    : doubted.some((userId) => sight.absences.has(userId));
  // However late the event is told: that tombstone is not of then.
  const isRevival = doubted.some((userId) => sight.justDeleted.has(userId));
  const waitMs = event.isLate && !isRevival ? undefined : AGAIN_MS[event.looks];
  const patience = isUnseen ? AGAIN_MS.length : DOUBTS;
  if ((isUnseen || doubted.length > 0) && waitMs !== undefined && event.looks < patience) {
    return { event, againMs: waitMs, doubted, outcome: 'not visible yet' };
  }
  return { event, againMs: null, doubted: [], outcome: describe(event, sight) };
}

function isDoubtful(event: DueEvent, hint: Hint, userId: string, sight: Sight): boolean {
  const observation = sight.seen.get(userId);
  if (observation === undefined) return !isCredible(hint, userId, sight);
  if (hint === 'deleted' || sight.justDeleted.has(userId)) return true;
  const { modifiedTime } = observation.row;
  if (modifiedTime === null || !ABOUT_RECORDS.test(event.action)) return false;
  return Date.parse(event.occurredAt) - Date.parse(modifiedTime) > TOLERANCE_MS;
}

/**
 * Whether the absence of a user can be news already. Of one the mirror has never seen it cannot be
 * told whether they are gone or not there yet, whatever the event. Of one seen a moment ago it takes a
 * deletion reported; not every replica at the provider may have heard of the creation.
 */
function isCredible(hint: Hint, userId: string, sight: Sight): boolean {
  if (sight.settled.has(userId)) return true;
  return sight.known.has(userId) && (hint === 'deleted' || sight.reported.has(userId));
}

function describe(event: DueEvent, sight: Sight): string {
  if (event.userIds.length === 0) {
    return event.loginIds.length === 0 ? 'names nobody' : 'no such user';
  }
  const present = event.userIds.filter((userId) => sight.seen.has(userId)).length;
  const absent = event.userIds.length - present;
  return [present > 0 ? `${present} present` : '', absent > 0 ? `${absent} absent` : '']
    .filter((part) => part !== '')
    .join(', ');
}
