import pg from 'pg';

/*
 * Who may administer a tenant? One query, no API call.
 *
 *   DATABASE_URL=postgres://… node dist/plainSql.js T2acme admin
 */

const [tenantId = '', role = ''] = process.argv.slice(2);
const client = new pg.Client({ connectionString: process.env['DATABASE_URL'] });
await client.connect();
try {
  const fresh = await client.query<{ gaps: string; isFresh: boolean }>(
    `select gaps, lag < interval '5 minutes' as "isFresh" from descope.sync_status`,
  );
  // Read-only pages may shrug; whoever grants access should rather not go by an old copy.
  if (fresh.rows[0]?.isFresh !== true) console.error('the mirror is behind');
  const { rows } = await client.query<{ userId: string; email: string | null }>(
    `select u.user_id as "userId", u.email
       from descope.live_users u
       join descope.user_tenants t using (user_id)
      where t.tenant_id = $1 and $2 = any (t.role_names)
      order by u.user_id`,
    [tenantId, role],
  );
  for (const { userId, email } of rows) console.log(`${userId} ${email ?? '-'}`);
} finally {
  await client.end();
}
