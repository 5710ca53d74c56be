import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createRandom } from '../../src/simulator/random.ts';
import { startTraffic } from '../../src/simulator/traffic.ts';
import { createBuiltServices, type BuiltServices } from '../support/builtService.ts';
import { eventually } from '../support/eventually.ts';
import { startProcess } from '../support/process.ts';
import { createScene, HMAC_SECRET, realUserIds, type Scene } from '../support/world.ts';
import { atLeast, startConsumer, startReader, type Reader } from './readers.ts';

/*
 * The built program: a rebuild of 100,000 users while the service runs, webhooks come in, the directory changes
 * and applications read without a pause.
 */

const USERS = 100_000;
const DAMAGED = 50;
const LOST = 20;
const VICTIMS = 200;
const PATIENCE_MS = 900_000;

let scene: Scene;
let services: BuiltServices;
beforeAll(async () => {
  scene = await createScene({
    simulator: { users: USERS },
    env: {
      ...{ INCLUDE_TEST_USERS: 'true', LOG_LEVEL: 'warn', PULL_SETTLE_SECONDS: '1' },
      ...{ PULL_MODIFIED_CRON: '*/2 * * * * *', PULL_AUDIT_CRON: '*/2 * * * * *' },
    },
  });
  services = await createBuiltServices();
  const child = startProcess(['backfill', '--json'], { env: scene.env });
  expect(await child.exit).toBe(0);
}, PATIENCE_MS);
afterAll(async () => {
  const output = await services.end();
  try {
    await scene.assertPrivate(output);
  } finally {
    await scene.stop();
  }
});

/** Damage that no pull finds: fields of some users changed by hand, others lost. */
async function damage(userIds: readonly string[]): Promise<void> {
  const { t, db } = scene.database.mirror;
  const [changed, lost] = [userIds.slice(0, DAMAGED), userIds.slice(DAMAGED)];
  await db.execute(sql`
    update ${t.users} set name = 'Damaged', content_hash = 'damaged'
    where user_id = any(${sql.param(changed)}::text[])`);
  await db.execute(
    sql`delete from ${t.userTenants} where user_id = any(${sql.param(lost)}::text[])`,
  );
  await db.execute(sql`delete from ${t.users} where user_id = any(${sql.param(lost)}::text[])`);
}

async function count(of: ReturnType<typeof sql>): Promise<number> {
  const [row] = await scene.query<{ n: number }>(sql`select count(*)::int as n from ${of}`);
  return row?.n ?? -1;
}

/** Every way of reading, each over a connection of its own. */
async function startReaders(known: readonly string[]): Promise<Reader[]> {
  const { database } = scene;
  const tenants = await count(sql`descope.live_users join descope.user_tenants using (user_id)`);
  const users = await count(sql`descope.users`);
  const live = await count(sql`descope.live_users`);
  const ofKnown = (from: string) =>
    atLeast(known.length, `select count(*)::int as n from ${from} where user_id = any($1)`, [
      known,
    ]);
  const asks = [
    ofKnown('descope.live_users'),
    ofKnown('descope.users'),
    atLeast(live - VICTIMS, 'select count(*)::int as n from descope.live_users'),
    atLeast(users, 'select count(*)::int as n from descope.users'),
    // Of a user no more than a few tenants.
    atLeast(
      tenants - 10 * VICTIMS,
      `select count(*)::int as n from descope.live_users join descope.user_tenants using (user_id)`,
    ),
    // The other way round: whoever asks for the tables first meets the swap in another order.
    atLeast(
      known.length,
      `select count(distinct u.user_id)::int as n from descope.users u
       left join descope.user_tenants t using (user_id) join descope.live_users l using (user_id)
       where u.user_id = any($1)`,
      [known],
    ),
  ];
  return Promise.all(asks.map((ask, at) => startReader(database.url, ask, at < 2 ? 5 : 150)));
}

describe('a rebuild of 100,000 users under live traffic', () => {
  it(
    'swaps without a failed, an empty or a half answer, and the feed tells exactly what it changed',
    async () => {
      const { simulator, database, env } = scene;
      const everyone = realUserIds(scene);
      const victims = everyone.slice(-VICTIMS);
      const known = everyone.slice(1_000, 1_200);
      await damage(everyone.slice(2_000, 2_000 + DAMAGED + LOST));
      // Gone without an event: only who reads everyone finds them.
      const silent = { event: false, moveModifiedTime: false };
      for (const userId of victims.splice(0, VICTIMS / 4))
        simulator.directory.deleteUser(userId, silent);

      const service = await services.start(env);
      simulator.delivery.configure({
        url: `http://127.0.0.1:${service.port}/webhooks/descope`,
        hmacSecret: HMAC_SECRET,
      });
      const mix = { delete: 0, batchDelete: 0 };
      const traffic = startTraffic(simulator, { perSecond: 20, mix, rng: createRandom(7) });
      const leaving = setInterval(() => {
        const [userId] = victims.splice(0, 1);
        if (userId !== undefined) simulator.directory.deleteUser(userId);
      }, 500);
      const readers = await startReaders(known);
      const consumer = await startConsumer(database.url);
      const [before] = await scene.query<{ oid: number }>(
        sql`select 'descope.users'::regclass::oid as oid`,
      );

      const child = startProcess(['rebuild', '--json'], { env });
      expect([await child.exit, child.stdout(), child.stderr()]).toEqual([
        0,
        expect.stringContaining('"outcome":"swapped"') as string,
        expect.anything() as string,
      ]);
      const { counts, deleted } = JSON.parse(child.stdout()) as {
        counts: { missing: number; different: number };
        deleted: number;
      };
      expect(counts.missing).toBeGreaterThanOrEqual(LOST / 2);
      expect(counts.different).toBeGreaterThanOrEqual(DAMAGED / 2);
      expect(deleted).toBeGreaterThanOrEqual(VICTIMS / 4);
      const [after] = await scene.query<{ oid: number }>(
        sql`select 'descope.users'::regclass::oid as oid`,
      );
      expect(after).not.toEqual(before);

      // Traffic goes on for a while against the new tables.
      const happened = traffic.count;
      await eventually(() => {
        expect(traffic.count).toBeGreaterThan(happened + 40);
      });
      traffic.stop();
      clearInterval(leaving);
      await eventually(() => scene.assertEqual(), { timeoutMs: 120_000, everyMs: 1_000 });
      for (const reader of readers) {
        await reader.stop();
        expect(reader.complaints).toEqual([]);
        expect(reader.reads).toBeGreaterThan(10);
      }
      await consumer.finish();
      expect(consumer.reader.complaints).toEqual([]);
      const held = await scene.query<{ userId: string; hash: string }>(
        sql`select user_id as "userId", content_hash as hash from ${database.mirror.t.liveUsers}`,
      );
      expect(consumer.held.size).toBe(held.length);
      expect(held.filter(({ userId, hash }) => consumer.held.get(userId) !== hash)).toEqual([]);
      expect(await count(sql`descope.users_previous where name = 'Damaged'`)).toBeGreaterThan(0);
    },
    PATIENCE_MS,
  );
});
