import { sql, type SQL } from 'drizzle-orm';

import type { MirrorTables } from '../mirror/schema.ts';
import type { Present } from '../observation.ts';

/*
 * Rows travel to Postgres as one jsonb parameter, read with `jsonb_to_recordset` into typed columns:
 * one statement a batch, whatever its size, and arrays arrive as `text[]` without being unpacked
 * row by row in SQL (which costs half the throughput).
 */

/** Columns and their Postgres types; `toUserRecords` fills them. */
const COLUMNS: Readonly<Record<string, string>> = {
  user_id: 'text',
  login_ids: 'text[]',
  external_ids: 'text[]',
  email: 'text',
  phone: 'text',
  name: 'text',
  given_name: 'text',
  middle_name: 'text',
  family_name: 'text',
  picture: 'text',
  status: 'text',
  verified_email: 'boolean',
  verified_phone: 'boolean',
  test: 'boolean',
  role_names: 'text[]',
  permissions: 'text[]',
  sso_app_ids: 'text[]',
  created_time: 'timestamptz',
  modified_time: 'timestamptz',
  content_hash: 'text',
  custom_attributes: 'jsonb',
  raw: 'jsonb',
};

const names = Object.keys(COLUMNS);

/** `user_id, login_ids, …`: the columns an API answer fills. */
export const userColumns: SQL = sql.raw(names.join(', '));
/** The same, of the recordset `r`. */
export const recordColumns: SQL = sql.raw(names.map((name) => `r.${name}`).join(', '));
/** The recordset's column definitions. */
export const userRecordType: SQL = sql.raw(
  [...Object.entries(COLUMNS), ['observed_at', 'timestamptz']]
    .map((pair) => pair.join(' '))
    .join(', '),
);

/** `email = default, …`: leaves of a row what a user has that was never seen, the id alone. */
export const clearedColumns: SQL = sql.raw(
  names
    .filter((name) => name !== 'user_id')
    .map((name) => `${name} = default`)
    .join(', '),
);

/** JSON text of an array of records that `userRecordType` describes. */
export function toUserRecords(observations: readonly Present[]): string {
  const records = observations.map(({ row, observedAt }) => {
    const fields = JSON.stringify({
      user_id: row.userId,
      login_ids: row.loginIds,
      external_ids: row.externalIds,
      email: row.email,
      phone: row.phone,
      name: row.name,
      given_name: row.givenName,
      middle_name: row.middleName,
      family_name: row.familyName,
      picture: row.picture,
      status: row.status,
      verified_email: row.verifiedEmail,
      verified_phone: row.verifiedPhone,
      test: row.test,
      role_names: row.roleNames,
      permissions: row.permissions,
      sso_app_ids: row.ssoAppIds,
      created_time: row.createdTime,
      modified_time: row.modifiedTime,
      content_hash: row.contentHash,
      observed_at: observedAt,
    });
    // Already JSON: put in as they are, so that numbers past 2^53 survive.
    return `${fields.slice(0, -1)},"custom_attributes":${row.customAttributes},"raw":${row.raw}}`;
  });
  return `[${records.join(',')}]`;
}

/** Inserts the tenant memberships of users whose earlier ones are gone: of all, or of those that `where` names. */
export function insertTenants(
  t: MirrorTables,
  observations: readonly Present[],
  where = sql``,
): SQL {
  const records = observations.flatMap(({ row }) =>
    row.tenants.map((tenant) => ({
      user_id: row.userId,
      tenant_id: tenant.tenantId,
      tenant_name: tenant.tenantName,
      role_names: tenant.roleNames,
      permissions: tenant.permissions,
    })),
  );
  return sql`
    insert into ${t.userTenants} (user_id, tenant_id, tenant_name, role_names, permissions)
    select user_id, tenant_id, tenant_name, role_names, permissions
    from jsonb_to_recordset(${JSON.stringify(records)}::jsonb)
      as r(user_id text, tenant_id text, tenant_name text, role_names text[], permissions text[])
    ${where}
    on conflict (user_id, tenant_id) do nothing`;
}
