import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { look } from '../support/look.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await look(database.mirror, {
    U1: {
      ...{ name: 'Ada', email: 'ada@example.com', roleNames: ['admin', 'billing'] },
      userTenants: [
        { tenantId: 'T1', tenantName: 'Acme', roleNames: ['owner'], permissions: ['pay'] },
        { tenantId: 'T2', tenantName: 'Bits', roleNames: [] },
      ],
    },
    U2: { name: 'Alan', userTenants: [{ tenantId: 'T1', roleNames: ['admin', 'owner'] }] },
    U3: { name: 'Grace', roleNames: ['admin'], userTenants: [{ tenantId: 'T1' }] },
  });
  await look(database.mirror, { U3: null });
});
afterAll(() => database.drop());

async function query(statement: string): Promise<unknown[]> {
  const { rows } = await database.mirror.pool.query<Record<string, unknown>>(statement);
  return rows;
}

describe('tenant_members', () => {
  test('has a row a membership of a live user, with roles and permissions in that tenant', async () => {
    const columns = 'tenant_id, tenant_name, user_id, role_names, permissions, email';
    expect(
      await query(`select ${columns} from descope.tenant_members order by tenant_id, user_id`),
    ).toEqual([
      {
        ...{ tenant_id: 'T1', tenant_name: 'Acme', user_id: 'U1', email: 'ada@example.com' },
        ...{ role_names: ['owner'], permissions: ['pay'] },
      },
      {
        ...{ tenant_id: 'T1', tenant_name: null, user_id: 'U2', email: null },
        ...{ role_names: ['admin', 'owner'], permissions: [] },
      },
      {
        ...{ tenant_id: 'T2', tenant_name: 'Bits', user_id: 'U1', email: 'ada@example.com' },
        ...{ role_names: [], permissions: [] },
      },
    ]);
  });
});

describe('role_members', () => {
  test('has a row a role and place, null for the project itself', async () => {
    const columns = 'role_name, tenant_id, user_id, name';
    expect(
      await query(
        `select concat_ws(' ', role_name, coalesce(tenant_id, '-'), user_id, name) as told
         from descope.role_members order by 1`,
      ),
    ).toEqual([
      { told: 'admin - U1 Ada' },
      { told: 'admin T1 U2 Alan' },
      { told: 'billing - U1 Ada' },
      { told: 'owner T1 U1 Ada' },
      { told: 'owner T1 U2 Alan' },
    ]);
    expect(
      await query(`select ${columns} from descope.members_of_role('admin') order by user_id`),
    ).toEqual([
      { role_name: 'admin', tenant_id: null, user_id: 'U1', name: 'Ada' },
      { role_name: 'admin', tenant_id: 'T1', user_id: 'U2', name: 'Alan' },
    ]);
  });

  test('the tables of drizzle read both', async () => {
    const { db, t } = database.mirror;
    const members = await db
      .select()
      .from(t.tenantMembers)
      .where(sql`tenant_id = 'T2'`);
    expect(members).toMatchObject([{ userId: 'U1', tenantName: 'Bits', name: 'Ada', test: false }]);
    const owners = await db
      .select()
      .from(t.roleMembers)
      .where(sql`role_name = 'billing'`);
    expect(owners).toMatchObject([{ roleNames: ['admin', 'billing'], tenantId: null }]);
  });
});

test('what an application asks reads no whole table', async () => {
  await query(`
    insert into descope.users (user_id, observed_at, changed_at, witness, role_names)
    select 'X' || n, now(), now(), 'sweep', case when n % 1000 = 0 then array['rare'] else '{}' end
    from generate_series(1, 20000) as n`);
  await query(`
    insert into descope.user_tenants (user_id, tenant_id, role_names)
    select 'X' || n, 'T' || n / 50, case when n % 997 = 0 then array['rare'] else array['member'] end
    from generate_series(1, 20000) as n`);
  await query('vacuum analyze descope.users, descope.user_tenants');
  for (const asked of [
    `select * from descope.tenant_members where tenant_id = 'T77'`,
    `select * from descope.tenant_members where user_id = 'X77'`,
    `select * from descope.tenant_members where tenant_id = 'T77' order by user_id limit 10`,
    `select * from descope.role_members where tenant_id = 'T77' and role_name = 'rare'`,
    `select * from descope.role_members where user_id = 'X77'`,
    `select * from descope.members_of_role('rare')`,
    `select * from descope.members_of_role('rare') where tenant_id is null`,
  ]) {
    const plan = await query(`explain ${asked}`);
    const text = plan.map((line) => Object.values(line as object).join()).join('\n');
    expect(`${asked}\n${text}`).not.toMatch(/Seq Scan/);
  }
});
