import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createEngine } from '../src/engine.ts';
import { createLogger } from '../src/log.ts';
import { verifySample } from '../src/pull/sample.ts';
import { startProcess } from './support/process.ts';
import { createScene, type Scene } from './support/world.ts';

/* The built program against a directory of 100,000 users. */

const USERS = 100_000;
const PAGES = USERS / 100;
/** A heap that could not hold them: memory that grew with the directory would end the command (G8). */
const SMALL_HEAP = { NODE_OPTIONS: '--max-old-space-size=64' };
const PATIENCE_MS = 600_000;

let scene: Scene;
beforeAll(async () => {
  // Test users too, so that one user is ten in a million.
  scene = await createScene({
    simulator: { users: USERS },
    env: { INCLUDE_TEST_USERS: 'true', PULL_SETTLE_SECONDS: '0', LOG_LEVEL: 'warn' },
  });
  expect(await rollcall(['backfill'], SMALL_HEAP)).toMatchObject({
    exit: 0,
    answer: { outcome: 'complete', total: USERS, created: USERS },
  });
}, PATIENCE_MS);
afterAll(() => scene.stop());

/** What a command answered, and how many searches it sent. */
interface Ran {
  readonly exit: number;
  readonly answer: Readonly<Record<string, unknown>>;
  readonly searches: number;
}

async function rollcall(args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  const { requests } = scene.simulator;
  const before = requests.countOf('userSearch');
  const child = startProcess([...args, '--json'], { env: { ...scene.env, ...env } });
  const exit = await child.exit;
  const last = child.stdout().trimEnd().split('\n').at(-1);
  if (!last) throw new Error(child.stderr());
  return {
    exit,
    answer: JSON.parse(last) as Record<string, unknown>,
    searches: requests.countOf('userSearch') - before,
  };
}

/** Differs when the row of any user is written or locked, or the feed grows. */
async function traces(): Promise<unknown> {
  const { t } = scene.database.mirror;
  return scene.query(sql`
    select count(*)::int as users, md5(string_agg(trace, ',' order by trace)) as rows,
           (select count(*)::int from ${t.userChanges}) as changes,
           (select md5(string_agg(concat_ws(' ', user_id, tenant_id, xmin, xmax), ','
                                  order by user_id, tenant_id)) from ${t.userTenants}) as tenants
    from (select concat_ws(' ', user_id, xmin, xmax) as trace from ${t.users}) as everyone`);
}

/** A user older than this part of all users. */
function someone(part: number): string {
  const everyone = [...scene.simulator.directory.users()];
  return everyone[Math.floor(everyone.length * part)]?.userId ?? '';
}

const NOBODY = { missing: [], extra: [], different: [] };
const SILENT = { event: false, moveModifiedTime: false };
const proofOf = ({ answer }: Ran) => String(answer['lastProof']);

describe('with 100,000 users', () => {
  it(
    'a sweep over unchanged users writes no user and no change',
    async () => {
      const before = await traces();
      expect(before).toMatchObject([{ users: USERS, changes: USERS }]);
      const { exit, answer, searches } = await rollcall(['backfill']);
      expect({ exit, answer }).toMatchObject({
        exit: 0,
        answer: { outcome: 'complete', created: 0, updated: 0, deleted: 0 },
      });
      expect(await traces()).toEqual(before);
      expect(searches).toBeLessThan(PAGES * 1.05);
    },
    PATIENCE_MS,
  );

  it(
    'verify finds one field that changed in silence, and who came and went; with --repair it mends them',
    async () => {
      const { directory } = scene.simulator;
      const [changed, gone] = [someone(0.2), someone(0.5)];
      const different = [{ userId: changed, fields: ['givenName'] }];
      directory.modifyUser(changed, { givenName: 'Quiet' }, SILENT);
      const before = await traces();
      const one = await rollcall(['verify'], SMALL_HEAP);
      expect(one).toMatchObject({
        exit: 3,
        answer: { outcome: 'drift', compared: USERS, drift: { ...NOBODY, different } },
      });
      expect(one.answer['driftPpm']).toBe(10);
      expect(await traces()).toEqual(before);
      expect(one.searches).toBeLessThan(PAGES * 1.05);

      directory.deleteUser(gone, SILENT);
      const { userId: created } = directory.createUser({}, SILENT);
      const mended = await rollcall(['verify', '--repair']);
      expect(mended).toMatchObject({
        exit: 0,
        answer: {
          outcome: 'equal',
          drift: { missing: [created], extra: [gone], different },
          repaired: 3,
          held: 0,
        },
      });

      const after = await rollcall(['verify']);
      expect(after).toMatchObject({ exit: 0, answer: { drift: NOBODY, driftPpm: 0 } });
      expect(proofOf(mended) > proofOf(one)).toBe(true);
      expect(proofOf(after) > proofOf(mended)).toBe(true);
      await scene.assertEqual();
    },
    PATIENCE_MS,
  );

  it(
    'the light verify takes a dozen requests, and some more to find who was deleted in silence',
    async () => {
      const { mirror } = scene.database;
      const log = createLogger({ level: 'silent' });
      const { jobs, signal } = createEngine({ config: scene.config, log, mirror, queues: null });
      const equal = await verifySample(jobs.verify, signal);
      expect(equal).toMatchObject({ driftPpm: 0, drift: NOBODY });
      expect(equal?.requests).toBeLessThan(14);

      const gone = someone(0.8);
      scene.simulator.directory.deleteUser(gone, SILENT);
      const found = await verifySample(jobs.verify, signal);
      expect(found?.drift).toEqual({ ...NOBODY, extra: [gone] });
      expect(found?.driftPpm).toBeCloseTo(10, 1);
      expect(found?.requests).toBeLessThan(35);
    },
    PATIENCE_MS,
  );
});
