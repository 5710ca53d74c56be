import { getTableColumns, sql, type SQL } from 'drizzle-orm';

import { rows, textArray, type Executor } from '../mirror/database.ts';

import type { MirrorTables } from '../mirror/schema.ts';

/*
 * In: ids of users. Out: of whom two generations differ, how, and in which fields of the API's answer: what a
 * reader of the mirror, and of its feed, notices of a swap. No values.
 */

export interface Between {
  /** The tables that are read now. */
  readonly from: MirrorTables;
  /** Those that are to take their place. */
  readonly to: MirrorTables;
}

export interface Difference {
  readonly userId: string;
  /** As the feed would tell it. */
  readonly kind: 'created' | 'updated' | 'restored' | 'deleted';
  readonly fields: readonly string[];
}

export async function listDifferences(
  tx: Executor,
  between: Between,
  userIds: readonly string[],
): Promise<Difference[]> {
  return rows<Difference>(
    tx,
    sql`select user_id as "userId", kind, changed as fields from ${differing(between, userIds)} as d
        order by user_id`,
  );
}

/**
 * Writes to the feed how these users differ, as a change that happens now, and marks it in their rows. Whoever
 * reads the feed then knows what the other generation holds. Returns how many of each kind.
 */
export async function tellDifferences(
  tx: Executor,
  between: Between,
  userIds: readonly string[],
): Promise<Record<Difference['kind'], number>> {
  const { to } = between;
  const told = await rows<{ kind: Difference['kind'] }>(
    tx,
    sql`
      with d as materialized (select * from ${differing(between, userIds)} as d),
      marked as (
        update ${to.users} as n set changed_at = clock_timestamp()
        from d where n.user_id = d.user_id)
      insert into ${to.userChanges} (user_id, kind, changed, observed_at, witness, transaction_id)
      select user_id, kind, changed, observed_at, witness,
             -- The feed keeps a user's changes in their order: see insertChanges in batch.ts.
             greatest(pg_current_xact_id(), (select before.transaction_id from ${to.userChanges} as before
                                             where before.user_id = d.user_id
                                             order by before.seq desc limit 1))
      from d order by user_id
      returning kind`,
  );
  const counts = { created: 0, updated: 0, restored: 0, deleted: 0 };
  for (const { kind } of told) counts[kind]++;
  return counts;
}

/** Columns of `users` that say nothing of a user, or all of it at once. */
const OURS = new Set([
  'userId',
  'raw',
  'contentHash',
  'observedAt',
  'changedAt',
  'deletedAt',
  'witness',
]);

/** Rows `(user_id, kind, changed, observed_at, witness)`: users who are live in one of the two and differ. */
function differing({ from, to }: Between, userIds: readonly string[]): SQL {
  const ids = textArray(userIds);
  const fields = Object.entries(getTableColumns(from.users))
    .filter(([field]) => !OURS.has(field))
    .map(([field, { name }]) => ({ field, name }));
  const names = [...fields.map(({ name }) => name), 'content_hash', 'raw'];
  const valuesOf = (alias: string) => sql.raw(names.map((name) => `${alias}.${name}`).join(', '));
  const byColumn = sql.raw(
    fields
      .map(({ field, name }) => `('${field}', f.${name} is distinct from n.${name})`)
      .join(', '),
  );
  return sql`(
    with moved as materialized (${differingTenants({ from, to }, ids)})
    select user_id,
           case when f.user_id is null then 'created' when n.deleted_at is not null or n.user_id is null
             then 'deleted' when f.deleted_at is not null then 'restored' else 'updated' end as kind,
           case when f.deleted_at is null and n.deleted_at is null
                     and f.user_id is not null and n.user_id is not null then array(
             select name from (
               select key from (select jsonb_object_keys(f.raw) union select jsonb_object_keys(n.raw))
                 as keys (key) where f.raw -> key is distinct from n.raw -> key
               union select field from (values ${byColumn}) as columns (field, differs) where differs
               union select 'userTenants' where user_id in (select user_id from moved)
             ) as named (name) order by name) else '{}' end as changed,
           coalesce(n.observed_at, f.observed_at) as observed_at, coalesce(n.witness, f.witness) as witness
    from (select * from ${from.users} where user_id = any(${ids})) as f
    full join (select * from ${to.users} where user_id = any(${ids})) as n using (user_id)
    where (f.user_id is not null and f.deleted_at is null)
            <> (n.user_id is not null and n.deleted_at is null)
       or (f.deleted_at is null and n.deleted_at is null
           and ((${valuesOf('f')}) is distinct from (${valuesOf('n')})
                or user_id in (select user_id from moved))))`;
}

/** Users who have a tenant in one of the two that they have not just so in the other. */
function differingTenants({ from, to }: Between, ids: SQL): SQL {
  const tenants = (t: MirrorTables) =>
    sql`select user_id, tenant_id, tenant_name, role_names, permissions from ${t.userTenants}
        where user_id = any(${ids})`;
  return sql`
    select user_id from (
      (${tenants(from)} except ${tenants(to)}) union all (${tenants(to)} except ${tenants(from)})) as odd`;
}
