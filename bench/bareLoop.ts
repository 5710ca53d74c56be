import createSdk from '@descope/node-sdk';
import pg from 'pg';

import { serve } from './programs.ts';

/*
 * What a fill costs at the very least: search a page with the SDK, upsert it with one statement, next
 * page. It checks nothing, proves nothing, and would lose users where pages shift.
 */

const LIMIT = 100;

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
  custom_attributes: 'jsonb',
  created_time: 'timestamptz',
  raw: 'jsonb',
};
const NAMES = Object.keys(COLUMNS);

const UPSERT = `
  insert into descope.users (${NAMES.join(', ')}, observed_at, changed_at, witness)
  select ${NAMES.join(', ')}, now(), now(), 'sweep'
  from jsonb_to_recordset($1::jsonb)
    as r(${NAMES.map((name) => `${name} ${COLUMNS[name] ?? ''}`).join(', ')})
  on conflict (user_id) do update set
    ${NAMES.slice(1)
      .map((name) => `${name} = excluded.${name}`)
      .join(', ')},
    observed_at = excluded.observed_at, changed_at = excluded.changed_at, witness = excluded.witness`;

type Sdk = ReturnType<typeof createSdk>;
type SearchAnswer = NonNullable<Awaited<ReturnType<Sdk['management']['user']['search']>>['data']>;
/** With what the SDK passes on and its types leave out. */
type User = SearchAnswer['users'][number] & {
  readonly externalIds?: readonly string[];
  readonly permissions?: readonly string[];
  readonly ssoAppIds?: readonly string[];
};

function toRecord(user: User): Record<string, unknown> {
  return {
    user_id: user.userId,
    login_ids: user.loginIds,
    external_ids: user.externalIds,
    email: user.email,
    phone: user.phone,
    name: user.name,
    given_name: user.givenName,
    middle_name: user.middleName,
    family_name: user.familyName,
    picture: user.picture,
    status: user.status,
    verified_email: user.verifiedEmail,
    verified_phone: user.verifiedPhone,
    test: user.test,
    role_names: user.roleNames ?? [],
    permissions: user.permissions ?? [],
    sso_app_ids: user.ssoAppIds ?? [],
    custom_attributes: user.customAttributes ?? {},
    created_time: new Date(user.createdTime * 1000),
    raw: user,
  };
}

const functions = {
  /** Fills a migrated mirror; returns how many users came and how long it took. */
  async fill(env: Readonly<Record<string, string>>) {
    const pool = new pg.Pool({ connectionString: env['DATABASE_URL'], max: 1 });
    const sdk = createSdk({
      projectId: env['DESCOPE_PROJECT_ID'] ?? '',
      managementKey: env['DESCOPE_MANAGEMENT_KEY'] ?? '',
      baseUrl: env['DESCOPE_BASE_URL'] ?? '',
    });
    const startedMs = performance.now();
    let users = 0;
    for (let page = 0; ; page++) {
      const { data } = await sdk.management.user.search({
        page,
        limit: LIMIT,
        sort: [{ field: 'createdTime', desc: false }],
        withTestUser: true,
      });
      const found = data?.users ?? [];
      if (found.length > 0) await pool.query(UPSERT, [JSON.stringify(found.map(toRecord))]);
      users += found.length;
      if (found.length < LIMIT) break;
    }
    const seconds = (performance.now() - startedMs) / 1000;
    await pool.end();
    return { users, seconds };
  },
};
export type BareLoopApi = typeof functions;

serve(functions);
