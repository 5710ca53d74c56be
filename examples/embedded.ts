import pg from 'pg';
import { createLogger, parseConfig, startService } from 'rollcall';

/*
 * The whole service inside a process of your own: it reads no environment, listens to no signal and ends no
 * process. What it is to do comes from `config`; that, and when it starts and stops, is up to you.
 *
 *   DATABASE_URL=postgres://… DESCOPE_PROJECT_ID=… DESCOPE_MANAGEMENT_KEY=… WEBHOOK_HMAC_SECRETS=… \
 *     node dist/embedded.js
 */

const databaseUrl = process.env['DATABASE_URL'] ?? '';
const service = await startService({
  config: parseConfig(process.env),
  log: createLogger({ level: 'warn' }),
  databaseUrl,
  // `web` takes deliveries and answers the admin port, `worker` applies and pulls.
  role: 'all',
});
const pool = new pg.Pool({ connectionString: databaseUrl });
try {
  // The first sweep begins by itself. An application that lives on would not wait for it.
  for (;;) {
    const { rows } = await pool.query<{ users: string; asOf: Date | null }>(
      `select (select count(*) from descope.live_users) as users, as_of as "asOf" from descope.sync_status`,
    );
    const [status] = rows;
    if (status && status.asOf !== null) {
      console.log(`${status.users} users`);
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
} finally {
  await pool.end();
  await service.stop();
}
