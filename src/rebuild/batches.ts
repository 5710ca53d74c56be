import { sql, type SQL } from 'drizzle-orm';

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

/** The same of users whose rows were written since a moment; reads the table once. */
export async function* writtenSince(
  tx: Executor,
  { users }: Pick<MirrorTables, 'users'>,
  since: Moment,
): AsyncGenerator<string[], void> {
  const found = await rows<{ userId: string }>(
    tx,
    sql`select user_id as "userId" from ${users} where ${whereWrittenSince(sql`xmin`, since)}
        order by user_id`,
  );
  yield* inBatches(found.map(({ userId }) => userId));
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
