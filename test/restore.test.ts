import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import { compareWithDirectory } from '../src/commands/compare.ts';
import { createLogger } from '../src/log.ts';
import { createReleaseStack } from '../src/release.ts';
import { startService } from '../src/service.ts';
import { copyDatabase, type TestDatabase } from './support/database.ts';
import { eventually } from './support/eventually.ts';
import { testRedisUrl } from './support/redis.ts';
import { createScene, HMAC_SECRET, realUserIds, type Scene } from './support/world.ts';

/*
 * The mirror's Postgres is lost and restored from a backup: its watermarks are as old as its rows, so the
 * pulls go on from there. What a queue on Redis still holds is of the lost time, and harmless.
 */

let releases = createReleaseStack();
afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

/** A directory, its mirror in a database, and how that was when it was just filled. */
async function begin(redisUrl: string | null): Promise<{ scene: Scene; backup: TestDatabase }> {
  const scene = await createScene({
    redisUrl,
    simulator: { users: 200 },
    env: {
      PULL_MODIFIED_CRON: '* * * * * *',
      PULL_AUDIT_CRON: '* * * * * *',
      PULL_SETTLE_SECONDS: '0',
      BREAKER_MAX_PERCENT: '100',
    },
  });
  releases.push('scene', () => scene.stop());
  const filling = await serve(scene, scene.database);
  await scene.untilFilled();
  await filling.stop();
  const backup = await copyDatabase(scene.database.url);
  releases.push('backup', () => backup.drop());
  return { scene, backup };
}

/** A service on this database, which hears of what happens. */
async function serve(
  { config, simulator }: Scene,
  database: TestDatabase,
): Promise<{ stop(): Promise<void> }> {
  const log = createLogger({ level: 'silent' });
  const service = await startService({ config, log, databaseUrl: database.url, role: 'all' });
  releases.push('service', () => service.stop());
  simulator.delivery.configure({
    url: `http://127.0.0.1:${service.publicPort}/webhooks/descope`,
    hmacSecret: HMAC_SECRET,
  });
  return service;
}

async function untilEqual({ simulator }: Scene, { mirror }: TestDatabase): Promise<void> {
  await eventually(
    async () => {
      const { differences } = await compareWithDirectory(simulator.directory, mirror, false);
      expect(differences).toEqual([]);
    },
    { timeoutMs: 30_000, everyMs: 100 },
  );
}

async function readSweeps({ mirror: { db, t } }: TestDatabase): Promise<string[]> {
  const { rows } = await db.execute<{ reason: string }>(
    sql`select reason from ${t.syncRuns} where pull = 'sweep' order by run_id`,
  );
  return rows.map(({ reason }) => reason);
}

/** What the backup does not know of. */
function liveOn({ simulator: { directory } }: Scene, userIds: readonly string[]): void {
  directory.createMany(15);
  for (const userId of userIds.slice(0, 20)) directory.modifyUser(userId, { name: 'Changed' });
  directory.deleteMany(userIds.slice(20, 30));
}

describe.each([
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const)('a mirror restored from a backup, with the queue on %s', (queue, redisUrl) => {
  const isAway = queue === 'redis' && redisUrl === null;

  it.skipIf(isAway)(
    'catches up by its pulls alone, from the watermarks restored with it',
    async () => {
      const { scene, backup } = await begin(redisUrl);
      const userIds = realUserIds(scene);
      // Life goes on, and is told; then the database is lost, and life goes on untold.
      const doomed = await serve(scene, scene.database);
      liveOn(scene, userIds);
      await scene.simulator.delivery.idle();
      await untilEqual(scene, scene.database);
      await doomed.stop();
      scene.simulator.delivery.configure(undefined);
      liveOn(scene, userIds.slice(50));

      await serve(scene, backup);
      await untilEqual(scene, backup);
      expect(await readSweeps(backup)).toHaveLength(1);
    },
    120_000,
  );

  it.skipIf(isAway)(
    'sweeps unasked where the audit trail no longer reaches back to it',
    async () => {
      const { scene, backup } = await begin(redisUrl);
      const { db, t } = backup.mirror;
      // As if the backup were 40 days old: what was deleted then is no longer told.
      await db.execute(
        sql`update ${t.watermarks} set complete_to = complete_to - interval '40 days'`,
      );
      const gone = realUserIds(scene).slice(0, 5);
      scene.simulator.directory.deleteMany(gone, { event: false });

      await serve(scene, backup);
      await untilEqual(scene, backup);
      expect(await readSweeps(backup)).toEqual([
        'first fill',
        'the audit trail no longer reaches back to the last pull',
      ]);
    },
    120_000,
  );
});
