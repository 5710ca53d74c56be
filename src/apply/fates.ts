import type { ApplySummary } from './batch.ts';
import type { Sight } from './hints.ts';

/*
 * What became of the users that events asked to look at, in words: kept in `events.outcome`, where
 * `rollcall explain` finds it. Ids, instants and rules only, nothing personal.
 */

/** By user id. */
export type Fates = Map<string, string>;

/** What a look at users led to; lists hold user ids, and whoever is in none of them was written as seen. */
export interface Looked {
  readonly present: readonly string[];
  readonly absent: readonly string[];
  /** Present, but not wanted in this mirror. */
  readonly leftOut: readonly string[];
  /** Absent, but some event still expects them: looked at again first. */
  readonly unsettled: readonly string[];
  /** Present, but deleted a moment ago: a replica may not have heard of that. */
  readonly notRestored: readonly string[];
  /** Absent, and left to a person. */
  readonly held: readonly string[];
  readonly written: readonly ApplySummary[];
}

/** In the words of the write rule. */
const WRITTEN = {
  stale: 'not written, something newer was seen',
  erased: 'not written, erased by a person',
  created: 'created',
  updated: 'updated',
  restored: 'restored',
  deleted: 'tombstoned',
} as const;

/** Adds what became of these users. */
export function noteFates(fates: Fates, looked: Looked): void {
  const note = (userIds: readonly string[], fate: string) => {
    for (const userId of userIds) fates.set(userId, fate);
  };
  note(looked.present, 'unchanged');
  note(looked.absent, 'gone already');
  note(looked.leftOut, 'left out, a test user');
  note(looked.unsettled, 'not deleted yet, an event still expects it');
  note(looked.notRestored, 'not restored yet, deleted a moment ago');
  note(looked.held, 'not deleted, held by the breaker');
  for (const summary of looked.written) {
    note(summary.stale, WRITTEN.stale);
    note(summary.erased, WRITTEN.erased);
    for (const kind of ['created', 'updated', 'restored', 'deleted'] as const) {
      note(summary[kind], WRITTEN[kind]);
    }
  }
}

/** An event's outcome with when its users were read, where that was at once, and what became of them. Pure. */
export function tellFates(
  outcome: string,
  userIds: readonly string[],
  fates: Fates,
  { seen, absences }: Pick<Sight, 'seen' | 'absences'>,
): string {
  const told = userIds.flatMap((userId) => fates.get(userId) ?? []);
  if (told.length === 0) return outcome;
  const moments = new Set(
    userIds.flatMap((userId) => (seen.get(userId) ?? absences.get(userId))?.observedAt ?? []),
  );
  const [moment] = moments;
  const read = moments.size === 1 && moment !== undefined ? `, read at ${moment}` : '';
  const counts = new Map<string, number>();
  for (const fate of told) counts.set(fate, (counts.get(fate) ?? 0) + 1);
  const list = [...counts].map(([fate, count]) => (told.length === 1 ? fate : `${count} ${fate}`));
  return `${outcome}${read}: ${list.join('; ')}`;
}
