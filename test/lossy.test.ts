import { afterEach, describe, expect, it } from 'vitest';

import { actOnce, DEFAULT_MIX } from '../src/simulator/traffic.ts';
import { createRandom } from '../src/simulator/random.ts';
import { testRedisUrl } from './support/redis.ts';
import { createWorld, type World } from './support/world.ts';

let world: World | undefined;
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

const INTERVAL_MS = 10_000;

describe.each([
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const)('with the queue on %s', (queue, redisUrl) => {
  it.skipIf(queue === 'redis' && redisUrl === null)(
    'a webhook that loses a third, doubles a fifth and shuffles is made good within two pulls, without a sweep (G2)',
    async () => {
      const w = await createWorld({
        redisUrl,
        simulator: { users: 600, behaviour: { unknownIds: 'fail' } },
        env: {
          PULL_MODIFIED_CRON: '*/10 * * * * *',
          PULL_AUDIT_CRON: '*/10 * * * * *',
          PULL_SETTLE_SECONDS: '1',
          // The deletions of this history are real, and more than a careful breaker would let pass.
          BREAKER_MAX_COUNT: '1000',
          BREAKER_MAX_PERCENT: '100',
        },
      });
      world = w;
      await w.untilFilled(30_000);
      w.deliver({
        envelope: 'mixed',
        batchMax: 5,
        policy: { dropRate: 0.33, doubleRate: 0.2, reorderRate: 0.5, delayMs: [0, 500] },
      });
      const random = createRandom(7);
      const mix = { ...DEFAULT_MIX, login: 0, delete: 20 };
      for (let change = 0; change < 200; change++) actOnce(w.simulator.directory, mix, random);
      await w.simulator.delivery.idle();
      await w.untilEqual(2 * INTERVAL_MS);

      const { dropped, doubled } = w.simulator.delivery.counters;
      expect(dropped).toBeGreaterThan(40);
      expect(doubled).toBeGreaterThan(10);
      const sweeps = await w.database.mirror.pool.query(
        `select 1 from descope.sync_runs where pull = 'sweep'`,
      );
      expect(sweeps.rowCount).toBe(1);
    },
  );
});
