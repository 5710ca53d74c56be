import { sql, type SQL } from 'drizzle-orm';

import type { Executor } from '../mirror/database.ts';
import type { MirrorTables } from '../mirror/schema.ts';
import type { Present, UserRow } from '../observation.ts';

/*
 * Rows travel to Postgres as one jsonb parameter, read with `jsonb_to_recordset` into typed columns:
 * one statement a batch, whatever its size, and arrays arrive as `text[]` without being unpacked
 * row by row in SQL (which costs half the throughput).
 */

/** Column, its Postgres type, and where its JSON comes from. The order is that of every statement. */
const COLUMNS: readonly (readonly [
  column: string,
  type: string,
  json: (row: UserRow) => string,
])[] = [
  ['user_id', 'text', (row) => JSON.stringify(row.userId)],
  ['login_ids', 'text[]', (row) => JSON.stringify(row.loginIds)],
  ['external_ids', 'text[]', (row) => JSON.stringify(row.externalIds)],
  ['email', 'text', (row) => JSON.stringify(row.email)],
  ['phone', 'text', (row) => JSON.stringify(row.phone)],
  ['name', 'text', (row) => JSON.stringify(row.name)],
  ['given_name', 'text', (row) => JSON.stringify(row.givenName)],
  ['middle_name', 'text', (row) => JSON.stringify(row.middleName)],
  ['family_name', 'text', (row) => JSON.stringify(row.familyName)],
  ['picture', 'text', (row) => JSON.stringify(row.picture)],
  ['status', 'text', (row) => JSON.stringify(row.status)],
  ['verified_email', 'boolean', (row) => JSON.stringify(row.verifiedEmail)],
  ['verified_phone', 'boolean', (row) => JSON.stringify(row.verifiedPhone)],
  ['test', 'boolean', (row) => JSON.stringify(row.test)],
  ['role_names', 'text[]', (row) => JSON.stringify(row.roleNames)],
  ['permissions', 'text[]', (row) => JSON.stringify(row.permissions)],
  ['sso_app_ids', 'text[]', (row) => JSON.stringify(row.ssoAppIds)],
  ['custom_attributes', 'jsonb', (row) => row.customAttributes],
  ['created_time', 'timestamptz', (row) => JSON.stringify(row.createdTime)],
  ['modified_time', 'timestamptz', (row) => JSON.stringify(row.modifiedTime)],
  // Already JSON: put in as it is, so that numbers past 2^53 survive.
  ['raw', 'jsonb', (row) => row.raw],
  ['content_hash', 'text', (row) => JSON.stringify(row.contentHash)],
];

const names = COLUMNS.map(([column]) => column);

/** `user_id, login_ids, …`: the columns an API answer fills. */
export const userColumns: SQL = sql.raw(names.join(', '));
/** The same, of the recordset `r`. */
export const recordColumns: SQL = sql.raw(names.map((name) => `r.${name}`).join(', '));
/** The recordset's column definitions. */
export const userRecordType: SQL = sql.raw(
  [...COLUMNS.map(([column, type]) => `${column} ${type}`), 'observed_at timestamptz'].join(', '),
);

/** JSON text of an array of records that `userRecordType` describes. */
export function toUserRecords(observations: readonly Present[]): string {
  const records = observations.map(({ row, observedAt }) => {
    const fields = COLUMNS.map(([column, , json]) => `"${column}":${json(row)}`);
    return `{${fields.join(',')},"observed_at":"${observedAt}"}`;
  });
  return `[${records.join(',')}]`;
}

/** Inserts the tenant memberships of users whose earlier ones are gone. */
export async function insertTenants(
  tx: Executor,
  t: MirrorTables,
  observations: readonly Present[],
): Promise<void> {
  const records = observations.flatMap(({ row }) =>
    row.tenants.map((tenant) => ({
      user_id: row.userId,
      tenant_id: tenant.tenantId,
      tenant_name: tenant.tenantName,
      role_names: tenant.roleNames,
      permissions: tenant.permissions,
    })),
  );
  if (records.length === 0) return;
  await tx.execute(sql`
    insert into ${t.userTenants} (user_id, tenant_id, tenant_name, role_names, permissions)
    select user_id, tenant_id, tenant_name, role_names, permissions
    from jsonb_to_recordset(${JSON.stringify(records)}::jsonb)
      as r(user_id text, tenant_id text, tenant_name text, role_names text[], permissions text[])
    on conflict (user_id, tenant_id) do nothing`);
}
