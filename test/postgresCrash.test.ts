import { sql } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import { createBuiltServices, type BuiltServices } from './support/builtService.ts';
import { eventually } from './support/eventually.ts';
import { startPostgresServer, type PostgresServer } from './support/postgresServer.ts';
import { testRedisUrl } from './support/redis.ts';
import { startPacedTraffic, startSender, type Answer, type Sender } from './support/sender.ts';
import { createScene, type Scene } from './support/world.ts';

/* Postgres itself crashes under a running service: the postmaster and its children get SIGKILL. */

const USERS = 3_000;

let postgres: PostgresServer;
let services: BuiltServices;
let scene: Scene | undefined;
let sender: Sender | undefined;
let traffic: { stop(): void } | undefined;

beforeAll(async () => {
  postgres = await startPostgresServer();
}, 120_000);
afterAll(() => postgres.stop());
afterEach(async () => {
  traffic?.stop();
  await sender?.stop();
  // A test that failed may have left it crashed.
  await postgres.start();
  const output = await services.end();
  try {
    await scene?.assertPrivate(output);
  } finally {
    await scene?.stop();
    traffic = sender = scene = undefined;
  }
});

/** Waits until a pull is in the middle of a window: so many searches of it, and the window not proven. */
async function untilReading(s: Scene, pull: 'sweep' | 'modified', searches: number): Promise<void> {
  const { requests } = s.simulator;
  const before = requests.countOf('userSearch');
  await eventually(
    async () => {
      expect(requests.countOf('userSearch')).toBeGreaterThan(before + searches);
      const { t } = s.database.mirror;
      const open = await s.query(
        sql`select 1 from ${t.syncWindows} where pull = ${pull} and state <> 'proven'`,
      );
      expect(open.length).toBeGreaterThan(0);
    },
    { timeoutMs: 30_000 },
  );
}

const QUEUES = [
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const;

for (const [queue, redisUrl] of QUEUES) {
  describe.skipIf(queue === 'redis' && redisUrl === null)(`the queue on ${queue}`, () => {
    it('outlives two crashes of Postgres, refuses with 503 meanwhile, and has lost nothing after', async () => {
      services = await createBuiltServices();
      const s = await createScene({
        redisUrl,
        database: await postgres.createDatabase(),
        simulator: { users: USERS, behaviour: { latencyMs: 100 } },
        env: {
          BREAKER_MAX_PERCENT: '100',
          PULL_MODIFIED_CRON: '* * * * * *',
          PULL_AUDIT_CRON: '*/2 * * * * *',
          PULL_OVERLAP_SECONDS: '5',
          PULL_SETTLE_SECONDS: '1',
        },
      });
      scene = s;
      const { directory } = s.simulator;
      const told = (sender = startSender(s));
      // No logins: they change no user, so they are ignored, and answered 202 with or without Postgres.
      traffic = startPacedTraffic(s, told, { login: 0 });
      const { child, port } = await services.start(s.env);
      told.port = port;
      const probe = (path: string) => fetch(`http://127.0.0.1:${port}${path}`);

      const crash = async (): Promise<void> => {
        await postgres.crash();
        const crashedMs = Date.now();
        const since = (): Answer[] => told.answers.filter(({ sentMs }) => sentMs >= crashedMs);
        await eventually(() => {
          expect(since().length).toBeGreaterThan(20);
        });
        for (const { status, retryAfter } of since()) {
          expect(status).toBe(503);
          expect(Number(retryAfter)).toBeGreaterThan(0);
        }
        expect((await probe('/livez')).status).toBe(200);
        const ready = await probe('/readyz');
        expect(ready.status).toBe(503);
        expect(await ready.text()).toContain('"postgres"');
        await postgres.start();
        await eventually(async () => {
          expect((await probe('/readyz')).status).toBe(200);
        });
      };

      await untilReading(s, 'sweep', 10);
      await crash();
      await eventually(
        async () => {
          const { t } = s.database.mirror;
          const complete = await s.query(
            sql`select 1 from ${t.syncRuns} where pull = 'sweep' and outcome = 'complete'`,
          );
          expect(complete).toHaveLength(1);
        },
        { timeoutMs: 120_000 },
      );

      // Changes that the pull alone can find.
      for (const { userId } of [...directory.users()].slice(0, 800)) {
        directory.modifyUser(userId, { name: 'Unheard Of' }, { event: false });
      }
      await untilReading(s, 'modified', 5);
      await crash();

      traffic.stop();
      await told.untilIdle(30_000);
      await told.assertKept();
      await s.untilFilled(90_000);
      expect((await probe('/readyz')).status).toBe(200);
      child.kill('SIGTERM');
      expect(await child.exit).toBe(0);
    }, 300_000);
  });
}
