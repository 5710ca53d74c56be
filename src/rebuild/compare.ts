import { transaction, type Mirror } from '../mirror/database.ts';
import { everyone, now, type Moment } from './batches.ts';
import { carryUsers, type Carrying } from './carry.ts';
import { listDifferences } from './differences.ts';

import type { Drift, DriftCounts } from '../pull/drift.ts';

/*
 * In: two generations. Out: what a reader of the mirror would notice of their swap, as a verification tells it:
 * who is only there, who is only here, of whom which fields differ.
 */

/** Of each kind so many are named; the counts are of all. */
const NAMED = 1_000;
/** More of them are looked up again when they are swapped: what is held in memory stays small (guarantee G8). */
const MOST_KEPT = 100_000;

export interface Comparison {
  /** When it began: from then on the generations may have grown apart again. */
  readonly since: Moment;
  /** Users of either. */
  readonly compared: number;
  /** missing: live in the other alone; extra: live here alone; different: live in both. */
  readonly counts: DriftCounts;
  /** Those of them that are named; ids and names of fields, no values. */
  readonly drift: Drift;
  /** All who differ; null where they are too many to be kept. */
  readonly differing: ReadonlySet<string> | null;
}

/**
 * Compares users as they are brought up to date, so that what happens meanwhile is no difference. It brings
 * everyone up to date who was written before it began.
 */
export async function compareGenerations(mirror: Mirror, carrying: Carrying): Promise<Comparison> {
  const since = await now(mirror.db);
  const missing: string[] = [];
  const extra: string[] = [];
  const different: { readonly userId: string; readonly fields: readonly string[] }[] = [];
  const counts = { missing: 0, extra: 0, different: 0 };
  const differing = new Set<string>();
  let compared = 0;
  const keep = <T>(kept: T[], one: T) => {
    if (kept.length < NAMED) kept.push(one);
  };
  for await (const userIds of everyone(mirror.db, carrying.from, carrying.to)) {
    compared += userIds.length;
    const found = await transaction(mirror, async (tx) => {
      await carryUsers(tx, carrying, userIds);
      return listDifferences(tx, carrying, userIds);
    });
    for (const { userId, kind, fields } of found) {
      if (differing.size <= MOST_KEPT) differing.add(userId);
      if (kind === 'updated') {
        counts.different++;
        keep(different, { userId, fields });
      } else {
        const where = kind === 'deleted' ? 'extra' : 'missing';
        counts[where]++;
        keep(where === 'extra' ? extra : missing, userId);
      }
    }
  }
  return {
    ...{ since, compared, counts, drift: { missing, extra, different } },
    differing: differing.size > MOST_KEPT ? null : differing,
  };
}
