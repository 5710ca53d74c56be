import { sql } from 'drizzle-orm';

import { transaction, type Executor } from '../mirror/database.ts';
import { ofGeneration } from '../mirror/generations.ts';
import { findOpen, finishRun, openRun, unprovenWindows } from '../pull/ledger.ts';
import { isPlanned, planWindows } from '../pull/plan.ts';
import { readWindows } from '../pull/readWindow.ts';
import { countShort, forgetUnseen, reopenShortWindows } from '../pull/recount.ts';
import { carryAll } from './carry.ts';
import { listKeepers, listObstacles } from './dependents.ts';
import { CannotSwap } from './failures.ts';
import { createNext, dropGeneration, hasGeneration, listMismatches } from './structure.ts';

import type { Mirror } from '../mirror/database.ts';
import type { Generation } from '../mirror/schema.ts';
import type { SweepDeps } from '../pull/sweep.ts';

/*
 * In: nothing, or a rebuild that was interrupted. Out: the next generation, holding everyone as the proven
 * windows of the ledger have shown them, beside the one that is read. Every step can be taken again.
 */

export type RebuildDeps = Pick<
  SweepDeps,
  'mirror' | 'client' | 'pageSize' | 'includeTestUsers' | 'onStep' | 'breaker'
>;

export interface Begun {
  readonly runId: number;
  /** resumed: it goes on from where it was; anew: what was there could not be gone on with. */
  readonly how: 'new' | 'resumed' | 'anew';
}

/** Whether `incoming` may take the place of the tables that are read. @throws CannotSwap */
export async function assertSwappable(
  tx: Executor,
  mirror: Mirror,
  incoming: Exclude<Generation, ''> = '_next',
): Promise<void> {
  const keepers = incoming === '_next' ? await listKeepers(tx, mirror) : [];
  const obstacles = [...keepers, ...(await listObstacles(tx, mirror))];
  if (obstacles.length > 0) throw new CannotSwap(obstacles);
}

/**
 * Opens a rebuild with its empty tables, or goes on with the one that is open, where its tables still are
 * like those that are read.
 * @throws CannotSwap
 */
export async function beginRebuild(mirror: Mirror): Promise<Begun> {
  return transaction(mirror, async (tx) => {
    await assertSwappable(tx, mirror);
    const open = await findOpen(tx, mirror, 'rebuild');
    if (open && (await hasGeneration(tx, mirror, '_next'))) {
      if ((await listMismatches(tx, mirror, '_next')).length === 0) {
        return { runId: open.runId, how: 'resumed' };
      }
    }
    if (open) await giveUp(tx, mirror, open.runId, 'users has changed: begun anew');
    await dropGeneration(tx, mirror, '_next');
    await createNext(tx, mirror);
    const { runId } = await openRun(tx, mirror, 'rebuild', 'command');
    return { runId, how: open ? 'anew' : 'new' };
  });
}

/** Gives up the rebuild that is open, and drops its tables; false where there was none. */
export async function discardNext(mirror: Mirror, reason: string): Promise<boolean> {
  return transaction(mirror, async (tx) => {
    const open = await findOpen(tx, mirror, 'rebuild');
    const wasThere = await hasGeneration(tx, mirror, '_next');
    if (open) await giveUp(tx, mirror, open.runId, reason);
    await dropGeneration(tx, mirror, '_next');
    return wasThere || open !== undefined;
  });
}

/** Its windows with their reasons go too: nothing is missing where nobody reads. */
async function giveUp(tx: Executor, mirror: Mirror, runId: number, reason: string): Promise<void> {
  await tx.execute(
    sql`delete from ${mirror.t.syncWindows} where run_id = ${runId} and state <> 'proven'`,
  );
  await finishRun(tx, mirror, runId, 'blocked', reason);
}

/**
 * Reads everyone into the next generation. Returns why what was read cannot be believed, or null.
 * @throws the client's errors, WindowUnproven, Stopping; run again, it goes on from there
 */
export async function fillNext(
  deps: RebuildDeps,
  runId: number,
  signal: AbortSignal,
): Promise<string | null> {
  const { mirror } = deps;
  const next = { ...deps, mirror: ofGeneration(mirror, '_next') };
  const call = { priority: 'sweep', signal } as const;
  if (!(await isPlanned(mirror.db, mirror, runId))) {
    await seedTombstones(mirror, next.mirror);
    const blocked = await planWindows(deps, { runId, pull: 'rebuild' }, call);
    if (blocked !== null) return blocked;
  }
  for (;;) {
    const todo = await unprovenWindows(mirror.db, mirror, { runId });
    if (todo.length === 0) {
      await forgetUnseen(mirror, runId);
      const reopened = await reopenShortWindows(next, runId, call);
      if (reopened.length > 0) continue;
      const short = await countShort(next, runId, call);
      return short > 0 ? `the directory counts ${short} users more than were read` : null;
    }
    await readWindows(next, todo, signal);
  }
}

/** Whom a page shows although a tombstone says otherwise is then loaded by id, as in a sweep (guarantee G3). */
async function seedTombstones(mirror: Mirror, next: Mirror): Promise<void> {
  await carryAll(mirror, { from: mirror.t, to: next.t, rule: sql`f.deleted_at is not null` });
}
