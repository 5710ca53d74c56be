import { afterEach, expect, it } from 'vitest';

import { startRedisCluster, type RedisCluster } from './support/redisCluster.ts';
import { testRedisUrl } from './support/redis.ts';
import { createWorld, realUserIds, type World } from './support/world.ts';

/* The queue on a Redis Cluster: every key of it in one slot, so that each of its scripts finds them all. */

let world: World | undefined;
let cluster: RedisCluster | undefined;
afterEach(async () => {
  await world?.stop();
  await cluster?.stop();
  world = cluster = undefined;
});

it.skipIf(testRedisUrl() === null)(
  'events are applied through a cluster, flushed, and without the node that had them',
  async () => {
    cluster = await startRedisCluster();
    const w = (world = await createWorld({
      redisUrl: cluster.url,
      simulator: { users: 150 },
      env: { BREAKER_MAX_PERCENT: '100' },
    }));
    await w.untilFilled();
    w.deliver({ envelope: 'mixed' });
    const { directory, delivery, requests } = w.simulator;
    requests.reset();

    let round = 0;
    const happen = async () => {
      directory.createMany(5);
      for (const userId of realUserIds(w).slice(0, 20)) {
        directory.modifyUser(userId, { name: `Round ${++round}` });
      }
      directory.deleteMany(realUserIds(w).slice(30, 33));
      await delivery.idle();
    };

    await happen();
    await w.untilEqual();
    const counts = await cluster.keyCounts();
    expect(counts.filter((keys) => keys > 0)).toHaveLength(1);

    await happen();
    await cluster.flush();
    await w.untilEqual();

    const startAgain = await cluster.killFullest();
    await happen();
    expect(delivery.counters).toMatchObject({ acked: delivery.counters.sent, refused: 0 });
    await startAgain();
    await w.untilEqual(30_000);
    // No pull has helped.
    expect(requests.countOf('userSearch')).toBe(0);
  },
);
