import { afterEach, describe, expect, it } from 'vitest';

import { testRedisUrl } from './support/redis.ts';
import { createWorld, type World, type WorldOptions } from './support/world.ts';

let world: World | undefined;
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

async function begin(options: WorldOptions): Promise<World> {
  world = await createWorld(options);
  return world;
}

const QUEUES = [
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const;

for (const [queue, redisUrl] of QUEUES) {
  describe.skipIf(queue === 'redis' && redisUrl === null)(`with the queue on ${queue}`, () => {
    for (const timeUnit of ['ms', 's'] as const) {
      it(`fills an empty mirror, users of one instant included, when times are in ${timeUnit}`, async () => {
        const w = await begin({
          redisUrl,
          simulator: { users: 2_640, sameInstant: 340, behaviour: { timeUnit } },
        });
        await w.untilEqual(30_000);
        expect(w.simulator.requests.tooMany).toBe(0);
        expect(w.simulator.requests.countOf('userSearch')).toBeLessThan(60);
      });
    }

    it('follows sign-ups, changes and deletions by webhook', async () => {
      const w = await begin({ redisUrl, simulator: { users: 50 } });
      await w.untilEqual();
      w.deliver();
      const { directory, delivery } = w.simulator;
      const created = directory.createMany(10);
      for (const user of created.slice(0, 5)) {
        directory.modifyUser(user.userId, { name: 'Somebody Else' });
      }
      directory.deleteMany(created.slice(5, 8).map((user) => user.userId));
      await delivery.idle();
      await w.untilEqual();
    });
  });
}
