import { Redis } from 'ioredis';
import { afterEach, expect, it } from 'vitest';

import { startRedisServer, testRedisUrl, type RedisServer } from './support/redis.ts';
import { createWorld, realUserIds, type World } from './support/world.ts';

/*
 * A Redis that is shared and too small, with the policy that BullMQ warns of: it throws away whatever
 * was not used lately, jobs included. (What `FLUSHALL` and a restart do is in push.test.ts.)
 */

let world: World | undefined;
let server: RedisServer | null = null;
let neighbour: Redis | undefined;
afterEach(async () => {
  try {
    await world?.assertPrivate();
  } finally {
    neighbour?.disconnect();
    await world?.stop();
    await server?.stop();
    world = neighbour = undefined;
    server = null;
  }
});

/** The number behind a name in what INFO says. */
async function readNumber(heading: string, name: string): Promise<number> {
  const text = (await server?.info(heading)) ?? '';
  return Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(text)?.[1] ?? NaN);
}

const ROUNDS = 8;
const KEYS_A_ROUND = 60;

it.skipIf(testRedisUrl() === null)(
  'events are applied although Redis evicts their jobs',
  async () => {
    server = await startRedisServer();
    const w = await createWorld({
      redisUrl: server?.url ?? null,
      // Slow, and one job at a time, so that most wait in Redis when it throws them away.
      simulator: { users: 120, behaviour: { latencyMs: 100 } },
      env: { BREAKER_MAX_PERCENT: '100', WORKER_CONCURRENCY: '1' },
    });
    world = w;
    await w.untilFilled();
    const { directory, delivery, requests } = w.simulator;
    requests.reset();
    const crowd = (neighbour = new Redis(server?.url ?? ''));
    await crowd.config('SET', 'maxmemory-policy', 'allkeys-lru');
    // What the service holds by now, and room for a few of the neighbour's keys.
    await crowd.config('SET', 'maxmemory', (await readNumber('memory', 'used_memory')) + 300_000);
    w.deliver({ envelope: 'mixed', batchMax: 4 });

    const users = realUserIds(w);
    for (let round = 0; round < ROUNDS; round++) {
      directory.createMany(6);
      for (const userId of users.slice(round * 3, round * 3 + 7)) {
        directory.modifyUser(userId, { name: `Round ${round}` });
      }
      directory.deleteMany(users.slice(40 + round, 41 + round));
      await delivery.idle();
      for (let key = 0; key < KEYS_A_ROUND; key++) {
        await crowd.set(`neighbour-${round}-${key}`, 'x'.repeat(10_000));
      }
    }

    const { acked, sent, refused } = delivery.counters;
    expect({ acked, refused }).toEqual({ acked: sent, refused: 0 });
    const left = (await crowd.keys('neighbour-*')).length;
    const evicted = await readNumber('stats', 'evicted_keys');
    expect(evicted - (ROUNDS * KEYS_A_ROUND - left)).toBeGreaterThan(0);
    await w.untilEqual(45_000);
    // No pull has helped.
    expect(requests.countOf('userSearch')).toBe(0);
  },
);
