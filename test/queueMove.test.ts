import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { createBuiltServices, type BuiltServices } from './support/builtService.ts';
import { eventually } from './support/eventually.ts';
import { testRedisUrl } from './support/redis.ts';
import { startPacedTraffic, startSender, type Sender } from './support/sender.ts';
import { createScene, type Scene } from './support/world.ts';

/*
 * The queue moves from Postgres to Redis and back while events come in: `REDIS_URL` is set or unset, and
 * the processes are replaced. Every schedule is off, so nothing mends what the move would lose.
 */

let scene: Scene;
let services: BuiltServices;
let sender: Sender | undefined;
let traffic: { stop(): void } | undefined;

beforeEach(async () => {
  services = await createBuiltServices();
});
afterEach(async () => {
  traffic?.stop();
  await sender?.stop();
  const output = await services.end();
  try {
    await scene.assertPrivate(output);
  } finally {
    await scene.stop();
    traffic = sender = undefined;
  }
});

const redisUrl = testRedisUrl();
const onPostgres = {};
const onRedis = { REDIS_URL: redisUrl ?? '' };
/** Takes deliveries and applies nothing: their jobs stay in the queue. */
const WEB = ['--role', 'web'];

async function countEvents(state: 'pending' | 'applied'): Promise<number> {
  const { t } = scene.database.mirror;
  const found = await scene.query(sql`select 1 from ${t.events} where state = ${state}`);
  return found.length;
}

/** Lets events come in until so many more have been taken. */
async function untilTaken(told: Sender, more: number): Promise<void> {
  const wanted = told.acknowledged + more;
  await eventually(
    () => {
      expect(told.acknowledged).toBeGreaterThanOrEqual(wanted);
    },
    { timeoutMs: 60_000 },
  );
}

describe.skipIf(redisUrl === null)('moving the queue under traffic', () => {
  it('loses no event, though jobs are left behind in the old one', async () => {
    const s = (scene = await createScene({ simulator: { users: 300 } }));
    const told = (sender = startSender(s));
    const filling = await services.start({ ...s.env, ...onPostgres });
    await s.untilFilled();
    filling.child.kill('SIGTERM');
    expect(await filling.child.exit).toBe(0);
    traffic = startPacedTraffic(s, told, { login: 0, delete: 2 });

    for (const [from, to] of [
      [onPostgres, onRedis],
      [onRedis, onPostgres],
    ] as const) {
      const before = await countEvents('applied');
      // Jobs pile up in the old queue, where nobody will ever look for them.
      const web = await services.start({ ...s.env, ...from }, WEB);
      told.port = web.port;
      await untilTaken(told, 40);
      expect(await countEvents('pending')).toBeGreaterThan(30);
      web.child.kill('SIGTERM');
      expect(await web.child.exit).toBe(0);

      // Both kinds side by side for a while, as when processes are replaced one after the other.
      const old = await services.start({ ...s.env, ...from }, WEB);
      const next = await services.start({ ...s.env, ...to });
      told.port = old.port;
      await untilTaken(told, 20);
      told.port = next.port;
      await untilTaken(told, 20);
      await old.kill();
      await untilTaken(told, 20);
      await eventually(
        async () => {
          expect(await countEvents('applied')).toBeGreaterThan(before + 60);
        },
        { timeoutMs: 60_000 },
      );
      told.port = undefined;
      await next.kill();
    }

    // Every event that was answered 2xx has been kept, and the last queue's processes find what is left.
    const last = await services.start({ ...s.env, ...onPostgres });
    told.port = last.port;
    traffic.stop();
    await told.untilIdle(30_000);
    await told.assertKept();
    await eventually(
      async () => {
        expect(await countEvents('pending')).toBe(0);
      },
      { timeoutMs: 60_000 },
    );
    await s.assertEqual();
    const { t } = s.database.mirror;
    const runs = await s.query(sql`select pull from ${t.syncRuns} where reason = 'schedule'`);
    expect(runs).toEqual([]);
  }, 240_000);
});
