import { sql, type SQL } from 'drizzle-orm';

import type { MirrorTables } from '../mirror/schema.ts';
import type { Present } from '../observation.ts';

/*
 * Rows travel to Postgres as one jsonb parameter, read with `jsonb_to_recordset` into typed columns:
 * one statement a batch, whatever its size, and arrays arrive as `text[]` without being unpacked
 * row by row in SQL (which costs half the throughput).
 */

/** Columns, their Postgres types, and what each holds where a record leaves it out (null where unsaid). */
const COLUMNS: Readonly<Record<string, readonly [type: string, leftOut?: string]>> = {
  user_id: ['text'],
  login_ids: ['text[]', "'{}'"],
  external_ids: ['text[]', "'{}'"],
  email: ['text'],
  phone: ['text'],
  name: ['text'],
  given_name: ['text'],
  middle_name: ['text'],
  family_name: ['text'],
  picture: ['text'],
  status: ['text'],
  verified_email: ['boolean'],
  verified_phone: ['boolean'],
  test: ['boolean', 'false'],
  role_names: ['text[]', "'{}'"],
  permissions: ['text[]', "'{}'"],
  sso_app_ids: ['text[]', "'{}'"],
  created_time: ['timestamptz'],
  modified_time: ['timestamptz'],
  content_hash: ['text'],
  custom_attributes: ['jsonb', "'{}'"],
  raw: ['jsonb'],
};

const names = Object.keys(COLUMNS);

/** `user_id, login_ids, …`: the columns an API answer fills. */
export const userColumns: SQL = sql.raw(names.join(', '));
/** The same, of the recordset `r`. */
export const recordColumns: SQL = sql.raw(
  Object.entries(COLUMNS)
    .map(([name, [, leftOut]]) => (leftOut ? `coalesce(r.${name}, ${leftOut})` : `r.${name}`))
    .join(', '),
);
/** The recordset's column definitions. */
export const userRecordType: SQL = sql.raw(
  [...Object.entries(COLUMNS).map(([name, [type]]) => [name, type]), ['observed_at', 'timestamptz']]
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

/**
 * JSON text of an array of records that `userRecordType` describes. What is empty is left out: of many a
 * user it is half, and would be written and read for nothing.
 */
export function toUserRecords(observations: readonly Present[]): string {
  const records = observations.map(({ row, observedAt }) => {
    const fields = JSON.stringify({
      user_id: row.userId,
      login_ids: unlessEmpty(row.loginIds),
      external_ids: unlessEmpty(row.externalIds),
      email: unlessNull(row.email),
      phone: unlessNull(row.phone),
      name: unlessNull(row.name),
      given_name: unlessNull(row.givenName),
      middle_name: unlessNull(row.middleName),
      family_name: unlessNull(row.familyName),
      picture: unlessNull(row.picture),
      status: unlessNull(row.status),
      verified_email: unlessNull(row.verifiedEmail),
      verified_phone: unlessNull(row.verifiedPhone),
      test: row.test || undefined,
      role_names: unlessEmpty(row.roleNames),
      permissions: unlessEmpty(row.permissions),
      sso_app_ids: unlessEmpty(row.ssoAppIds),
      created_time: unlessNull(row.createdTime),
      modified_time: unlessNull(row.modifiedTime),
      content_hash: row.contentHash,
      observed_at: observedAt,
    });
    const attributes =
      row.customAttributes === '{}' ? '' : `,"custom_attributes":${row.customAttributes}`;
    // Already JSON: put in as they are, so that numbers past 2^53 survive.
    return `${fields.slice(0, -1)}${attributes},"raw":${row.raw}}`;
  });
  return `[${records.join(',')}]`;
}

function unlessNull<T>(value: T | null): T | undefined {
  return value ?? undefined;
}

function unlessEmpty(texts: readonly string[]): readonly string[] | undefined {
  return texts.length === 0 ? undefined : texts;
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
      role_names: unlessEmpty(tenant.roleNames),
      permissions: unlessEmpty(tenant.permissions),
    })),
  );
  return sql`
    insert into ${t.userTenants} (user_id, tenant_id, tenant_name, role_names, permissions)
    select user_id, tenant_id, tenant_name, coalesce(role_names, '{}'), coalesce(permissions, '{}')
    from jsonb_to_recordset(${JSON.stringify(records)}::jsonb)
      as r(user_id text, tenant_id text, tenant_name text, role_names text[], permissions text[])
    ${where}
    on conflict (user_id, tenant_id) do nothing`;
}
