import { sql, type SQL } from 'drizzle-orm';
import { getTableConfig } from 'drizzle-orm/pg-core';

import { rows, type Executor } from '../mirror/database.ts';

import type { MirrorTables } from '../mirror/schema.ts';

/** Users a statement takes at once. */
const MOST_A_BATCH = 5_000;

/** Where a reading of the tables began: the oldest transaction whose rows it may not have seen. */
export type Moment = string;

export async function now(tx: Executor): Promise<Moment> {
  const [row] = await rows<{ oldest: Moment }>(
    tx,
    sql`select pg_snapshot_xmin(pg_current_snapshot())::text as oldest`,
  );
  if (!row) throw new Error('the database did not tell its transactions');
  return row.oldest;
}

/** Ids of all users of these tables, each once and in their order, some thousands at a time. */
export async function* everyone(
  tx: Executor,
  ...tables: readonly Pick<MirrorTables, 'users'>[]
): AsyncGenerator<string[], void> {
  for (let after = ''; ;) {
    const parts = tables.map(
      ({ users }) => sql`(select user_id from ${users} where user_id > ${after}
        order by user_id limit ${MOST_A_BATCH})`,
    );
    const found: { userId: string }[] = await rows<{ userId: string }>(
      tx,
      sql`select user_id as "userId" from (${sql.join(parts, sql` union `)}) as ids
          order by user_id limit ${MOST_A_BATCH}`,
    );
    const last = found.at(-1);
    if (!last) return;
    yield found.map(({ userId }) => userId);
    after = last.userId;
  }
}

/** Pages of a table that a statement reads at once: a gigabyte takes seconds, a statement may take sixty. */
const MOST_PAGES = 131_072;

/**
 * The same of users whose rows were written since a moment; reads the table once, from its first page to its
 * last. Where others write meanwhile a row may move from before to behind, or the other way: it has then been
 * written since this began.
 */
export async function* writtenSince(
  tx: Executor,
  { users }: Pick<MirrorTables, 'users'>,
  since: Moment,
): AsyncGenerator<string[], void> {
  const pages = await countPages(tx, users);
  const found = new Set<string>();
  for (let page = 0; page < pages; page += MOST_PAGES) {
    const [from, to] = [`(${page},0)`, `(${page + MOST_PAGES},0)`];
    const some = await rows<{ userId: string }>(
      tx,
      sql`select user_id as "userId" from ${users}
          where ctid >= ${from}::tid and ctid < ${to}::tid and ${whereWrittenSince(sql`xmin`, since)}`,
    );
    for (const { userId } of some) found.add(userId);
  }
  yield* inBatches([...found].sort());
}

async function countPages(tx: Executor, users: MirrorTables['users']): Promise<number> {
  const { schema = 'public', name } = getTableConfig(users);
  const [row] = await rows<{ pages: number }>(
    tx,
    sql`select (pg_relation_size(format('%I.%I', ${schema}::text, ${name}::text)::regclass)
                / current_setting('block_size')::int)::float8 as pages`,
  );
  return row?.pages ?? 0;
}

export function* inBatches(userIds: readonly string[]): Generator<string[], void> {
  for (let at = 0; at < userIds.length; at += MOST_A_BATCH) {
    yield userIds.slice(at, at + MOST_A_BATCH);
  }
}

/** By ages: numbers of transactions go round. */
function whereWrittenSince(xmin: SQL, since: Moment): SQL {
  return sql`age(${xmin}) <= age(${since}::xid8::xid)`;
}
