import { count, eq } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { mirrorTables } from 'rollcall/schema';

/*
 * The mirror's tables in an application's own drizzle: how many users has each tenant?
 *
 *   DATABASE_URL=postgres://… node dist/drizzle.js
 */

const { liveUsers, userTenants } = mirrorTables('descope');
const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'] });
try {
  const tenants = await drizzle(pool)
    .select({ tenantId: userTenants.tenantId, users: count() })
    .from(userTenants)
    .innerJoin(liveUsers, eq(liveUsers.userId, userTenants.userId))
    .groupBy(userTenants.tenantId)
    .orderBy(userTenants.tenantId);
  for (const { tenantId, users } of tenants) console.log(`${tenantId} ${users}`);
} finally {
  await pool.end();
}
