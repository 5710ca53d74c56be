import { sql } from 'drizzle-orm';

import { rows, type Mirror } from './database.ts';

/** Rows a statement, so that none of them takes long, however large the feed is. */
const ROWS_A_STEP = 10_000;

/**
 * Puts the feed in order after a dump was restored into another server, whose transactions count from
 * lower on: rows "of the future" would stay hidden from `changes_since()` for as long. All of them are
 * committed, so they may come first, by their seq. Finds nothing to do otherwise, at the cost of one look.
 * Cursors from before the restore are refused, so that nobody reads on in the midst of it.
 */
export async function adoptRestoredFeed({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<void> {
  const foreign = await rows(
    db,
    sql`select 1 from (select transaction_id from ${t.userChanges}
                       union all select transaction_id from ${t.feedPruned}) as known
        where transaction_id >= pg_snapshot_xmax(pg_current_snapshot()) limit 1`,
  );
  if (foreign.length === 0) return;
  // What was pruned stays pruned, and will lie before all of them; nobody's cursor names that place.
  await db.execute(sql`update ${t.feedPruned} set transaction_id = '1', seq = 0 where seq > 0`);
  // From the oldest on: the last ones are mostly those of the future, so a killed process begins again.
  for (let before: number | null = null; ;) {
    const step: { seq: number }[] = await rows<{ seq: number }>(
      db,
      sql`update ${t.userChanges} set transaction_id = '1'
          where seq in (select seq from ${t.userChanges}
                        where ${before === null ? sql`true` : sql`seq > ${before}`}
                        order by seq limit ${ROWS_A_STEP})
          returning seq::float8 as seq`,
    );
    if (step.length === 0) return;
    before = Math.max(...step.map(({ seq }) => seq));
  }
}
