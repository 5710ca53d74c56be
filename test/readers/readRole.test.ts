import { mkdtemp, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import pg from 'pg';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';

import { addAttribute, assertOwner, withAttributeStore } from '../../src/mirror/attributes.ts';
import { openMirror } from '../../src/mirror/database.ts';
import { startEmbeddedPostgres } from '../../src/mirror/embedded.ts';
import { migrateMirror } from '../../src/mirror/migrate.ts';
import {
  changes,
  findUser,
  listUsers,
  usersOfTenant,
  usersWithRole,
  waitFor,
} from '../../src/readers/users.ts';
import { createReleaseStack } from '../../src/release.ts';
import { removeEmbeddedFolder } from '../support/embeddedHost.ts';
import { look } from '../support/look.ts';
import { query } from '../support/query.ts';

/*
 * A role of an application, with nothing but what the README grants it. On a Postgres of its own: making roles
 * takes more rights than the other tests have.
 */

const releases = createReleaseStack();
let app: pg.Pool;
let appUrl: string;

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-role-'));
  releases.push('folder', () => removeEmbeddedFolder(folder));
  const postgres = await startEmbeddedPostgres({ folder, hostFile: inject('embeddedHostFile') });
  releases.push('postgres', () => postgres.stop());
  const where = { databaseUrl: postgres.url, schema: 'descope' };
  await migrateMirror(where);
  await withAttributeStore(where, (store) =>
    addAttribute(store, { name: 'plan', column: 'plan', type: 'text', indexed: true }),
  );
  const mirror = openMirror({ ...where, maxConnections: 1, onError: () => undefined });
  await look(mirror, {
    U1: {
      ...{ roleNames: ['admin'], customAttributes: { plan: 'pro' } },
      userTenants: [{ tenantId: 'T1', roleNames: ['owner'] }],
    },
  });
  await mirror.pool.end();
  await query(postgres.adminUrl, `create role app login password 'app'`);
  const readme = await readFile(join(import.meta.dirname, '../../README.md'), 'utf8');
  const grants = /```sql\n((?:grant .*\n)+)```/.exec(readme)?.[1] ?? '';
  await query(postgres.url, grants);
  const url = new URL(postgres.url);
  [url.username, url.password] = ['app', 'app'];
  appUrl = url.toString();
  app = new pg.Pool({ connectionString: appUrl, max: 2 });
  releases.push('pool', () => app.end());
});

afterAll(() => releases.release());

describe('a role with the grants of the README', () => {
  test.each([
    'select user_id from descope.live_users',
    'select user_id from descope.tenant_members',
    'select user_id from descope.role_members',
    `select user_id from descope.members_of_role('owner')`,
    `select user_id from descope.live_users_with_attributes where plan = 'pro'`,
    `select user_id from descope.changes_since(null, 10)`,
    `select 'U1' as user_id from descope.wait_for('U1', '2026-01-01', 0) where seen and reason is null`,
    `select 'U1' as user_id where descope.user_as_of('U1') < now()`,
    `select distinct 'U1' as user_id from descope.wait_for('U9', '2026-01-01', 0) where reason <> ''`,
    `select 'U1' as user_id from descope.sync_status where lag is null`,
  ])('may %s', async (statement) => {
    const { rows } = await app.query<{ user_id: string }>(statement);
    expect(rows.map((row) => row.user_id)).toContain('U1');
  });

  test('may do all that rollcall/readers offers', async () => {
    const reader = { db: app };
    expect(await findUser(reader, 'U1')).toMatchObject({ asOf: expect.any(Date) as unknown });
    expect(await listUsers(reader)).toHaveLength(1);
    expect(await usersOfTenant(reader, 'T1')).toHaveLength(1);
    expect(await usersWithRole(reader, 'admin')).toHaveLength(1);
    expect(await waitFor(reader, 'U1', '2026-01-01T00:00:00Z')).toMatchObject({ userId: 'U1' });
    for await (const change of changes(reader)) expect(change).toMatchObject({ userId: 'U1' });
  });

  test.each(['events', 'deletions', 'attributes', 'admin_log'])(
    'may not read %s',
    async (table) => {
      await expect(app.query(`select * from descope.${table}`)).rejects.toThrow(
        /permission denied/,
      );
    },
  );

  test('may not write, nor add attributes, and is told whose right that is', async () => {
    await expect(app.query('delete from descope.users')).rejects.toThrow(/permission denied/);
    await expect(
      withAttributeStore({ databaseUrl: appUrl, schema: 'descope' }, assertOwner),
    ).rejects.toThrow(
      'only the owner of the tables may list and change attributes: set DATABASE_URL to role rollcall',
    );
  });
});
