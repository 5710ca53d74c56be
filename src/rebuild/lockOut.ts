import { setTimeout as delay } from 'node:timers/promises';

import { getTableName, sql } from 'drizzle-orm';
import pg from 'pg';

import { findCode } from '../errors.ts';
import { rows, type Executor, type Mirror } from '../mirror/database.ts';
import { generations } from '../mirror/generations.ts';
import { ReadersBusy } from './failures.ts';

/*
 * In: a transaction. Out: nobody reads the mirror's users but it, to its end; for which whoever reads them was
 * waited for, while whoever came later waited behind us.
 *
 * Of views first, since whoever reads one holds it and then asks for the tables. Somebody who asks in another
 * order meets us in a deadlock, and Postgres would end either of us: so one is looked for all the time we wait,
 * far more often than Postgres does (`deadlock_timeout`), and it is we who give way.
 */

/** So long readers have to wait behind us at a try: little at first, more where others take longer. */
const QUEUE_MS = { least: 250, most: 8_000 };
/** Writers wait all the while: after so much of it they get their turn. */
const WRITERS_WAIT_MS = 2_000;
const LOOK_EVERY_MS = 100;
const PAUSE_MS = 50;

/** 57014 cancelled or statement_timeout, 55P03 lock_timeout, 40P01 deadlock, 42P01 a view was dropped or moved. */
const GIVEN_UP = new Set(['57014', '55P03', '40P01', '42P01']);

/**
 * Locks the tables of all generations against everybody, and before them what `locks` says.
 * @param locks statements, one for each view or table that reads them
 * @param attempt how often this has failed before, from 0
 * @throws ReadersBusy; nothing is locked then
 */
export async function lockOut(
  tx: Executor,
  mirror: Pick<Mirror, 'db' | 't'>,
  locks: readonly string[],
  attempt: number,
): Promise<void> {
  const tables = (await generations(tx, mirror.t)).flatMap((one) => [one.userTenants, one.users]);
  const names = tables.map((table) =>
    [mirror.t.schema.schemaName, getTableName(table)]
      .map((one) => pg.escapeIdentifier(one))
      .join('.'),
  );
  const all = [...locks, `lock table only ${names.join(', only ')} in access exclusive mode`];
  const limitMs = Math.min(QUEUE_MS.most, QUEUE_MS.least * 2 ** attempt);
  const startedMs = performance.now();
  do {
    if (await isLocked(tx, mirror, all, limitMs)) return;
    await delay(PAUSE_MS * (0.5 + Math.random()));
  } while (performance.now() - startedMs < WRITERS_WAIT_MS);
  throw new ReadersBusy();
}

/** One try; gives everything back where it fails. */
async function isLocked(
  tx: Executor,
  { db }: Pick<Mirror, 'db'>,
  all: readonly string[],
  limitMs: number,
): Promise<boolean> {
  await tx.execute(sql`savepoint readers`);
  await tx.execute(sql.raw(`set local lock_timeout = 0`));
  await tx.execute(sql.raw(`set local statement_timeout = ${limitMs}`));
  const [self] = await rows<{ pid: number }>(tx, sql`select pg_backend_pid() as pid`);
  const watching = giveWay(db, self?.pid ?? 0);
  try {
    // One statement, so that the limit is that of all of them.
    await tx.execute(sql.raw(`do ${pg.escapeLiteral(`begin ${all.join('; ')}; end`)}`));
  } catch (error) {
    await watching.stop();
    await tx.execute(sql`rollback to savepoint readers`);
    if (GIVEN_UP.has(findCode(error) ?? '')) return false;
    throw error;
  }
  await watching.stop();
  await tx.execute(sql`set local statement_timeout to default`);
  // Views that are bound again ask for whatever else they read.
  await tx.execute(sql.raw(`set local lock_timeout = ${limitMs}`));
  return true;
}

/** Cancels what a connection waits for, as soon as whoever it waits for waits for it. */
function giveWay(db: Executor, pid: number): { stop(): Promise<void> } {
  let isOver = false;
  const watch = async (): Promise<void> => {
    for (;;) {
      await delay(LOOK_EVERY_MS);
      if (isOver) return;
      await db.execute(sql`
        select pg_cancel_backend(us.pid) from (select ${pid}::int as pid) as us
        where exists (select from unnest(pg_blocking_pids(us.pid)) as other (pid)
                      where us.pid = any(pg_blocking_pids(other.pid)))`);
    }
  };
  // Without it the try ends by its own limit.
  const watching = watch().catch(() => undefined);
  return {
    async stop() {
      isOver = true;
      await watching;
    },
  };
}
