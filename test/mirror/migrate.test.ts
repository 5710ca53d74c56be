import { join } from 'node:path';

import { readMigrationFiles } from 'drizzle-orm/migrator';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { migrateMirror, toSchema } from '../../src/mirror/migrate.ts';
import { createEmptyDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;

beforeEach(async () => {
  database = await createEmptyDatabase();
});

afterEach(() => database.drop());

const migrate = (schema = 'descope') => migrateMirror({ databaseUrl: database.url, schema });

async function query<Row>(sql: string): Promise<Row[]> {
  const result = await database.mirror.pool.query(sql);
  return result.rows as Row[];
}

/** The schema as a version that knew only the first migrations left it. */
async function migrateFirst(count: number): Promise<void> {
  const known = readMigrationFiles({
    migrationsFolder: join(import.meta.dirname, '../../src/mirror/migrations'),
  }).slice(0, count);
  for (const statement of known.flatMap((migration) => migration.sql)) await query(statement);
  await query(
    `create table descope.migrations (
       migration_id bigint primary key, content_hash text not null,
       applied_at timestamptz not null default clock_timestamp())`,
  );
  for (const { folderMillis, hash } of known) {
    await query(
      `insert into descope.migrations (migration_id, content_hash) values (${folderMillis}, '${hash}')`,
    );
  }
}

const relationsOf = (schema: string) =>
  query<{ relname: string; relkind: string }>(
    `select relname, relkind from pg_class where relnamespace = to_regnamespace('${schema}') order by relname`,
  );

describe('migrateMirror', () => {
  test('runs as an owner who is no superuser, and a second run finds nothing to do', async () => {
    expect(await query('select rolsuper from pg_roles where rolname = current_user')).toEqual([
      { rolsuper: false },
    ]);

    const first = await migrate();
    const second = await migrate();

    expect(first.applied).toBeGreaterThan(0);
    expect(second.applied).toBe(0);
    expect((await relationsOf('descope')).map((relation) => relation.relname)).toEqual(
      expect.arrayContaining(['events', 'live_users', 'migrations', 'user_tenants', 'users']),
    );
  });

  test('five processes at once migrate once', async () => {
    const results = await Promise.all(Array.from({ length: 5 }, () => migrate()));

    const counts = results.map((result) => result.applied).sort((a, b) => a - b);
    expect(counts.slice(0, 4)).toEqual([0, 0, 0, 0]);
    expect(counts[4]).toBeGreaterThan(0);
    const [ledger] = await query<{ count: string }>('select count(*) from descope.migrations');
    expect(Number(ledger?.count)).toBe(counts[4]);
  });

  test('two projects live in two schemas of one database, with nothing in common', async () => {
    await migrate('descope');
    await migrate('second_project');

    expect(await relationsOf('second_project')).toEqual(await relationsOf('descope'));
    await query(
      `insert into second_project.users (user_id, observed_at, changed_at, witness)
       values ('U1', now(), now(), 'sweep')`,
    );
    expect(await query('select user_id from second_project.live_users')).toEqual([
      { user_id: 'U1' },
    ]);
    expect(await query('select user_id from descope.live_users')).toEqual([]);
  });

  test('waits for writers of the version before, and keeps further ones out while it works', async () => {
    await migrateFirst(2);
    const writer = await database.mirror.pool.connect();
    await writer.query('begin');
    await writer.query('update descope.users set witness = witness');
    const migrating = migrate();
    await eventually(async () => {
      const waiting = await query(
        `select 1 from pg_locks l join pg_database d on d.oid = l.database
         where not granted and datname = current_database()`,
      );
      expect(waiting).toHaveLength(1);
    });
    // As a flight does: users first, then events. Whoever held events by now would be its deadlock.
    await writer.query('update descope.events set outcome = outcome');
    await writer.query('commit');
    writer.release();
    expect((await migrating).applied).toBeGreaterThan(0);
  });

  test('a schema named other than descope leaves no trace of that name', async () => {
    await migrate('mirror_of_users');

    expect(await query("select to_regnamespace('descope') as found")).toEqual([{ found: null }]);
    expect(
      await query(
        `select viewname from pg_views where schemaname = 'mirror_of_users' and definition like '%descope.%'`,
      ),
    ).toEqual([]);
    expect(await query("select proname from pg_proc where prosrc like '%descope.%'")).toEqual([]);
  });

  test('where the schema exists, no right to create schemas is needed', async () => {
    await query('create schema descope');
    await query(
      `do $$ begin execute format('revoke create on database %I from current_user, public', current_database()); end $$`,
    );

    expect((await migrate()).applied).toBeGreaterThan(0);
    await expect(migrate('another')).rejects.toThrow(/permission denied/);
  });

  test('once migrated, a role without the right to create tables can start', async () => {
    await migrate();
    await query('revoke create on schema descope from current_user');

    expect(await migrate()).toEqual({ applied: 0 });
  });

  test('an upgrade keeps the grants on sync_status and the views of others that read it', async () => {
    await migrateFirst(1);
    await query('grant select on descope.sync_status to public');
    await query('create view public.freshness as select as_of, lag from descope.sync_status');

    expect((await migrate()).applied).toBeGreaterThan(0);

    expect(await query('select * from public.freshness')).toEqual([{ as_of: null, lag: null }]);
    expect(
      await query(`select has_table_privilege('public', 'descope.sync_status', 'select') as kept`),
    ).toEqual([{ kept: true }]);
    expect(await query('select webhook_delay_day, gap_windows from descope.sync_status')).toEqual([
      { webhook_delay_day: null, gap_windows: [] },
    ]);
  });

  test('a failing migration throws and leaves nothing behind', async () => {
    await query('create schema descope');
    await query('create table descope.watermarks (mine int)');

    await expect(migrate()).rejects.toThrow(/watermarks/);

    expect((await relationsOf('descope')).map((relation) => relation.relname)).toEqual([
      'watermarks',
    ]);
  });

  test('refuses a schema that a newer version has migrated', async () => {
    await migrate();
    await query(
      `insert into descope.migrations (migration_id, content_hash) values (9999999999999, 'later')`,
    );

    await expect(migrate()).rejects.toThrow(/newer than this version/);
  });
});

describe('toSchema', () => {
  test.each([
    ['CREATE SCHEMA "descope";', ''],
    ['create schema if not exists "descope"', ''],
    ['CREATE TABLE "descope"."users" (a int);', 'CREATE TABLE "app"."users" (a int);'],
    ['select * from descope.users', 'select * from "app".users'],
    ["select 'descope.users'::regclass", `select '"app".users'::regclass`],
    ['set search_path = "descope", pg_temp', 'set search_path = "app", pg_temp'],
    ["select 'api.descope.com'", "select 'api.descope.com'"],
    ["comment on table x is 'what descope told'", "comment on table x is 'what descope told'"],
  ])('%s', (statement, expected) => {
    expect(toSchema(statement, 'app')).toBe(expected);
  });
});
