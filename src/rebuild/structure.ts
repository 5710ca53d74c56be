import { getTableColumns, sql, type SQL } from 'drizzle-orm';

import { rows, type Executor, type Mirror } from '../mirror/database.ts';
import { generations } from '../mirror/generations.ts';
import { mirrorTables, type Generation } from '../mirror/schema.ts';

import type { PgColumn, PgTable } from 'drizzle-orm/pg-core';

/*
 * In: `users` and `user_tenants` as they are in this database now, with whatever an operator has added. Out:
 * two empty tables beside them that are the same in all a row can tell: columns, defaults, checks, indexes,
 * storage, owner. Whatever else belongs to a table follows when they are swapped (`belongings.ts`).
 */

type Db = Pick<Mirror, 'schema' | 't'>;

export const USER_TABLES = ['users', 'user_tenants'] as const;

/** The tables of a generation, as rows `(name, oid)` of SQL: `name` is that of the table that is read. */
export function tablesOf(schema: string, generation: Generation): SQL {
  return sql`(select name, c.oid from unnest(${sql.param(USER_TABLES)}::text[]) as named (name)
    join pg_class c on c.relname = name || ${generation}
    join pg_namespace s on s.oid = c.relnamespace and s.nspname = ${schema})`;
}

/**
 * From here to the end of the transaction Postgres names everything with its schema, as what it tells is to
 * be said again after tables have changed their names.
 */
export async function nameInFull(tx: Executor): Promise<void> {
  await tx.execute(sql`select set_config('search_path', '', true)`);
}

/** Runs statements that Postgres wrote itself. */
export async function runAll(tx: Executor, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await tx.execute(sql.raw(statement));
}

export async function hasGeneration(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  generation: Generation,
): Promise<boolean> {
  return (await generations(tx, t)).some((one) => one.generation === generation);
}

/** Drops the tables of a generation, where they are there. */
export async function dropGeneration(
  tx: Executor,
  { schema }: Pick<Mirror, 'schema'>,
  generation: Exclude<Generation, ''>,
): Promise<void> {
  const { users, userTenants } = mirrorTables(schema, generation);
  await tx.execute(sql`drop table if exists ${users}, ${userTenants}`);
}

/** Makes the tables of the next generation, empty. @throws where they are there already */
export async function createNext(tx: Executor, { schema }: Pick<Mirror, 'schema'>): Promise<void> {
  await nameInFull(tx);
  const made = await rows<{ statement: string }>(tx, describeTables(schema));
  await runAll(
    tx,
    made.map(({ statement }) => statement),
  );
  const tuned = await rows<{ statement: string }>(tx, describeTuning(schema));
  await runAll(
    tx,
    tuned.map(({ statement }) => statement),
  );
}

/** `LIKE` brings columns, defaults, checks, indexes, comments, compression and storage of columns. */
function describeTables(schema: string): SQL {
  const options = (of: SQL, prefix: SQL) => sql`
    select format('%s%I=%L', ${prefix}, option_name, option_value) from pg_options_to_table(${of})`;
  return sql`
    select format('create %stable %I.%I (like %I.%I including all excluding statistics) using %I%s%s',
                  case c.relpersistence when 'u' then 'unlogged ' else '' end,
                  ${schema}::text, name || '_next', ${schema}::text, name, am.amname,
                  ' with (' || nullif(array_to_string(array(
                    ${options(sql`c.reloptions`, sql`''`)}
                    union all ${options(sql`toast.reloptions`, sql`'toast.'`)}), ', '), '') || ')',
                  ' tablespace ' || quote_ident(place.spcname)) as statement
    from ${tablesOf(schema, '')} as ours join pg_class c using (oid)
    join pg_am am on am.oid = c.relam
    left join pg_class toast on toast.oid = c.reltoastrelid
    left join pg_tablespace place on place.oid = c.reltablespace`;
}

/** Of a right on the table `c`: it is that of a role which writes its rows, as the service does. */
export const isWriter = sql`exists (
  select from aclexplode(c.relacl) as held
  where held.grantee = acl.grantee and held.privilege_type = 'DELETE')`;

/** What belongs to a table or its columns and `LIKE` leaves out; of rights only those of the service. */
function describeTuning(schema: string): SQL {
  const table = sql`format('alter table %I.%I ', ${schema}::text, name || '_next')`;
  return sql`
    select ${table} || format('owner to %I', pg_get_userbyid(c.relowner)) as statement
    from ${tablesOf(schema, '')} as ours join pg_class c using (oid)
    union all
    select format('grant %s on table %I.%I to %I', privilege_type, ${schema}::text, name || '_next',
                  pg_get_userbyid(grantee))
    from ${tablesOf(schema, '')} as ours join pg_class c using (oid), aclexplode(c.relacl) as acl
    where grantee not in (0, c.relowner) and ${isWriter}
    union all
    select ${table} || format('alter column %I set statistics %s', attname, attstattarget)
    from ${tablesOf(schema, '')} as ours join pg_attribute on attrelid = oid
    where attnum > 0 and not attisdropped and coalesce(attstattarget, -1) >= 0
    union all
    select ${table} || format('alter column %I set (%s)', attname, array_to_string(attoptions, ', '))
    from ${tablesOf(schema, '')} as ours join pg_attribute on attrelid = oid
    where attnum > 0 and not attisdropped and attoptions is not null`;
}

/** An index, and what it is but for its name and its table's. */
export interface IndexView {
  readonly table: string;
  readonly name: string;
  readonly definition: string;
}

export async function listIndexes(
  tx: Executor,
  { schema }: Pick<Mirror, 'schema'>,
  generation: Generation,
): Promise<IndexView[]> {
  return rows<IndexView>(
    tx,
    sql`
      select name as "table", i.relname as name,
             name || ' ' || case when indisunique then 'unique ' else '' end || right(
               pg_get_indexdef(i.oid),
               -length(format('CREATE %sINDEX %I ON %I.%I ', case when indisunique then 'UNIQUE ' else '' end,
                              i.relname, ${schema}::text, name || ${generation}::text))) as definition
      from ${tablesOf(schema, generation)} as ours join pg_index on indrelid = ours.oid
      join pg_class i on i.oid = indexrelid order by ours.name, i.relname`,
  );
}

/** What columns and checks a generation has, a line each. */
async function listParts(
  tx: Executor,
  { schema }: Pick<Mirror, 'schema'>,
  generation: Generation,
): Promise<string[]> {
  const found = await rows<{ part: string }>(
    tx,
    sql`
      select concat_ws(' ', 'column', name || '.' || attname, format_type(atttypid, atttypmod),
                       case when attnotnull then 'not null' end, nullif(attidentity, ''),
                       nullif(attgenerated, ''), nullif(attcollation, 0)::regcollation,
                       pg_get_expr(adbin, adrelid)) as part
      from ${tablesOf(schema, generation)} as ours join pg_attribute on attrelid = ours.oid
      left join pg_attrdef d on adrelid = attrelid and adnum = attnum
      where attnum > 0 and not attisdropped
      union all
      select concat_ws(' ', 'constraint of', name, pg_get_constraintdef(c.oid))
      from ${tablesOf(schema, generation)} as ours join pg_constraint c on conrelid = ours.oid
      where contype in ('c', 'p', 'u', 'x')`,
  );
  return found.map(({ part }) => part);
}

/**
 * In what the tables of `generation` are other than those that are read: a column, check or index a line.
 * Empty where they can take their place.
 */
export async function listMismatches(
  tx: Executor,
  mirror: Db,
  generation: Exclude<Generation, ''>,
): Promise<string[]> {
  await nameInFull(tx);
  const partsOf = async (one: Generation) => [
    ...(await listParts(tx, mirror, one)),
    ...(await listIndexes(tx, mirror, one)).map(({ definition }) => `index of ${definition}`),
  ];
  const left = await partsOf(generation);
  const only: string[] = [];
  for (const part of await partsOf('')) {
    const at = left.indexOf(part);
    if (at === -1) only.push(part);
    else left.splice(at, 1);
  }
  return [...only, ...left];
}

/** Columns that we fill, as SQL names them. */
export function columnsOf(table: PgTable): string[] {
  return Object.values<PgColumn>(getTableColumns(table)).map((column) => column.name);
}

/** Columns that neither we fill nor Postgres works out: their values would be lost. */
export function whereForeign({ t }: Pick<Mirror, 't'>): SQL {
  const known = [t.users, t.userTenants].flatMap(columnsOf);
  return sql`attnum > 0 and not attisdropped and attgenerated = ''
    and attname <> all(${sql.param(known)}::text[])`;
}
