import { sql } from 'drizzle-orm';

import type { Mirror } from './database.ts';

/**
 * Puts the feed in order after a dump was restored into another server, whose transactions count from
 * lower on: rows "of the future" would stay hidden from `changes_since()` for as long. All of them are
 * committed, so they may come first, by their seq. Finds nothing to do otherwise, at the cost of one look.
 */
export async function adoptRestoredFeed({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<void> {
  await db.execute(sql`
    update ${t.userChanges} set transaction_id = '1'
    where exists (select 1 from ${t.userChanges}
                  where transaction_id >= pg_snapshot_xmax(pg_current_snapshot()))
      and transaction_id <> '1'`);
}
