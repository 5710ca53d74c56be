import { sql, type SQL } from 'drizzle-orm';

import { isNotErased } from '../apply/apply.ts';
import { rows, textArray, transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { everyone } from './batches.ts';
import { columnsOf } from './structure.ts';

import type { MirrorTables } from '../mirror/schema.ts';

/*
 * In: ids of users. Out: in one generation what another knows of them and it does not, by the write rule: the
 * newer observation wins, of two of one instant present before absent, then the content. A row goes over
 * whole, with when it changed and when it was deleted: to nobody has anything happened.
 */

export interface Carrying {
  /** The tables that are read, and written by everybody else. */
  readonly from: MirrorTables;
  /** Those that are to take their place. */
  readonly to: MirrorTables;
  /** Which rows `f` of `from` may go over; `n` is that of `to`, all null where there is none. */
  readonly rule: SQL;
}

const list = (names: readonly string[], of = '') =>
  sql.raw(names.map((name) => `${of}${name}`).join(', '));

/** Carries over everyone, some thousands a transaction. */
export async function carryAll(mirror: Mirror, carrying: Carrying): Promise<void> {
  for await (const userIds of everyone(mirror.db, carrying.from)) {
    await transaction(mirror, (tx) => carryUsers(tx, carrying, userIds));
  }
}

/** Carries over these users; run again, it finds nothing to do. */
export async function carryUsers(
  tx: Executor,
  { from, to, rule }: Carrying,
  userIds: readonly string[],
): Promise<void> {
  const ids = textArray(userIds);
  const columns = columnsOf(from.users);
  const carried = await rows<{ userId: string }>(
    tx,
    sql`
      insert into ${to.users} as n (${list(columns)})
      select ${list(columns, 'f.')}
      from ${from.users} f left join ${to.users} n using (user_id)
      where f.user_id = any(${ids}) and ${whereNews} and (${rule}) and ${isNotErased(to, 'f')}
      order by f.user_id
      on conflict (user_id) do update set (${list(columns)}) = row(${list(columns, 'excluded.')})
      returning user_id as "userId"`,
  );
  // A load saw the same later: what it saw is here already, as Descope told it.
  await tx.execute(sql`
    update ${to.users} as n set observed_at = f.observed_at
    from ${from.users} f
    where f.user_id = any(${ids}) and n.user_id = f.user_id and ${whereSame}
      and n.observed_at < f.observed_at`);
  await carryTenants(
    tx,
    { from, to },
    carried.map(({ userId }) => userId),
  );
}

const whereSame = sql`f.deleted_at is null and n.deleted_at is null and n.content_hash = f.content_hash`;

/**
 * What is newer there. The last snapshot of a deleted user may have been removed since (`reduceTombstones`),
 * and must not stay here.
 */
const whereNews = sql`(
  n.user_id is null
  or ((n.observed_at, n.deleted_at is null, n.content_hash)
      < (f.observed_at, f.deleted_at is null, f.content_hash) and not (${whereSame}))
  or (f.deleted_at is not null and n.deleted_at is not null and f.raw <> n.raw
      and n.observed_at <= f.observed_at))`;

async function carryTenants(
  tx: Executor,
  { from, to }: Omit<Carrying, 'rule'>,
  userIds: readonly string[],
): Promise<void> {
  if (userIds.length === 0) return;
  const columns = list(columnsOf(from.userTenants));
  await tx.execute(sql`delete from ${to.userTenants} where user_id = any(${textArray(userIds)})`);
  await tx.execute(sql`
    insert into ${to.userTenants} (${columns})
    select ${columns} from ${from.userTenants} where user_id = any(${textArray(userIds)})
    order by user_id, tenant_id`);
}
