import { sql } from 'drizzle-orm';

import { findCode } from '../errors.ts';
import { rows, transaction, type Mirror } from '../mirror/database.ts';
import { readGenerations } from '../mirror/generations.ts';
import { mirrorTables } from '../mirror/schema.ts';
import { compareGenerations, type Comparison } from './compare.ts';
import { listKeepers } from './dependents.ts';
import { CannotDrop } from './failures.ts';
import { assertSwappable, discardNext } from './fill.ts';
import { waitForSnapshots } from './snapshots.ts';
import { dropGeneration, hasGeneration } from './structure.ts';
import { swap, type Told } from './swap.ts';

import type { Carrying } from './carry.ts';

/*
 * In: the generation that a rebuild has replaced. Out: it in its old place, with what has been seen since; or
 * gone.
 */

export interface RolledBack {
  readonly comparison: Comparison;
  readonly told: Told;
}

/**
 * Swaps back. What was observed since the last swap is carried over by the write rule, and whoever is live now
 * stays: going back removes nobody (guarantee G4). Null where there is nothing to go back to.
 * @throws CannotSwap, ReadersBusy, Stopping
 */
export async function rollBack(
  mirror: Mirror,
  options: { readonly signal: AbortSignal; readonly patienceMs: number },
): Promise<RolledBack | null> {
  if (!(await hasGeneration(mirror.db, mirror, '_previous'))) return null;
  const { previous } = await readGenerations(mirror.db, mirror, Infinity);
  const carrying: Carrying = {
    from: mirror.t,
    to: mirrorTables(mirror.schema, '_previous'),
    // By when it was written too: a writer that the swap made wait had looked before it.
    rule: sql`greatest(f.observed_at, f.changed_at) > ${previous?.replacedAt ?? 'infinity'}::timestamptz
      or (f.deleted_at is null) <> (n.user_id is not null and n.deleted_at is null)
      or (f.deleted_at is not null and n.deleted_at is not null)`,
  };
  await transaction(mirror, (tx) => assertSwappable(tx, mirror, '_previous'));
  const comparison = await compareGenerations(mirror, carrying);
  await waitForSnapshots(mirror, options);
  const told = await swap(
    mirror,
    {
      incoming: '_previous',
      carrying,
      differing: comparison.differing,
      since: comparison.since,
      assertSettled: () => Promise.resolve(),
      along: (tx) => assertSwappable(tx, mirror, '_previous'),
    },
    options,
  );
  return { comparison, told };
}

/** Drops what a rebuild has replaced; false where there is nothing. @throws CannotDrop */
export async function dropPrevious(mirror: Mirror): Promise<boolean> {
  return transaction(mirror, async (tx) => {
    await limitLocks(tx);
    const keepers = await listKeepers(tx, mirror);
    if (keepers.length > 0) throw new CannotDrop(keepers);
    const isThere = await hasGeneration(tx, mirror, '_previous');
    await dropGeneration(tx, mirror, '_previous');
    return isThere;
  });
}

/** A rebuild that nobody has gone on with for so long is given up. */
const ABANDONED_DAYS = 7;

/**
 * Drops generations that have been kept long enough: what is in them grows old, and is personal.
 * @throws CannotDrop
 */
export async function dropStale(mirror: Mirror, tombstoneDays: number): Promise<void> {
  try {
    await dropOld(mirror, tombstoneDays);
  } catch (error) {
    // A service that only writes may not (`rollcall grants`).
    if (findCode(error) !== '42501') throw error;
    throw new CannotDrop([
      'they belong to another role; as that one run `rollcall rebuild --drop-previous`, or `--discard` for users_next',
    ]);
  }
}

async function dropOld(mirror: Mirror, tombstoneDays: number): Promise<void> {
  const { hasNext, previous } = await readGenerations(mirror.db, mirror, tombstoneDays);
  const { db, t } = mirror;
  const days = sql`make_interval(days => ${Math.min(ABANDONED_DAYS, tombstoneDays)})`;
  const [found] = await rows<{ isPreviousOld: boolean; isNextOld: boolean }>(
    db,
    sql`select coalesce(${previous?.keptUntil ?? null}::timestamptz < clock_timestamp(), false)
                 as "isPreviousOld",
               not exists (select from ${t.syncRuns} r where pull = 'rebuild' and outcome is null
                 and greatest(started_at, (select max(updated_at) from ${t.syncWindows} w
                                           where w.run_id = r.run_id)) > clock_timestamp() - ${days})
                 as "isNextOld"`,
  );
  if (found?.isPreviousOld) await dropPrevious(mirror);
  if (hasNext && found?.isNextOld) await discardNext(mirror, 'abandoned');
}

/** Whoever reads these tables is not to make others wait behind us. */
async function limitLocks(tx: Parameters<typeof dropGeneration>[0]): Promise<void> {
  await tx.execute(sql`set local lock_timeout = '5s'`);
}
