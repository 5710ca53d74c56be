import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { readMigrationFiles } from 'drizzle-orm/migrator';
import pg from 'pg';

import { findCode, UsageError } from '../errors.ts';
import { restoreAttributes } from './attributes.ts';

export interface MigrateOptions {
  readonly databaseUrl: string;
  /** The Postgres schema everything lives in (`MIRROR_SCHEMA`). */
  readonly schema: string;
}

/** The migrations beside this file, in `src` as well as in `dist` (the build copies them there). */
const FOLDER = join(import.meta.dirname, 'migrations');
/** What everything is for; said anew by each migration. */
const COMMENTS = join(FOLDER, 'comments.sql');

/** How long DDL waits for readers of a table: queueing behind a long one would block every new reader. */
const LOCK_TIMEOUT_MS = 30_000;

/** Processes of the version before may be at work: whoever meets them in a deadlock tries again. */
const TRIES = 5;
const DEADLOCK = '40P01';
const HAS_DEPENDENTS = '2BP01';
const INSUFFICIENT_PRIVILEGE = '42501';
/** In the order in which transactions of ours write to them. */
const TABLES = [
  ...['user_changes', 'users', 'user_tenants', 'deletions', 'sync_windows', 'sync_runs'],
  ...['watermarks', 'events'],
];

/**
 * Brings the schema up to this version, in one transaction, and tells how many migrations that took.
 * Any number of processes may do so at once: the first works, the others wait and find nothing to do.
 * The schema is created only where it is missing, and nothing at all is written where nothing is: an
 * owner of the schema without CREATE on the database will do, and once migrated a role without DDL rights.
 * @throws when a migration fails, or when the database was migrated by a newer version than this one
 */
export async function migrateMirror(options: MigrateOptions): Promise<{ applied: number }> {
  const client = new pg.Client({
    connectionString: options.databaseUrl,
    application_name: 'rollcall migrate',
    connectionTimeoutMillis: 10_000,
  });
  // A connection that dies while idle would otherwise end the process; the next query reports it.
  client.on('error', () => undefined);
  await client.connect();
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        await client.query('begin');
        const applied = await applyMissing(client, options.schema);
        await client.query('commit');
        return { applied };
      } catch (error) {
        await client.query('rollback');
        if (findCode(error) === INSUFFICIENT_PRIVILEGE) await assertCurrent(client, options.schema);
        if (attempt === TRIES || findCode(error) !== DEADLOCK) throw error;
      }
    }
  } finally {
    // Ending the connection rolls back whatever did not reach its commit.
    await client.end();
  }
}

/**
 * Asked where our role was refused something.
 * @throws UsageError where the schema has to be migrated; Postgres' own errors where it may not be looked at
 */
async function assertCurrent(client: pg.Client, schema: string): Promise<void> {
  const { kind, missing } = await readSchemaState(client, schema);
  if (kind !== 'none' && kind !== 'older') return;
  const behind = `${missing} ${missing === 1 ? 'migration' : 'migrations'} behind`;
  throw new UsageError(
    `schema "${schema}" is ${kind === 'none' ? 'not there yet' : behind}, and the user of DATABASE_URL has ` +
      'permission denied to change that: let `rollcall migrate` run as the user who owns it, then start again',
  );
}

/** How a schema stands to the migrations that this version knows. */
export interface SchemaState {
  /** `none`: nothing of ours is in it. */
  readonly kind: 'none' | 'older' | 'current' | 'newer';
  /** How many migrations are still to be applied. */
  readonly missing: number;
}

/** Looks, and changes nothing. @throws Postgres' own errors, 42501 where the ledger may not be read */
export async function readSchemaState(client: pg.ClientBase, schema: string): Promise<SchemaState> {
  const known = readMigrationFiles({ migrationsFolder: FOLDER }).map(
    (migration) => migration.folderMillis,
  );
  // Looked up in the catalogue: `to_regclass` fails where the schema may not be used.
  const { rowCount } = await client.query(
    `select from pg_tables where schemaname = $1 and tablename = 'migrations'`,
    [schema],
  );
  if (rowCount === 0) return { kind: 'none', missing: known.length };
  const done = await listApplied(client, schema);
  const missing = known.filter((id) => !done.has(id)).length;
  if ([...done].some((id) => !known.includes(id))) return { kind: 'newer', missing };
  return { kind: missing === 0 ? 'current' : 'older', missing };
}

async function applyMissing(client: pg.Client, schema: string): Promise<number> {
  // Held to the end of the transaction. Waited for without a limit: a peer's migration may take long.
  await client.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [
    `rollcall migrate ${schema}`,
  ]);
  await client.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  await createLedger(client, schema);
  const done = await listApplied(client, schema);
  const known = readMigrationFiles({ migrationsFolder: FOLDER });
  const knownIds = new Set(known.map((migration) => migration.folderMillis));
  if ([...done].some((id) => !knownIds.has(id))) {
    throw new Error(
      `schema "${schema}" is newer than this version of rollcall: ` +
        'it holds migrations that this version does not know. Run the newer version.',
    );
  }
  const missing = known.filter((migration) => !done.has(migration.folderMillis));
  if (missing.length > 0 && done.size > 0) await lockTables(client, schema);
  for (const migration of missing) {
    for (const statement of migration.sql) {
      const sql = toSchema(statement, schema);
      if (sql !== '') await client.query(sql);
    }
    await client.query(
      `insert into ${ledgerOf(schema)} (migration_id, content_hash) values ($1, $2)`,
      [migration.folderMillis, migration.hash],
    );
  }
  if (missing.length > 0) {
    await restoreView(client, schema);
    await client.query(toSchema(await readFile(COMMENTS, 'utf8'), schema));
  }
  return missing.length;
}

/** The view of the custom attributes has the columns that `live_users` has now, and those people added. */
async function restoreView(client: pg.Client, schema: string): Promise<void> {
  await client.query('savepoint before_attributes');
  try {
    await restoreAttributes({ client, schema });
  } catch (error) {
    if (findCode(error) !== HAS_DEPENDENTS) throw error;
    // Views of others read it: it stays as it was, which is right, if short of what is new.
    await client.query('rollback to savepoint before_attributes');
  }
}

/**
 * Keeps writers out to the end of the transaction: locks taken one by one, between long statements, would
 * meet theirs in a deadlock, and the migration would lose it.
 */
async function lockTables(client: pg.Client, schema: string): Promise<void> {
  const found = await client.query<{ name: string }>(
    `select tablename as name from pg_tables where schemaname = $1 and tablename = any($2)
     order by array_position($2, tablename::text)`,
    [schema, TABLES],
  );
  const names = found.rows.map(({ name }) => `${pg.escapeIdentifier(schema)}.${name}`);
  if (names.length > 0) {
    await client.query(`lock table ${names.join(', ')} in share row exclusive mode`);
  }
}

/**
 * Creates schema and ledger where they are missing. Looked up first: `if not exists` asks for the
 * right to create even where there is nothing to create.
 */
async function createLedger(client: pg.Client, schema: string): Promise<void> {
  const found = await client.query<{ schema: boolean; ledger: boolean }>(
    `select exists (select from pg_namespace where nspname = $1) as schema,
            to_regclass($2) is not null as ledger`,
    [schema, ledgerOf(schema)],
  );
  if (found.rows[0]?.schema !== true) {
    await client.query(`create schema ${pg.escapeIdentifier(schema)}`);
  }
  if (found.rows[0]?.ledger !== true) {
    await client.query(
      `create table ${ledgerOf(schema)} (
         migration_id bigint primary key,
         content_hash text not null,
         applied_at timestamptz not null default clock_timestamp()
       )`,
    );
  }
}

async function listApplied(client: pg.ClientBase, schema: string): Promise<Set<number>> {
  const result = await client.query<{ migration_id: string }>(
    `select migration_id from ${ledgerOf(schema)}`,
  );
  return new Set(result.rows.map((row) => Number(row.migration_id)));
}

function ledgerOf(schema: string): string {
  return `${pg.escapeIdentifier(schema)}.migrations`;
}

/**
 * Rewrites a migration, written for the schema `descope`, to the configured one. The rule for SQL
 * written by hand: name the schema either quoted, `"descope"`, or unquoted in front of a dot,
 * `descope.users`; any other use of the word is left alone (so `api.descope.com` stays).
 * Creating the schema is left out: that happened already, where it was missing.
 */
export function toSchema(statement: string, schema: string): string {
  const sql = statement.trim();
  if (/^create schema (if not exists )?"descope";?$/i.test(sql)) return '';
  const name = pg.escapeIdentifier(schema);
  return sql
    .replaceAll('"descope"', () => name)
    .replaceAll(/(?<![\w.@/"-])descope\.(?=["a-z_])/g, () => `${name}.`);
}
