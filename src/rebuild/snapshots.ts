import { sql } from 'drizzle-orm';

import { pause } from '../abort.ts';
import { rows, type Mirror } from '../mirror/database.ts';
import { ReadersBusy } from './failures.ts';

/*
 * A transaction of isolation `repeatable read` goes on seeing the database as it was when it began, whatever
 * table it asks for later: of tables that were filled meanwhile it would see the half. They are waited for.
 */

const LOOK_EVERY_MS = 250;

/**
 * Waits until every transaction of this database that holds a snapshot from before now has ended.
 * @throws ReadersBusy when patience is at its end, Stopping
 */
export async function waitForSnapshots(
  mirror: Mirror,
  { signal, patienceMs }: { readonly signal: AbortSignal; readonly patienceMs: number },
): Promise<void> {
  const deadlineMs = performance.now() + patienceMs;
  let old = await listHolders(mirror);
  while (old.length > 0) {
    if (performance.now() > deadlineMs) throw new ReadersBusy(old.map(({ pid }) => pid));
    await pause(LOOK_EVERY_MS, signal);
    const still = new Set((await listHolders(mirror)).map(({ transaction }) => transaction));
    old = old.filter(({ transaction }) => still.has(transaction));
  }
}

interface Holder {
  readonly pid: number;
  readonly transaction: string;
}

/** Transactions that hold a snapshot, which others than `repeatable read` may do while they are idle too. */
async function listHolders({ db }: Mirror): Promise<Holder[]> {
  return rows<Holder>(
    db,
    sql`select pid, virtualtransaction as transaction
        from pg_stat_activity a join pg_locks l using (pid)
        where a.datname = current_database() and pid <> pg_backend_pid() and backend_xmin is not null
          and locktype = 'virtualxid' and mode = 'ExclusiveLock'
          -- Of the server's own workers, which have no user and read none of it; their type only some may see.
          and a.usesysid is not null`,
  );
}
