import pg from 'pg';

import { findCode, UsageError } from '../errors.ts';
import { castOf, type Attribute } from './attributeTypes.ts';

/*
 * Custom attributes as typed columns. `users` is not touched: a column of its own, generated or not, would
 * rewrite the table under a lock that keeps everybody out. The columns are those of a view, what makes them
 * quick are indexes on the same expressions, built beside the traffic. Which attributes there are is in the
 * table `attributes`, which indexes there are in the catalogue, by expression: so both outlive whoever
 * replaces the table or the view.
 */

/** A column as it is now. */
export interface ListedAttribute extends Attribute {
  /** `broken`: its build was interrupted. */
  readonly index: 'none' | 'ready' | 'broken';
}

/** One connection, in the schema of this name; without the limits of time that the pool sets. */
export interface AttributeStore {
  readonly client: pg.ClientBase;
  readonly schema: string;
}

const VIEW = 'live_users_with_attributes';
/** How long a change of the view waits for its readers. */
const LOCK_TIMEOUT_MS = 10_000;
const CANNOT_REPLACE = '42P16';
const HAS_DEPENDENTS = '2BP01';

/** Runs `work` over a connection that may take long: an index of a large table takes minutes. */
export async function withAttributeStore<T>(
  options: { readonly databaseUrl: string; readonly schema: string },
  work: (store: AttributeStore) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    connectionString: options.databaseUrl,
    application_name: 'rollcall attributes',
    connectionTimeoutMillis: 10_000,
  });
  client.on('error', () => undefined);
  await client.connect();
  try {
    // Expressions of indexes are then told with their schema, and compare as text.
    await client.query(`set search_path = ''`);
    return await work({ client, schema: options.schema });
  } finally {
    await client.end();
  }
}

/** @throws UsageError where there are tables that this role may not change */
export async function assertOwner({ client, schema }: AttributeStore): Promise<void> {
  // Looked up in the catalogue, which everybody may read.
  const { rows } = await client.query<{ owner: string; isOwner: boolean }>(
    `select pg_get_userbyid(c.relowner) as owner, pg_has_role(c.relowner, 'usage') as "isOwner"
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = 'users'`,
    [schema],
  );
  const [found] = rows;
  if (found === undefined || found.isOwner) return;
  throw new UsageError(
    `only the owner of the tables may list and change attributes: set DATABASE_URL to role ${found.owner}`,
  );
}

/** In the order of their columns. */
export async function listAttributes(store: AttributeStore): Promise<ListedAttribute[]> {
  const { client, schema } = store;
  const quoted = pg.escapeIdentifier(schema);
  const { rows } = await client.query<Attribute>(
    `select name, column_name as "column", type, indexed from ${quoted}.attributes order by position`,
  );
  const listed: ListedAttribute[] = [];
  for (const attribute of rows) {
    const indexes = await findIndexes(store, attribute);
    const isReady = indexes.some(({ isValid }) => isValid);
    listed.push({
      ...attribute,
      index: isReady ? 'ready' : indexes.length > 0 ? 'broken' : 'none',
    });
  }
  return listed;
}

/**
 * Makes the attribute a column, with an index where it is to be indexed. Doing so twice changes nothing, and
 * mends an index whose build was interrupted.
 * @throws UsageError where it is there as something else, or its column is taken
 */
export async function addAttribute(store: AttributeStore, asked: Attribute): Promise<void> {
  const { client, schema } = store;
  const quoted = pg.escapeIdentifier(schema);
  await changeView(store, async () => {
    const { rows: taken } = await client.query<Attribute>(
      `select name, column_name as "column", type from ${quoted}.attributes
       where name = $1 or column_name = $2 order by name <> $1`,
      [asked.name, asked.column],
    );
    const [there] = taken;
    if (there && (there.name !== asked.name || there.column !== asked.column)) {
      throw new UsageError(
        `${there.name} is the column ${there.column} already (--as takes another name)`,
      );
    }
    if (there && there.type !== asked.type) {
      throw new UsageError(
        `${there.name} is there already, as ${there.type}: remove it first (rollcall attributes remove)`,
      );
    }
    if (!there && (await listUserColumns(store)).includes(asked.column)) {
      throw new UsageError(
        `users have a column ${asked.column} of their own: give this one another name (--as)`,
      );
    }
    await client.query(
      `insert into ${quoted}.attributes as a (name, column_name, type, indexed) values ($1, $2, $3, $4)
       on conflict (name) do update set indexed = a.indexed or excluded.indexed`,
      [asked.name, asked.column, asked.type, asked.indexed],
    );
  });
  if (asked.indexed) await buildIndex(store, asked);
}

/** Removes column and index. @throws UsageError where there is none of that name, or others read it */
export async function removeAttribute(store: AttributeStore, name: string): Promise<void> {
  const { client, schema } = store;
  const attribute = (await listAttributes(store)).find((one) => one.name === name);
  if (!attribute) {
    throw new UsageError(`no such attribute was added (rollcall attributes list shows which were)`);
  }
  await changeView(store, async () => {
    await client.query(`delete from ${pg.escapeIdentifier(schema)}.attributes where name = $1`, [
      name,
    ]);
  });
  for (const index of await findIndexes(store, attribute)) {
    await client.query(`drop index concurrently if exists ${index.name}`);
  }
}

/** Changes the table and then the view, in one transaction. */
async function changeView(store: AttributeStore, change: () => Promise<void>): Promise<void> {
  const { client, schema } = store;
  await client.query('begin');
  try {
    await client.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [
      `rollcall attributes ${schema}`,
    ]);
    await client.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
    await change();
    await restoreAttributes(store);
    await client.query('commit');
  } catch (error) {
    await client.query('rollback').catch(() => undefined);
    if (findCode(error) !== HAS_DEPENDENTS) throw error;
    throw new UsageError(`other views read ${schema}.${VIEW}: drop them first`);
  }
}

/**
 * Makes the view what the table says, over what `live_users` has now. Within a transaction. Grants stay, and options
 * such as `security_invoker`.
 * @throws Postgres' 2BP01 where columns go, or come in between, and views of others read it
 */
export async function restoreAttributes({ client, schema }: AttributeStore): Promise<void> {
  const quoted = pg.escapeIdentifier(schema);
  const view = `${quoted}.${VIEW}`;
  const { rows: attributes } = await client.query<Attribute>(
    `select name, column_name as "column", type, indexed from ${quoted}.attributes order by position`,
  );
  const taken = new Set(await listUserColumns({ client, schema }));
  // A later version may give users a column of that name: theirs keeps it.
  const columns = attributes.map((attribute) => {
    const column = taken.has(attribute.column) ? `attribute_${attribute.column}` : attribute.column;
    return { ...attribute, quotedColumn: pg.escapeIdentifier(column) };
  });
  const chosen = columns.map(
    (one) => `, ${expressionOf(schema, one, 'u.')} as ${one.quotedColumn}`,
  );
  const select = `select u.*${chosen.join('')} from ${quoted}.live_users u`;
  const options = await optionsOf({ client, schema });
  await client.query('savepoint before_view');
  try {
    await client.query(`create or replace view ${view}${options} as ${select}`);
  } catch (error) {
    if (findCode(error) !== CANNOT_REPLACE) throw error;
    await client.query('rollback to savepoint before_view');
    const { rows: grants } = await client.query<{ grant: string }>(
      `select format('grant %s on %s to %s%s', privilege_type, $1::text,
         case when grantee = 0 then 'public' else grantee::regrole::text end,
         case when is_grantable then ' with grant option' else '' end) as grant
       from pg_class, aclexplode(relacl) where oid = $1::regclass and grantee <> relowner`,
      [view],
    );
    await client.query(`drop view ${view}`);
    await client.query(`create view ${view}${options} as ${select}`);
    for (const { grant } of grants) await client.query(grant);
  }
  for (const { quotedColumn, name, type } of columns) {
    const about = pg.escapeLiteral(`The custom attribute ${name}, as ${type}.`);
    await client.query(`comment on column ${view}.${quotedColumn} is ${about}`);
  }
}

/** What has been set for the view, as a clause; replacing it says all anew. */
async function optionsOf({ client, schema }: AttributeStore): Promise<string> {
  const { rows } = await client.query<{ clause: string | null }>(
    `select ' with (' || string_agg(format('%I=%L', option_name, option_value), ', ') || ')' as clause
     from pg_class, pg_options_to_table(reloptions) where oid = to_regclass($1)`,
    [`${pg.escapeIdentifier(schema)}.${VIEW}`],
  );
  return rows[0]?.clause ?? '';
}

async function listUserColumns({ client, schema }: AttributeStore): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `select attname as name from pg_attribute where attrelid = $1::regclass and attnum > 0`,
    [`${pg.escapeIdentifier(schema)}.live_users`],
  );
  return rows.map(({ name }) => name);
}

/** The value of the column; the index holds the same expression, and is found by it. */
function expressionOf(schema: string, { name, type }: Attribute, table = ''): string {
  const cast = `${pg.escapeIdentifier(schema)}.${castOf(type)}`;
  return `${cast}(${table}custom_attributes, ${pg.escapeLiteral(name)})`;
}

interface FoundIndex {
  /** Quoted, with its schema. */
  readonly name: string;
  readonly isValid: boolean;
}

async function findIndexes(
  { client, schema }: AttributeStore,
  { name, type }: Attribute,
): Promise<FoundIndex[]> {
  const { rows } = await client.query<FoundIndex>(
    `select indexrelid::regclass::text as name, indisvalid as "isValid" from pg_index
     where indrelid = $1::regclass and indnatts = 1
       and pg_get_indexdef(indexrelid, 1, true) = format('%I.%I(custom_attributes, %L::text)', $2::text, $3::text, $4::text)`,
    [`${pg.escapeIdentifier(schema)}.users`, schema, castOf(type), name],
  );
  return rows;
}

/** Nobody is kept waiting: neither readers nor writers. It waits itself for transactions under way. */
async function buildIndex(store: AttributeStore, attribute: Attribute): Promise<void> {
  const { client, schema } = store;
  const lock = `rollcall attribute index ${schema}`;
  const { rows } = await client.query<{ taken: boolean }>(
    'select pg_try_advisory_lock(hashtextextended($1, 0)) as taken',
    [lock],
  );
  if (rows[0]?.taken !== true) {
    throw new UsageError('an index of another attribute is being built: try again once it is done');
  }
  const found = await findIndexes(store, attribute);
  // Half-built ones cost every write and serve nobody.
  for (const index of found.filter(({ isValid }) => !isValid)) {
    await client.query(`drop index concurrently if exists ${index.name}`);
  }
  if (!found.some(({ isValid }) => isValid)) {
    const users = `${pg.escapeIdentifier(schema)}.users`;
    const method = attribute.type === 'text[]' ? 'gin' : 'btree';
    await client.query(
      `create index concurrently on ${users} using ${method} (${expressionOf(schema, attribute)})
       where deleted_at is null`,
    );
    // So that the planner knows how often each value is there.
    await client.query(`analyze ${users}`);
  }
  await client.query('select pg_advisory_unlock(hashtextextended($1, 0))', [lock]);
}
