import type { Instant, Observation, Present } from '../observation.ts';

/** What the mirror holds of a user, as far as the write rule needs it. */
export interface StoredUser {
  readonly contentHash: string;
  readonly observedAt: Instant;
  readonly gone: boolean;
}

/**
 * What to do with an observation.
 * insert, update, restore, tombstone: a write. touch: a load saw the same later (the same content, or
 * still nobody), only `observed_at` moves.
 * unchanged: nothing to write. stale: an older observation, which never wins.
 * refused: a page shows a user whose tombstone only a load by id may lift.
 */
export type Decision =
  'insert' | 'update' | 'restore' | 'tombstone' | 'touch' | 'unchanged' | 'stale' | 'refused';

/**
 * The whole write rule (guarantees G3 and G4), pure. The statements in `apply.ts` repeat its first
 * line in their own `where`, so that a race between reading and writing cannot get past it.
 *
 * An older observation never overwrites a newer one. Two of the same microsecond are ordered too
 * (present before absent, then by content), so that any order of arrival ends in the same row.
 */
export function decide(observation: Observation, stored: StoredUser | undefined): Decision {
  if (stored === undefined) return observation.kind === 'present' ? 'insert' : 'tombstone';
  return observation.kind === 'present'
    ? decidePresent(observation, stored)
    : decideAbsent(observation.observedAt, stored);
}

function decidePresent(observation: Present, stored: StoredUser): Decision {
  const newer = observation.observedAt > stored.observedAt;
  if (stored.gone) {
    // At the same instant present wins: a wrong tombstone does more harm than a late one.
    if (observation.observedAt < stored.observedAt) return 'stale';
    return observation.by === 'load' ? 'restore' : 'refused';
  }
  if (observation.row.contentHash === stored.contentHash) {
    // A sweep over unchanged users writes nothing. A load is asked for one by one, and whoever
    // waits for it (`/api/wait`) wants to see that it happened.
    return newer && observation.by === 'load' ? 'touch' : 'unchanged';
  }
  if (newer) return 'update';
  const tie = observation.observedAt === stored.observedAt;
  return tie && observation.row.contentHash > stored.contentHash ? 'update' : 'stale';
}

function decideAbsent(observedAt: Instant, stored: StoredUser): Decision {
  const newer = observedAt > stored.observedAt;
  // Unmoved, a load from before this look could lift the tombstone when it arrives late.
  if (stored.gone) return newer ? 'touch' : 'unchanged';
  return newer ? 'tombstone' : 'stale';
}

/** Of two observations of one user in one batch, the one to go on with. */
export function winner<Seen extends Observation>(a: Seen, b: Seen): Seen {
  if (a.observedAt !== b.observedAt) return a.observedAt > b.observedAt ? a : b;
  if (a.kind === 'absent') return b;
  if (b.kind === 'absent') return a;
  if (a.by !== b.by) return a.by === 'load' ? a : b;
  return a.row.contentHash >= b.row.contentHash ? a : b;
}
