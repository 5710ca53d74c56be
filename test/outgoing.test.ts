import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { SECRET, startReceiver, withoutRepeats, type Receiver } from './outgoing/receiver.ts';
import {
  createBuiltServices,
  type BuiltService,
  type BuiltServices,
} from './support/builtService.ts';
import { eventually } from './support/eventually.ts';
import { flushRedis } from './support/queueDump.ts';
import { startRedisServer, testRedisUrl, type RedisServer } from './support/redis.ts';
import { createScene, HMAC_SECRET, realUserIds, type Scene } from './support/world.ts';

/* A receiver that is away, and a process that is killed meanwhile and again in the midst of posting. */

let services: BuiltServices;
let receiver: Receiver;
let redis: RedisServer | null = null;
let scene: Scene | undefined;

beforeEach(async () => {
  services = await createBuiltServices();
  receiver = await startReceiver();
});
afterEach(async () => {
  const output = await services.end();
  try {
    await scene?.assertPrivate(output);
    // The address may hold a secret, and ours is one.
    expect(output).not.toMatch(/not-to-be-shown|whsec_/);
  } finally {
    await receiver.down();
    await scene?.stop();
    await redis?.stop();
    scene = undefined;
    redis = null;
  }
});

interface Row {
  readonly userId: string;
  readonly cursor: string;
}

const head = async (s: Scene) => {
  const [row] = await s.query<{ head: string }>(sql`select descope.feed_head() as head`);
  return row?.head ?? '';
};

/** What waits is due at once, as if so much time had passed; what a dead process had taken is nobody's. */
const letPass = (s: Scene, minutes: number) => {
  const { outgoingDeliveries } = s.database.mirror.t;
  return s.query(sql`
    update ${outgoingDeliveries}
    set due_at = due_at - make_interval(mins => ${minutes}),
        taken_until = taken_until - make_interval(mins => ${minutes})
    where state = 'waiting'`);
};

async function undelivered(s: Scene): Promise<{ waiting: number; failing: number; tries: number }> {
  const { outgoingDeliveries } = s.database.mirror.t;
  const [row] = await s.query<{ waiting: number; failing: number; tries: number }>(
    sql`select (count(*) filter (where state <> 'delivered'))::int as waiting,
               (count(*) filter (where error like '%ECONNREFUSED'))::int as failing,
               coalesce(max(attempts) filter (where error like '%ECONNREFUSED'), 0) as tries
        from ${outgoingDeliveries}`,
  );
  return row ?? { waiting: 0, failing: 0, tries: 0 };
}

/** Changes told by webhook: each of these users is changed twice, and every fifth leaves the second time. */
async function live(s: Scene, userIds: readonly string[], round: string): Promise<void> {
  const { directory } = s.simulator;
  for (const userId of userIds) directory.modifyUser(userId, { name: `Name ${round} a` });
  await untilApplied(s);
  for (const [at, userId] of userIds.entries()) {
    if (at % 5 === 4) directory.deleteUser(userId);
    else directory.modifyUser(userId, { name: `Name ${round} b` });
  }
  await untilApplied(s);
}

async function untilApplied(s: Scene): Promise<void> {
  await s.simulator.delivery.idle();
  await s.untilEqual(30_000);
}

const QUEUES = [
  ['postgres', false],
  ['redis', true],
] as const;

for (const [queue, hasRedis] of QUEUES) {
  describe.skipIf(hasRedis && testRedisUrl() === null)(`deliveries, queue on ${queue}`, () => {
    it('lose nothing and keep each user in order while the receiver is away and the process is killed', async () => {
      redis = hasRedis ? await startRedisServer() : null;
      const flush = () => (redis === null ? Promise.resolve() : flushRedis(redis.url));
      const s = await createScene({
        redisUrl: redis?.url ?? null,
        simulator: { users: 60 },
        env: {
          BREAKER_MAX_PERCENT: '100',
          OUTGOING_URLS: receiver.url,
          OUTGOING_SECRETS: SECRET,
        },
      });
      scene = s;
      const start = async (): Promise<BuiltService> => {
        const service = await services.start(s.env);
        const url = `http://127.0.0.1:${service.port}/webhooks/descope`;
        s.simulator.delivery.configure({ url, hmacSecret: HMAC_SECRET });
        return service;
      };
      const untilDelivered = () =>
        eventually(
          async () => {
            expect((await undelivered(s)).waiting).toBe(0);
            const [endpoint] = await s.query<{ cursor: string }>(
              sql`select cursor from ${s.database.mirror.t.outgoingEndpoints}`,
            );
            expect(endpoint?.cursor).toBe(await head(s));
          },
          { timeoutMs: 60_000 },
        );

      let service = await start();
      await s.untilFilled();
      await untilDelivered();
      receiver.received.length = 0;
      const from = await head(s);
      const userIds = realUserIds(s);

      // Away: the socket refuses, changes go on, and the process is killed.
      await receiver.down();
      await live(s, userIds.slice(0, 20), 'one');
      await eventually(async () => {
        expect((await undelivered(s)).failing).toBeGreaterThan(10);
      });
      await service.kill();
      await flush();
      service = await start();
      await live(s, userIds.slice(20, 40), 'two');
      await letPass(s, 5);
      await eventually(async () => {
        await letPass(s, 5);
        expect((await undelivered(s)).tries).toBeGreaterThan(2);
      });

      // Back again, and killed while posts are under way: some were taken and nobody has noted that.
      await receiver.up();
      await letPass(s, 5);
      await eventually(
        () => {
          expect(receiver.received.length).toBeGreaterThan(5);
        },
        { everyMs: 1 },
      );
      await service.kill();
      await flush();
      expect((await undelivered(s)).waiting).toBeGreaterThan(0);
      await start();
      await live(s, userIds.slice(40), 'three');
      await eventually(async () => {
        await letPass(s, 5);
        expect((await undelivered(s)).waiting).toBe(0);
      });
      await untilDelivered();

      const changes = await s.query<Row>(
        sql`select user_id as "userId", cursor from descope.changes_since(${from}, 10000)`,
      );
      const told = withoutRepeats(receiver.received).map(({ data }) => data);
      const ofUser = (list: readonly Row[], userId: string) =>
        list.flatMap((row) => (row.userId === userId ? [row.cursor] : []));
      expect(changes.length).toBeGreaterThan(100);
      expect(told).toHaveLength(changes.length);
      for (const userId of userIds) expect(ofUser(told, userId)).toEqual(ofUser(changes, userId));
      const ids = new Map(receiver.received.map(({ webhookId, data }) => [data.cursor, webhookId]));
      expect(new Set(ids.values()).size).toBe(changes.length);
      for (const { webhookId, data } of receiver.received) {
        expect(ids.get(data.cursor)).toBe(webhookId);
      }
    }, 180_000);
  });
}
