import { sql, type SQL } from 'drizzle-orm';

import type { PgTable, PgView } from 'drizzle-orm/pg-core';

interface Members {
  readonly liveUsers: PgView;
  readonly userTenants: PgTable;
}

/*
 * The views of who belongs where. They read `live_users`, not `users`, so that whoever replaces the
 * table below that view replaces it for them too.
 */

/** Of the user, what an application shows or filters by beside a membership. */
const USER_COLUMNS = sql.raw(
  [
    ...[
      'u.login_ids',
      'u.email',
      'u.phone',
      'u.name',
      'u.given_name',
      'u.family_name',
      'u.picture',
    ],
    ...['u.status', 'u.verified_email', 'u.verified_phone', 'u.test', 'u.custom_attributes'],
    ...['u.created_time', 'u.modified_time', 'u.observed_at'],
  ].join(', '),
);

/** A row a membership. */
export function tenantMembersQuery({ liveUsers, userTenants }: Members): SQL {
  return sql`
select t.tenant_id, t.tenant_name, t.user_id, t.role_names, t.permissions,
  ${USER_COLUMNS}
from ${userTenants} t join ${liveUsers} u on u.user_id = t.user_id`;
}

/**
 * A row a role that somebody has, in the project or in a tenant. `role_names` holds all roles of that place:
 * it is what the indexes know, so `members_of_role()` filters by both. Empty sets are left out by name for
 * the same reason: the indexes do not have them.
 */
export function roleMembersQuery({ liveUsers, userTenants }: Members): SQL {
  return sql`
select r.role_name, null::text as tenant_id, null::text as tenant_name, u.user_id,
  u.role_names, u.permissions, ${USER_COLUMNS}
from ${liveUsers} u cross join lateral unnest(u.role_names) as r(role_name)
where u.role_names <> '{}'
union all
select r.role_name, t.tenant_id, t.tenant_name, t.user_id,
  t.role_names, t.permissions, ${USER_COLUMNS}
from ${userTenants} t join ${liveUsers} u on u.user_id = t.user_id
  cross join lateral unnest(t.role_names) as r(role_name)
where t.role_names <> '{}'`;
}
