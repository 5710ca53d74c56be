import { afterEach, describe, expect, it } from 'vitest';

import { pullModified } from '../../jobs/pullModified.ts';
import { migrateQueues, openQueues, type QueueSettings } from '../../jobs/queues.ts';
import * as status from '../../src/commands/status.ts';
import { readMirrorId } from '../../src/mirror/database.ts';
import { createReleaseStack } from '../../src/release.ts';
import { testRedisUrl } from '../support/redis.ts';
import { createScene, type Scene } from '../support/world.ts';
import { runCommand, textOf } from './context.ts';

/* What `rollcall status` tells of the queue, which it asks over connections of its own. */

let releases = createReleaseStack();
afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

async function begin(redisUrl: string | null): Promise<Scene> {
  const scene = await createScene({ simulator: { users: 1 }, redisUrl });
  releases.push('scene', () => scene.stop());
  return scene;
}

describe.each([
  ['Postgres', null],
  ['Redis', testRedisUrl()],
] as const)('a queue in %s', (name, redisUrl) => {
  it.skipIf(name === 'Redis' && redisUrl === null)('is counted', async () => {
    const scene = await begin(redisUrl);
    const { mirror, url } = scene.database;
    const settings: QueueSettings = {
      redisNodes: scene.config.REDIS_URL,
      databaseUrl: url,
      schema: mirror.schema,
      mirrorId: await readMirrorId(mirror),
      onError: () => undefined,
    };
    await migrateQueues(settings);
    const queues = openQueues(settings);
    releases.push('queues', () => queues.stop());
    await queues.enqueueAll(pullModified, [{}, {}]);
    await queues.enqueue(pullModified, {}, { delayMs: 60_000 });

    const told = await runCommand(status, scene, {}, { json: true });
    expect(told.json()).toMatchObject({
      queues: [
        { name: 'events', waiting: 0, active: 0, delayed: 0, failed: 0 },
        { name: 'pulls', waiting: 2, active: 0, delayed: 1, failed: 0 },
      ],
      queueProblem: null,
    });
    const { stdout } = await runCommand(status, scene);
    expect(stdout.join('\n')).toMatch(/pulls +2 waiting, 0 active, 1 delayed, 0 failed/);
  });
});

it('says why a queue cannot be asked, and all the rest', async () => {
  const scene = await begin('redis://:hunter2@127.0.0.1:1');
  const told = await runCommand(status, scene);
  expect(told.stdout.join('\n')).toMatch(/queue +cannot be asked: .*ECONNREFUSED/);
  expect(told.stdout.join('\n')).toMatch(/users +0 live/);
  expect(textOf(told)).not.toContain('hunter2');
});
