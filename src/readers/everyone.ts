import { sql } from 'drizzle-orm';

import { rows, type Mirror } from '../mirror/database.ts';

/** A live user under the API's field names; created in epoch seconds, as the API has it. */
export type MirroredUser = Readonly<Record<string, unknown>> & { readonly userId: string };

/** Everyone at once: for comparisons of small directories only. */
export async function readEveryone({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<MirroredUser[]> {
  return rows<MirroredUser>(
    db,
    sql`select user_id as "userId", login_ids as "loginIds", external_ids as "externalIds", email, phone,
               name, given_name as "givenName", middle_name as "middleName",
               family_name as "familyName", picture, status, verified_email as "verifiedEmail",
               verified_phone as "verifiedPhone", test, role_names as "roleNames", permissions,
               sso_app_ids as "ssoAppIds", custom_attributes as "customAttributes",
               extract(epoch from created_time)::int as "createdTime", raw,
               (select coalesce(jsonb_agg(jsonb_build_object('tenantId', tenant_id, 'tenantName',
                         tenant_name, 'roleNames', role_names, 'permissions', permissions)
                         order by tenant_id), '[]')
                from ${t.userTenants} x where x.user_id = u.user_id) as "userTenants"
        from ${t.users} u where deleted_at is null`,
  );
}

/** Ids of those whom a person had erased: the directory may have them, the mirror must not. */
export async function readErasedIds({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<Set<string>> {
  const found = await rows<{ userId: string }>(
    db,
    sql`select user_id as "userId" from ${t.erasures}`,
  );
  return new Set(found.map((row) => row.userId));
}
