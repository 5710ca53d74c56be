import { afterEach, expect, it } from 'vitest';

import { startPgbouncer, type Pgbouncer } from './support/pgbouncer.ts';
import { startProcess } from './support/process.ts';
import { testRedisUrl } from './support/redis.ts';
import { createScene, postTo, bodyOf, realUserIds, type Scene } from './support/world.ts';

/*
 * Postgres behind a pgbouncer in transaction mode, the queue on Redis: no statement may count on the
 * session of the one before. (The queue on Postgres listens, and needs a connection of its own.)
 */

let scene: Scene | undefined;
let bouncer: Pgbouncer | null = null;
afterEach(async () => {
  await bouncer?.stop();
  await scene?.stop();
  scene = undefined;
  bouncer = null;
});

it.skipIf(testRedisUrl() === null)('everything works through pgbouncer', async (context) => {
  const s = (scene = await createScene({
    redisUrl: testRedisUrl(),
    simulator: { users: 300 },
    env: { PULL_MODIFIED_CRON: '* * * * * *', PULL_AUDIT_CRON: '* * * * * *' },
  }));
  bouncer = await startPgbouncer(s.database.url);
  if (bouncer === null) {
    context.skip('no pgbouncer is installed');
    return;
  }
  const env = { ...s.env, DATABASE_URL: bouncer.url };
  const service = startProcess(['start', '--json'], { env });
  const [, port = ''] = await service.waitForLine(/"publicPort":(\d+)/);
  await s.untilFilled();
  const { directory } = s.simulator;
  const [one = '', two = '', three = ''] = realUserIds(s);
  directory.modifyUser(one, { name: 'By event' }, { event: false, moveModifiedTime: false });
  const delivered = await postTo(Number(port), bodyOf('UserModified', { userId: one }));
  expect(delivered.status).toBe(202);
  directory.modifyUser(two, { name: 'By pull' }, { event: false });
  directory.deleteUser(three);
  await s.untilEqual();
  const verify = startProcess(['verify', '--json'], { env });
  expect(await verify.exit).toBe(0);
  service.kill('SIGTERM');
  expect(await service.exit).toBe(0);
});
