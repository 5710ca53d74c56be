import { expect, onTestFinished, test } from 'vitest';

import { lookUp } from '../../src/apply/lookUp.ts';
import { createEngine } from '../../src/engine.ts';
import { createLogger } from '../../src/log.ts';
import { createScene, realUserIds } from '../support/world.ts';

test('where an unknown id fails a batch, whoever is likely to be gone is soon asked for apart', async () => {
  const scene = await createScene({ simulator: { users: 80, behaviour: { unknownIds: 'fail' } } });
  onTestFinished(() => scene.stop());
  const { config, database, simulator } = scene;
  const log = createLogger({ level: 'silent' });
  const { client } = createEngine({ config, log, mirror: database.mirror, queues: null }).jobs
    .verify;
  const userIds = realUserIds(scene).slice(0, 60);
  const gone = userIds.filter((_, at) => at % 20 === 7);
  simulator.directory.deleteMany(gone, { event: false });

  const look = async () => {
    const before = simulator.requests.countOf();
    const { signal } = new AbortController();
    const suspected = (userId: string) => gone.includes(userId);
    const found = await lookUp(client, userIds, suspected, { priority: 'event', signal });
    expect(found.present).toHaveLength(57);
    expect(found.absent.map(({ userId }) => userId).sort()).toEqual([...gone].sort());
    return simulator.requests.countOf() - before;
  };
  expect(await look()).toBeGreaterThan(20);
  expect(await look()).toBe(1 + gone.length);
});
