import { Redis } from 'ioredis';
import { sql } from 'drizzle-orm';
import { afterEach, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as doctor from '../../src/commands/doctor.ts';
import { parseConfig } from '../../src/config.ts';
import { claimProject } from '../../src/mirror/project.ts';
import { createReleaseStack } from '../../src/release.ts';
import { freePort, startRedisServer } from '../support/redisServer.ts';
import { createScene, realUserIds, type Scene, type WorldOptions } from '../support/world.ts';
import { runCommand } from './context.ts';

/*
 * Set-ups that are broken in one way each, as operators have them: the doctor's line names the fault and
 * what to do about it, and no other line is bad. Details of each check are in `doctor.test.ts` and
 * `doctorQueue.test.ts`.
 */

let releases = createReleaseStack();
afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

type Settings = Readonly<Record<string, string>>;

interface Fault {
  /** Breaks the set-up, and tells what is set differently for it; null where it cannot be had here. */
  readonly breakIt: (s: Scene) => Settings | null | Promise<Settings | null>;
  readonly world?: WorldOptions;
  /** The line: how bad, of what, what is wrong, what to do. */
  readonly line: readonly ['bad' | 'warning', string, RegExp, RegExp];
}

const simulated = (behaviour: NonNullable<WorldOptions['simulator']>['behaviour'] = {}) => ({
  simulator: { users: 150, behaviour },
});
/** The next requests of a kind are refused for want of a right. */
const forbid = (path: 'search' | 'audit' | 'load') => (s: Scene) => {
  s.simulator.faults.next('status403', { path, times: 9 });
  return {};
};
const change =
  (statement: (role: string) => string) =>
  async (s: Scene): Promise<Settings> => {
    await s.query(sql.raw(statement(new URL(s.database.url).username)));
    return {};
  };

let agoMs = 0;

const FAULTS: Readonly<Record<string, Fault>> = {
  'a wrong management key': {
    breakIt: () => ({ DESCOPE_MANAGEMENT_KEY: 'K2wrong' }),
    line: ['bad', 'credentials', /HTTP 401.* so it is the key/, /check DESCOPE_MANAGEMENT_KEY/],
  },
  'a wrong project id': {
    breakIt: () => ({ DESCOPE_PROJECT_ID: `P${'3'.repeat(27)}` }),
    line: ['bad', 'credentials', /knows no project P3+/, /set DESCOPE_PROJECT_ID/],
  },
  'a key without the role': {
    breakIt: forbid('search'),
    line: ['bad', 'credentials', /HTTP 403.*lacks the role/, /Management Keys/],
  },
  'a base URL where nobody answers': {
    breakIt: async () => ({ DESCOPE_BASE_URL: `http://127.0.0.1:${await freePort()}` }),
    line: ['bad', 'credentials', /ECONNREFUSED/, /is DESCOPE_BASE_URL right/],
  },
  'the mirror of another project': {
    async breakIt(s) {
      await claimProject(s.database.mirror, 'Panother');
      return {};
    },
    line: ['bad', 'mirror', /project Panother, but DESCOPE_PROJECT_ID is P/, /MIRROR_SCHEMA or/],
  },
  'a time unit that is set wrong': {
    world: simulated({ timeUnit: 's' }),
    breakIt: () => ({ DESCOPE_TIME_UNIT: 'ms' }),
    line: ['bad', 'time unit', /DESCOPE_TIME_UNIT/, /unset DESCOPE_TIME_UNIT/],
  },
  'a page size above the largest': {
    world: simulated(),
    breakIt: () => ({ PAGE_SIZE: '500' }),
    line: [
      'warning',
      'page size',
      /PAGE_SIZE is 500, but only 100 users come/,
      /set PAGE_SIZE=100/,
    ],
  },
  'a key that may not search the audit trail': {
    breakIt: forbid('audit'),
    line: ['bad', 'audit trail', /may not search the audit trail/, /role that may read audit/],
  },
  'a key that may not load users': {
    breakIt: forbid('load'),
    line: ['bad', 'batch load', /refuses the management key for users load/, /role/],
  },
  'a clock that is minutes off': {
    world: simulated({ clockSkewMs: 180_000 }),
    breakIt: () => ({}),
    line: ['warning', 'clock', /clock is 3 min behind Descope's/, /NTP/],
  },
  'a Postgres that is down': {
    breakIt(s) {
      const url = new URL(s.database.url);
      url.port = '1';
      return { DATABASE_URL: url.toString() };
    },
    line: ['bad', 'postgres', /ECONNREFUSED/, /cannot reach Postgres.*DATABASE_URL/],
  },
  'a role without rights to the tables': {
    breakIt: change((role) => `revoke insert on descope.users from "${role}"`),
    line: ['bad', 'postgres rights', /may not read and write users/, /^grant select, insert, /],
  },
  'a schema that is behind': {
    breakIt: change(
      () => `delete from descope.migrations
             where migration_id = (select max(migration_id) from descope.migrations)`,
    ),
    line: ['warning', 'schema', /1 migration behind/, /rollcall migrate/],
  },
  'a Redis that is down': {
    breakIt: () => ({ REDIS_URL: 'redis://127.0.0.1:1' }),
    line: ['bad', 'redis', /cannot be reached .*ECONNREFUSED/, /start Redis, or set REDIS_URL/],
  },
  'a Redis that evicts': {
    async breakIt() {
      const server = await startRedisServer();
      if (!server) return null;
      releases.push('Redis', () => server.stop());
      const redis = new Redis(server.url);
      await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
      redis.disconnect();
      return { REDIS_URL: server.url };
    },
    line: ['warning', 'redis eviction', /allkeys-lru/, /maxmemory-policy noeviction/],
  },
  'a webhook without authentication': {
    breakIt: () => ({ WEBHOOK_HMAC_SECRETS: '' }),
    line: ['bad', 'webhook secrets', /none is set: anybody/, /set WEBHOOK_HMAC_SECRETS/],
  },
  'a webhook secret that can be guessed': {
    breakIt: () => ({ WEBHOOK_HMAC_SECRETS: 'hunter2' }),
    line: [
      'bad',
      'webhook secrets',
      /WEBHOOK_HMAC_SECRETS can be guessed/,
      /openssl|webhook create/,
    ],
  },
  'no connector, or one whose secret is another': {
    world: { simulator: { users: 150, now: () => Date.now() - agoMs } },
    async breakIt(s) {
      agoMs = 3_600_000;
      expect((await runCommand(backfill, s)).exitCode).toBe(0);
      const [one = ''] = realUserIds(s);
      s.simulator.directory.modifyUser(one, { name: 'Somebody Else' });
      agoMs = 0;
      return {};
    },
    line: ['bad', 'deliveries', /no webhook .* has 1 event about users/, /webhook check --wait/],
  },
};

it.each(Object.entries(FAULTS))('%s is named, with the remedy', async (_what, fault) => {
  const { breakIt, world = { simulator: { users: 20 } }, line } = fault;
  const scene = await createScene(world);
  releases.push('scene', () => scene.stop());
  const settings = await breakIt(scene);
  if (settings === null) return;
  const config = parseConfig({ ...scene.env, ...settings }, NEEDS);
  const told = await runCommand(doctor, { config, logs: scene.logs });
  const lines = told.stdout.map((text) => text.split('\t'));
  const [verdict, name, found, remedy] = line;
  const bad = lines.filter(([how]) => how === 'bad').map(([, what]) => what);
  expect(bad).toEqual(verdict === 'bad' ? [name] : []);
  expect(lines).toContainEqual([
    ...[verdict, name],
    ...[expect.stringMatching(found) as string, expect.stringMatching(remedy) as string],
  ]);
  expect(told.exitCode).toBe(verdict === 'bad' ? 3 : 0);
});

/** As the command line asks of the settings for a doctor. */
const NEEDS = { descope: true, receives: false, serves: false };
