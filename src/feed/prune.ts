import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { rows, type Mirror } from '../mirror/database.ts';

type Db = Pick<Mirror, 'db' | 't' | 'schema'>;

/** A statement is short, and readers at the feed's end do not notice it. */
const CHANGES_A_STEP = 1_000;

/**
 * Removes changes written more than `days` ago, the oldest of the feed first, in at most `steps` steps of
 * 1,000, and returns how many. Safe to run twice, and side by side.
 *
 * What goes is a beginning of the feed in its own order, and where it ends is noted by the same statement: a
 * cursor from before is refused from then on, one at that very place has missed nothing. Nobody is waited
 * for, however far behind. Only rows below the horizon go, so no change can be written behind that place:
 * whoever may still write one has a higher number, and takes it where the user's row before is gone.
 * @throws Stopping between two steps
 */
export async function pruneFeed(
  mirror: Db,
  { days, steps }: { readonly days: number; readonly steps: number },
  signal: AbortSignal,
): Promise<number> {
  // How long changes are kept is told in SQL too: by it readers are warned in time.
  await mirror.db.execute(sql`
    insert into ${mirror.t.feedPruned} as p (feed, kept_days) values ('user_changes', ${days})
    on conflict (feed) do update set kept_days = excluded.kept_days
    where p.kept_days is distinct from excluded.kept_days`);
  let pruned = 0;
  for (let step = 0; step < steps; step++) {
    if (signal.aborted) throw new Stopping();
    const count = await pruneStep(mirror, days);
    pruned += count;
    if (count < CHANGES_A_STEP) break;
  }
  return pruned;
}

async function pruneStep({ db, t, schema }: Db, days: number): Promise<number> {
  // First, and in a statement of its own: later ones see every row below it.
  const [row] = await rows<{ horizon: string }>(
    db,
    sql`select ${sql.identifier(schema)}.feed_horizon()::text as horizon`,
  );
  const [done] = await rows<{ count: number }>(
    db,
    sql`
      with oldest as (
        select transaction_id, seq,
               written_at >= statement_timestamp() - make_interval(days => ${days})
                 or transaction_id >= ${row?.horizon ?? '0'}::xid8 as stays
        from ${t.userChanges} order by transaction_id, seq limit ${CHANGES_A_STEP}),
      first_to_stay as (
        select transaction_id, seq from oldest where stays order by transaction_id, seq limit 1),
      pruned as (
        delete from ${t.userChanges} c using oldest o
        where c.seq = o.seq
          and not exists (select from first_to_stay f
                          where (f.transaction_id, f.seq) <= (o.transaction_id, o.seq))
        returning c.transaction_id, c.seq),
      noted as (
        insert into ${t.feedPruned} as p (feed, transaction_id, seq, pruned_at)
        select 'user_changes', transaction_id, seq, clock_timestamp()
        from pruned order by transaction_id desc, seq desc limit 1
        on conflict (feed) do update
          set transaction_id = excluded.transaction_id, seq = excluded.seq, pruned_at = excluded.pruned_at
          where (p.transaction_id, p.seq) < (excluded.transaction_id, excluded.seq))
      select count(*)::int as count from pruned`,
  );
  return done?.count ?? 0;
}
