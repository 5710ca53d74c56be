import { sql } from 'drizzle-orm';

import { pause } from '../abort.ts';
import { findCode } from '../errors.ts';
import { transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { markSwapped } from '../mirror/generations.ts';
import { everyone, inBatches, now, writtenSince, type Moment } from './batches.ts';
import { carryUsers, type Carrying } from './carry.ts';
import { tellDifferences, type Difference } from './differences.ts';
import { exchange } from './exchange.ts';
import { ReadersBusy, Unsettled } from './failures.ts';

import type { Generation } from '../mirror/schema.ts';

/*
 * In: two generations, one of which is to take the place of the one that is read. Out: the swap, in one
 * transaction: what was written to the other since it was last looked at is carried over, the feed is told
 * what the swap changes, the tables exchange their names. Killed at any point, either all of it has happened or
 * nothing.
 *
 * Writers take a lock on the feed before they do anything else (`beginOf`), and so do we, one that excludes
 * theirs: none is in the midst of its work, and whoever comes next finds the tables by their names after us.
 */

export interface Swapping {
  readonly incoming: Exclude<Generation, ''>;
  readonly carrying: Carrying;
  /** Users of whom the two may differ, as long as they are few; null: everyone. */
  readonly differing: ReadonlySet<string> | null;
  /** What was written before is carried over already. */
  readonly since: Moment;
  /** Asked under the lock, of the users written meanwhile. @throws Unsettled */
  readonly assertSettled: (tx: Executor, userIds: readonly string[]) => Promise<void>;
  /** What else is done in the transaction. */
  readonly along: (tx: Executor, told: Told) => Promise<void>;
}

/** Changes the feed was told of. */
export type Told = Record<Difference['kind'], number>;

/** How long writers, which queue up behind us, may have to wait for others before us. */
const WRITERS_MS = 3_000;
/** A client that has vanished in the midst of it holds up nobody for longer. */
const SILENT_MS = 15_000;
/** Between two tries in which readers, or a long transaction, did not make room. */
const WAITS_MS = [250, 500, 1_000, 2_000, 4_000, 8_000];

/**
 * Swaps; tries again while readers hold the tables, some minutes.
 * @throws Unsettled, CannotSwap, ReadersBusy when patience is at its end, Stopping
 */
export async function swap(
  mirror: Mirror,
  swapping: Swapping,
  { signal, patienceMs }: { readonly signal: AbortSignal; readonly patienceMs: number },
): Promise<Told> {
  const deadlineMs = performance.now() + patienceMs;
  const written: Written = { since: swapping.since, userIds: new Set() };
  for (let attempt = 0; ; attempt++) {
    await carryMeanwhile(mirror, swapping, written);
    try {
      return await transaction(mirror, (tx) => swapOnce(tx, mirror, swapping, written, attempt));
    } catch (error) {
      const isBusy = error instanceof ReadersBusy || findCode(error) === '55P03';
      if (!isBusy) throw error;
      if (performance.now() > deadlineMs) throw new ReadersBusy();
    }
    await pause(WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)] ?? 0, signal);
  }
}

/** Who was written to the tables that are read, since they were compared. */
interface Written {
  /** What was written before is in `userIds`, and carried over. */
  since: Moment;
  readonly userIds: Set<string>;
}

/** Carries over what was written meanwhile while others still write, so that they are kept out for less. */
async function carryMeanwhile(
  mirror: Mirror,
  { carrying }: Swapping,
  written: Written,
): Promise<void> {
  const since = await now(mirror.db);
  for await (const userIds of writtenSince(mirror.db, carrying.from, written.since)) {
    await transaction(mirror, (tx) => carryUsers(tx, carrying, userIds));
    for (const userId of userIds) written.userIds.add(userId);
  }
  written.since = since;
}

async function swapOnce(
  tx: Executor,
  mirror: Mirror,
  swapping: Swapping,
  written: Written,
  attempt: number,
): Promise<Told> {
  const { carrying, incoming } = swapping;
  await tx.execute(sql.raw(`set local lock_timeout = ${WRITERS_MS}`));
  await tx.execute(sql.raw(`set local idle_in_transaction_session_timeout = ${SILENT_MS}`));
  await tx.execute(sql`lock table only ${mirror.t.userChanges} in share row exclusive mode`);
  const told: Told = { created: 0, updated: 0, restored: 0, deleted: 0 };
  const carried = new Set(written.userIds);
  for await (const userIds of writtenSince(tx, carrying.from, written.since)) {
    await carryUsers(tx, carrying, userIds);
    for (const userId of userIds) carried.add(userId);
  }
  for (const userIds of inBatches([...carried])) await swapping.assertSettled(tx, userIds);
  for await (const userIds of toCompare(tx, swapping, carried)) {
    const some = await tellDifferences(tx, carrying, userIds);
    for (const kind of Object.keys(told) as Difference['kind'][]) told[kind] += some[kind];
  }
  // By then nobody of those who are read is live in one only: a swap removes nobody, and revives nobody.
  if (told.deleted + told.restored > 0) throw new Unsettled();
  await swapping.along(tx, told);
  await exchange(tx, mirror, incoming, attempt);
  await markSwapped(tx, mirror);
  return told;
}

/** Batches of users to be compared: those known to differ and those carried, or everyone. */
async function* toCompare(
  tx: Executor,
  { carrying, differing }: Swapping,
  carried: ReadonlySet<string>,
): AsyncGenerator<string[], void> {
  if (differing === null) {
    yield* everyone(tx, carrying.from, carrying.to);
  } else {
    yield* inBatches([...new Set([...differing, ...carried])].sort());
  }
}
