import { sql } from 'drizzle-orm';

import { rows, type Mirror } from '../mirror/database.ts';

import type { ConsumerView } from './statusView.ts';

/** Changes counted of one consumer: whoever is further behind is far behind. */
export const COUNTED = 10_000;
/** Consumers told of, those that are furthest behind first. */
const TOLD = 100;

/**
 * How far the consumers are whose cursor is kept. What is left to one is until the first change that it has not
 * confirmed is old enough to be pruned: `FEED_RETENTION_DAYS` as the last pruning had it.
 */
export async function listConsumers({
  db,
  t,
  schema,
}: Pick<Mirror, 'db' | 't' | 'schema'>): Promise<ConsumerView[]> {
  const functions = sql.identifier(schema);
  const unread = sql`from ${t.userChanges} c
                     where (c.transaction_id, c.seq) > (place.transaction_id, place.seq)`;
  return rows<ConsumerView>(
    db,
    sql`with place as materialized (
          select f.name, f.moved_at, place.transaction_id, place.seq, known.ok as is_known, age.seconds
          from ${t.feedCursors} f
          cross join lateral ${functions}.parse_cursor(f.cursor) as place
          cross join lateral (
            select ${functions}.is_in_feed(place.transaction_id, place.seq) as ok) as known
          cross join lateral (
            select coalesce(extract(epoch from clock_timestamp() - (
                     select written_at ${unread} order by c.transaction_id, c.seq limit 1)), 0)::float8
                     as seconds) as age
          order by not known.ok desc, age.seconds desc, f.name limit ${TOLD})
        select place.name, place.moved_at as "movedAt", behind.count as changes,
               not place.is_known as "isCutOff", place.seconds as "lagSeconds",
               case when not place.is_known then 1
                    when p.kept_days is not null then least(1, place.seconds / 86400 / p.kept_days)
               end as "usedRatio",
               case when not place.is_known then 0
                    when p.kept_days is not null and place.seconds > 0
                      then greatest(0, p.kept_days * 86400 - place.seconds)
               end as "leftSeconds"
        from place
        -- Only of those that are told of: whoever is behind costs thousands of rows.
        cross join lateral (
          select count(*)::int from (select 1 ${unread} limit ${COUNTED}) as unread) as behind
        left join ${t.feedPruned} p on p.feed = 'user_changes'
        order by not place.is_known desc, place.seconds desc, place.name`,
  );
}
