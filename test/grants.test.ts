import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  inject,
  it,
  onTestFinished,
} from 'vitest';

import * as attributes from '../src/commands/attributes.ts';
import * as doctor from '../src/commands/doctor.ts';
import * as erase from '../src/commands/erase.ts';
import * as grants from '../src/commands/grants.ts';
import * as migrate from '../src/commands/migrate.ts';
import { parseConfig } from '../src/config.ts';
import { UsageError } from '../src/errors.ts';
import { startEmbeddedPostgres, type RunningPostgres } from '../src/mirror/embedded.ts';
import { openMirror } from '../src/mirror/database.ts';
import { READABLE } from '../src/mirror/grants.ts';
import { changes, findUser, listUsers, usersOfTenant, waitFor } from '../src/readers/users.ts';
import { dropStale } from '../src/rebuild/previous.ts';
import { runCommand } from './commands/context.ts';
import { removeEmbeddedFolder } from './support/embeddedHost.ts';
import { startProcess } from './support/process.ts';
import { query } from './support/query.ts';
import { bodyOf, createWorld, type World } from './support/world.ts';

import type { TestDatabase } from './support/database.ts';

/* Roles are a server's, so it is one of this file's own. Nobody in it is a superuser but who makes the logins. */

let server: RunningPostgres;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rollcall-grants-'));
  server = await startEmbeddedPostgres({ folder, hostFile: inject('embeddedHostFile') });
}, 60_000);
afterAll(async () => {
  await server.stop();
  await removeEmbeddedFolder(folder);
});

let names = 0;
let database: string;
let world: World | undefined;
beforeEach(async () => {
  names++;
  database = `mirror_${names}`;
  await query(server.adminUrl, `create role owner_${names} login createrole password 'x'`);
  await query(server.adminUrl, `create database ${database} owner owner_${names}`);
});
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

function urlOf(role: string): string {
  const url = new URL(server.url);
  url.pathname = `/${database}`;
  url.username = role;
  url.password = 'x';
  return url.toString();
}

/** Names of this test's own: roles are shared by all databases of the server. */
function roleNames() {
  return { migrate: `migrate_${names}`, write: `write_${names}`, read: `read_${names}` };
}

function optionsOf(more: Readonly<Record<string, string | boolean>> = {}) {
  const { migrate: m, write, read } = roleNames();
  return { migrateRole: m, writeRole: write, readRole: read, ...more };
}

function configOf(url: string) {
  const needs = { descope: false, receives: false, serves: false };
  return { logs: [], config: parseConfig({ DATABASE_URL: url }, needs) };
}

const runAs = (
  role: string,
  module: Parameters<typeof runCommand>[0],
  options: Readonly<Record<string, string | boolean>> = {},
) => runCommand(module, configOf(urlOf(role)), options);

/** Logins as the command tells to make them. */
async function createLogins(): Promise<void> {
  const { migrate: m, write, read } = roleNames();
  const owner = urlOf(`owner_${names}`);
  await query(owner, `create role migrator_${names} login password 'x' in role ${m}`);
  await query(owner, `alter role migrator_${names} set role = ${m}`);
  await query(owner, `create role service_${names} login password 'x' in role ${write}`);
  await query(owner, `create role reader_${names} login password 'x' in role ${read}`);
}

/** Roles, schema and grants, in the order that the manual tells. */
async function setUp(): Promise<void> {
  const owner = `owner_${names}`;
  expect((await runAs(owner, grants, optionsOf({ apply: true }))).exitCode).toBe(0);
  await createLogins();
  expect((await runAs(`migrator_${names}`, migrate)).exitCode).toBe(0);
  expect((await runAs(owner, grants, optionsOf({ apply: true }))).exitCode).toBe(0);
}

function asDatabase(role: string): TestDatabase {
  const url = urlOf(role);
  const mirror = openMirror({
    databaseUrl: url,
    schema: 'descope',
    maxConnections: 5,
    onError: () => undefined,
  });
  return { url, mirror, drop: () => mirror.pool.end() };
}

const asReader = <Row>(statement: string) => query<Row>(urlOf(`reader_${names}`), statement);

describe('rollcall grants', () => {
  it('prints what it would do, and that can be run again and again', async () => {
    const owner = `owner_${names}`;
    const printed = await runAs(owner, grants, optionsOf());
    const text = printed.stdout.join('\n');
    expect(text).toContain(`create role "read_${names}" nologin`);
    for (const pass of [1, 2]) await query(urlOf(owner), `select ${pass}; ${text}`);
    const { stdout } = await runAs(owner, grants, optionsOf({ apply: true }));
    expect(stdout).toEqual([
      `roles migrate_${names}, write_${names}, read_${names} have their rights on descope`,
    ]);
  });

  it('says whom to ask where our role may not, and which name is none', async () => {
    await query(server.adminUrl, `create role weak_${names} login password 'x'`);
    const refused = runAs(`weak_${names}`, grants, optionsOf({ apply: true }));
    await expect(refused).rejects.toThrow(/CREATEROLE.*`rollcall grants \| psql/);
    const odd = runAs('any', grants, { readRole: 'app"; drop' });
    await expect(odd).rejects.toThrow(UsageError);
    await expect(runAs('any', grants, { readRole: 'a', writeRole: 'a' })).rejects.toThrow('three');
  });

  it('takes over a schema that its owner has migrated before', async () => {
    const owner = `owner_${names}`;
    await runAs(owner, migrate);
    await runAs(owner, grants, optionsOf({ apply: true }));
    const foreign = await query(
      urlOf(owner),
      `select c.oid::regclass from pg_class c join pg_namespace n on n.oid = relnamespace
       where nspname in ('descope', 'descope_queue') and relkind in ('r', 'v', 'S')
         and pg_get_userbyid(relowner) <> 'migrate_${names}'`,
    );
    expect(foreign).toEqual([]);
  });
});

describe('the three roles', () => {
  it('are enough: one migrates, one runs the service, one reads', async () => {
    await setUp();
    world = await createWorld({
      simulator: { users: 40 },
      database: asDatabase(`service_${names}`),
    });
    const w = world;
    await w.untilFilled();
    w.deliver();
    const { userId } = w.simulator.directory.createUser({ test: false, name: 'New' });
    w.simulator.directory.createBatch(150);
    await w.untilEqual();
    expect(await (await w.post(bodyOf('UserModified', { userId }))).json()).toMatchObject({
      accepted: 1,
    });
    const other = w.simulator.directory.createUser({ test: false });
    const options = { user: other.userId, yes: true, evenUnknown: true };
    expect((await runCommand(erase, w, options)).exitCode).toBe(0);
    const examined = await runCommand(doctor, w, {}, { json: true });
    expect(JSON.stringify(examined.json())).not.toMatch(/may not/);

    for (const table of READABLE) {
      const found = await asReader<{ n: string }>(`select count(*) as n from descope.${table}`);
      expect(Number(found[0]?.n), table).toBeGreaterThan(0);
    }
    expect(await asReader('select * from descope.changes_since(null, 10)')).toHaveLength(10);
    for (const called of [
      'select descope.feed_head()',
      "select 1 from (select count(*) from descope.members_of_role('nobody')) as counted",
      `select descope.user_as_of('${userId}')`,
      `select * from descope.why_not_seen('${userId}', now())`,
      `select descope.attribute_text('{"a": 1}', 'a')`,
    ]) {
      expect(await asReader(called), called).toHaveLength(1);
    }
    const reader = { db: asDatabase(`reader_${names}`).mirror.pool };
    onTestFinished(() => reader.db.end());
    expect(await findUser(reader, userId)).toMatchObject({ userId });
    expect(await listUsers(reader, { limit: 5 })).toHaveLength(5);
    expect(await usersOfTenant(reader, 'nobody')).toEqual([]);
    expect(await waitFor(reader, userId, new Date(0))).not.toBeNull();
    const { value: first } = await changes(reader).next();
    expect(first).toMatchObject({ kind: 'created' });
    const closed = [
      'events',
      'deletions',
      'admin_log',
      'erasures',
      'learnt',
      'budgets',
      'migrations',
    ];
    for (const table of closed) {
      await expect(asReader(`select 1 from descope.${table}`), table).rejects.toThrow('permission');
    }
    for (const write of [
      'delete from descope.users',
      "update descope.live_users set name = ''",
      "insert into descope.user_tenants values ('U', 'T')",
      'create table descope.mine (a int)',
      'select 1 from descope_queue.job',
    ]) {
      await expect(asReader(write), write).rejects.toThrow('permission denied');
    }
    const service = urlOf(`service_${names}`);
    for (const ddl of [
      'create table descope.mine (a int)',
      'drop table descope.users',
      'truncate descope.users',
      'delete from descope.migrations',
      'alter table descope.users add column a int',
    ]) {
      await expect(query(service, ddl), ddl).rejects.toThrow();
    }
  });

  it('let applications have their cursor kept by name where that is said', async () => {
    await setUp();
    const readNamed = () => asReader("select * from descope.read_changes('app', 10)");
    await expect(readNamed()).rejects.toThrow('permission denied');
    const apply = (more: Readonly<Record<string, boolean>>) =>
      runAs(`owner_${names}`, grants, optionsOf({ apply: true, ...more }));
    await apply({ cursors: true });
    expect(await readNamed()).toEqual([]);
    expect(await asReader("select descope.confirm_changes('app', '0-0')")).toHaveLength(1);
    await apply({});
    await expect(readNamed()).rejects.toThrow('permission denied');
  });

  it('say whose right it is to erase where a rebuild has left what only the owner may touch', async () => {
    await setUp();
    const { write } = roleNames();
    await query(
      urlOf(`migrator_${names}`),
      `create table descope.users_previous (like descope.users);
       create table descope.user_tenants_previous (like descope.user_tenants);
       revoke all on descope.users_previous, descope.user_tenants_previous from ${write}`,
    );
    const options = { user: 'U1', yes: true, evenUnknown: true };
    await expect(runAs(`service_${names}`, erase, options)).rejects.toThrow(
      /run it as the owner of the tables, or first .*--drop-previous/,
    );
    expect((await runAs(`migrator_${names}`, erase, options)).exitCode).toBe(0);

    const service = asDatabase(`service_${names}`);
    onTestFinished(() => service.drop());
    await expect(dropStale(service.mirror, 30)).rejects.toThrow(
      /another role; as that one run `rollcall rebuild --drop-previous`/,
    );
  });

  it('cover what a later migration adds, for the service by itself', async () => {
    await setUp();
    await query(
      urlOf(`migrator_${names}`),
      `create table descope.later (id bigint generated by default as identity, a int);
       create function descope.later_one() returns int language sql as 'select 1'`,
    );
    const service = urlOf(`service_${names}`);
    await query(service, 'insert into descope.later (a) values (descope.later_one())');
    await expect(asReader('select * from descope.later')).rejects.toThrow('permission denied');
  });

  it('let the service start where the schema is current, and else stop with one line', async () => {
    await setUp();
    const migrator = urlOf(`migrator_${names}`);
    const env = {
      ...{ DESCOPE_PROJECT_ID: 'P1', DESCOPE_MANAGEMENT_KEY: 'k', PORT: '0', ADMIN_PORT: '0' },
      ...{ WEBHOOK_HMAC_SECRETS: 's', DESCOPE_BASE_URL: 'http://127.0.0.1:9' },
      DATABASE_URL: urlOf(`service_${names}`),
    };
    const started = startProcess(['start'], { env });
    await started.waitForLine(/^rollcall runs/);
    started.kill('SIGTERM');
    expect(await started.exit).toBe(0);
    await query(
      migrator,
      'delete from descope.migrations where migration_id = (select max(migration_id) from descope.migrations)',
    );
    const behind = startProcess(['start'], { env });
    expect(await behind.exit).toBe(2);
    expect(behind.stderr().trim().split('\n')).toEqual([
      expect.stringMatching(/^error: schema "descope" is 1 migration behind, .*`rollcall migrate`/),
    ]);
    await query(migrator, 'drop schema descope_queue cascade');
    const queueless = startProcess(['start'], { env: { ...env, MIRROR_SCHEMA: 'other' } });
    expect(await queueless.exit).toBe(2);
    expect(queueless.stderr()).toMatch(/^error: schema "other" is not there yet, .*migrate/);
  });
});

describe('row level security', () => {
  /** As docs/operations.md tells it. */
  const policies = (read: string, write: string) => `
    alter table descope.users enable row level security;
    alter table descope.user_tenants enable row level security;
    create policy service on descope.users to ${write} using (true) with check (true);
    create policy service on descope.user_tenants to ${write} using (true) with check (true);
    create policy tenant on descope.user_tenants for select to ${read}
      using (tenant_id = current_setting('app.tenant', true));
    create policy tenant on descope.users for select to ${read}
      using (exists (select from descope.user_tenants t where t.user_id = users.user_id));
    alter view descope.live_users set (security_invoker = true);
    alter view descope.live_users_with_attributes set (security_invoker = true);
    alter view descope.tenant_members set (security_invoker = true);
    alter view descope.role_members set (security_invoker = true);
    revoke select on descope.user_changes from ${read};
    revoke execute on function descope.user_freshness(text), descope.why_not_seen(text, timestamptz)
      from public, ${read};
    grant execute on function descope.user_freshness(text), descope.why_not_seen(text, timestamptz)
      to ${write}`;

  it('shows a reader the users of a tenant alone, while the service writes', async () => {
    await setUp();
    const { write, read } = roleNames();
    await query(urlOf(`migrator_${names}`), policies(read, write));
    world = await createWorld({
      simulator: { users: 60 },
      database: asDatabase(`service_${names}`),
    });
    const w = world;
    await w.untilFilled();
    const tenants = await w.query<{ tenant: string; n: number }>(
      sql`select tenant_id as tenant, count(*)::int as n from descope.user_tenants
          group by 1 order by 2 desc limit 2`,
    );
    expect(tenants).toHaveLength(2);
    for (const { tenant, n } of tenants) {
      const tables = ['users', 'live_users', 'user_tenants', 'live_users_with_attributes'];
      for (const table of [...tables, 'tenant_members']) {
        // What the application sets; evaluated before the rows are.
        const found = await asReader(
          `with t as materialized (select set_config('app.tenant', '${tenant}', false))
           select (select count(*)::int from descope.${table}) as n from t`,
        );
        expect(found, table).toEqual([{ n }]);
      }
    }
    // Nor do the views that read views, and a migration and `rollcall attributes` leave them so.
    await runAs(`migrator_${names}`, attributes, {
      ...{ action: 'add', name: 'plan', type: 'text', index: false },
    });
    for (const view of READABLE.filter((name) => /live|members/.test(name))) {
      expect(await asReader(`select 1 from descope.${view}`), view).toEqual([]);
    }
    for (const closed of [
      'select * from descope.changes_since(null, 1)',
      "select * from descope.read_changes('me', 1)",
      "select descope.user_as_of('U1')",
      "select * from descope.wait_for('U1', now(), 0)",
    ]) {
      await expect(asReader(closed), closed).rejects.toThrow('permission denied');
    }
  });
});
