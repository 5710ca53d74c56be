import { sql } from 'drizzle-orm';

import { mirrorTables } from '../mirror/schema.ts';
import { countRequests } from '../pull/drift.ts';
import { finishRun } from '../pull/ledger.ts';
import { isPlanned } from '../pull/plan.ts';
import { holdOpenRun } from '../pull/recount.ts';
import { compareGenerations, type Comparison } from './compare.ts';
import { Unsettled } from './failures.ts';
import { assertSwappable, discardNext, fillNext, type RebuildDeps } from './fill.ts';
import { assertSettled, carryingOf, settle } from './settle.ts';
import { waitForSnapshots } from './snapshots.ts';
import { swap, type Told } from './swap.ts';

import type { Executor } from '../mirror/database.ts';
import type { Carrying } from './carry.ts';

/*
 * In: a rebuild that was begun. Out: the next generation filled, brought up to date, compared, and in the place
 * of the one that was read; or kept beside it, with the reason.
 */

export interface RebuildOptions {
  /** Only compare: the generation that is read, its feed and its deletions stay as they are. */
  readonly dryRun: boolean;
  /** Carry out deletions that the breaker holds, as far as a load by id still says that the user is gone. */
  readonly approves: boolean;
  /** How long readers in the way are waited for. */
  readonly patienceMs: number;
  /** Asked in the transaction of the swap: whether what was read by still holds. @throws where it does not */
  readonly assertCurrent: (tx: Executor) => Promise<void>;
  /** Told when another stage begins. */
  readonly onStage?: (stage: 'filling' | 'settling' | 'comparing' | 'swapping') => void;
}

export interface Compared {
  /** What the swap changes, or would. */
  readonly comparison: Comparison;
  /** Users found gone and removed, and those whose deletion waits for a person. */
  readonly deleted: number;
  readonly held: number;
  /** Requests beside those of the ledger's windows. */
  readonly loads: number;
}

export type Rebuilt =
  | { readonly outcome: 'blocked'; readonly reason: string }
  | ({ readonly outcome: 'compared' | 'held' } & Compared)
  | ({ readonly outcome: 'swapped'; readonly told: Told } & Compared);

/** More often than this nobody is looked at again between comparing and swapping. */
const TURNS = 20;

/**
 * Takes a rebuild as far as it goes.
 * @throws the client's errors, WindowUnproven, CannotSwap, ReadersBusy, Stopping; run again, it goes on
 */
export async function rebuild(
  given: RebuildDeps,
  runId: number,
  options: RebuildOptions,
  signal: AbortSignal,
): Promise<Rebuilt> {
  const { mirror } = given;
  const { onStage = () => undefined } = options;
  onStage('filling');
  const blocked = await fillNext(given, runId, signal);
  if (blocked !== null) {
    // Nothing has been read: there is nothing to keep.
    if (!(await isPlanned(mirror.db, mirror, runId))) await discardNext(mirror, blocked);
    return { outcome: 'blocked', reason: blocked };
  }
  const next = mirrorTables(mirror.schema, '_next');
  // Postgres plans by what it knows of a table: nobody is to wait for a scan of all of it after the swap.
  await mirror.db.execute(sql`analyze ${next.users}, ${next.userTenants}`);
  const { client, requests } = countRequests(given.client);
  const deps = { ...given, client };
  let deleted = 0;
  for (let turn = 1; ; turn++) {
    onStage('settling');
    const call = { priority: 'sweep', signal } as const;
    const settled = await settle(
      deps,
      runId,
      { decides: !options.dryRun, approves: options.approves },
      call,
    );
    deleted += settled.deleted;
    onStage('comparing');
    const carrying = await carryingOf(mirror, deps, runId);
    const comparison = await compareGenerations(mirror, carrying);
    const compared = { comparison, deleted, held: settled.held, loads: requests() };
    if (settled.held > 0) return { outcome: 'held', ...compared };
    if (options.dryRun) return { outcome: 'compared', ...compared };
    onStage('swapping');
    if (turn === 1) await waitForSnapshots(mirror, { signal, ...options });
    try {
      const told = await swapNext(deps, { runId, carrying, comparison }, options, signal);
      return { outcome: 'swapped', told, ...compared };
    } catch (error) {
      if (!(error instanceof Unsettled) || turn === TURNS) throw error;
    }
  }
}

interface ToSwap {
  readonly runId: number;
  readonly carrying: Carrying;
  readonly comparison: Comparison;
}

async function swapNext(
  deps: RebuildDeps,
  { runId, carrying, comparison }: ToSwap,
  { patienceMs, assertCurrent }: RebuildOptions,
  signal: AbortSignal,
): Promise<Told> {
  const { mirror } = deps;
  return swap(
    mirror,
    {
      incoming: '_next',
      carrying,
      differing: comparison.differing,
      since: comparison.since,
      assertSettled: (tx, userIds) => assertSettled(tx, carrying, userIds),
      along: async (tx, told) => {
        // Somebody else has swapped, or given up, meanwhile.
        if (!(await holdOpenRun(tx, deps, runId)))
          throw new Error(`rebuild ${runId} has been ended`);
        await assertCurrent(tx);
        await assertSwappable(tx, mirror);
        await tx.execute(sql`
          update ${mirror.t.syncRuns}
          set created = created + ${told.created + told.restored}, updated = updated + ${told.updated}
          where run_id = ${runId}`);
        await finishRun(tx, mirror, runId, 'complete');
      },
    },
    { signal, patienceMs },
  );
}
