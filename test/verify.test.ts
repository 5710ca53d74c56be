import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import { createEngine, type Engine } from '../src/engine.ts';
import { createLogger } from '../src/log.ts';
import { rows } from '../src/mirror/database.ts';
import { verifySample } from '../src/pull/sample.ts';
import { verifyMirror } from '../src/pull/verify.ts';
import {
  createScene,
  createWorld,
  realUserIds,
  type Scene,
  type WorldOptions,
} from './support/world.ts';

import type { Verification } from '../src/pull/drift.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

/** The engine a foreground command would have. */
function engineOf({ config, database }: Scene): Engine {
  const log = createLogger({ level: 'silent' });
  return createEngine({ config, log, mirror: database.mirror, queues: null });
}

/** A filled mirror, and an engine beside it. */
async function filled(users: number, options: WorldOptions = {}) {
  const env = { PULL_SETTLE_SECONDS: '0', ...options.env };
  const world = await createWorld({
    ...options,
    simulator: { users, ...options.simulator },
    env,
  });
  scene = world;
  await world.untilFilled(30_000);
  return { world, engine: engineOf(world) };
}

/** The oldest user that is no test user. */
function someone(s: Scene): string {
  return realUserIds(s)[0] ?? '';
}

async function status(engine: Engine) {
  const { db, t } = engine.mirror;
  const [row] = await rows<{ drift_ppm: number; last_proof: string }>(
    db,
    sql`select drift_ppm, last_proof from ${t.syncStatus}`,
  );
  return row;
}

/** How many users the last verification compared field by field; null: everyone. */
async function sampled({ mirror }: Engine) {
  const [row] = await rows<{ drift_sample: number | null }>(
    mirror.db,
    sql`select drift_sample from ${mirror.t.syncStatus}`,
  );
  return row?.drift_sample;
}

/** A light verification of a mirror that has been filled. */
async function sample({ jobs, signal }: Engine): Promise<Verification> {
  const found = await verifySample(jobs.verify, signal);
  if (!found) throw new Error('no sweep has completed');
  return found;
}

describe('verify', () => {
  it('finds nothing in an equal mirror, and says when that was proven', async () => {
    const { world, engine } = await filled(500);
    const before = await status(engine);
    const found = await verifyMirror(engine.jobs.verify, false, engine.signal);
    expect(found).toMatchObject({
      compared: world.simulator.directory.realSize,
      driftPpm: 0,
      drift: { missing: [], extra: [], different: [] },
    });
    const after = await status(engine);
    expect(after?.drift_ppm).toBe(0);
    expect(await sampled(engine)).toBeNull();
    expect(Date.parse(after?.last_proof ?? '')).toBeGreaterThan(
      Date.parse(before?.last_proof ?? ''),
    );
  });

  it('finds one silent change, one missing and one extra user, writes nothing, and repairs them when told', async () => {
    const { world: w, engine } = await filled(800);
    const before = await status(engine);
    const [changed = '', gone = ''] = realUserIds(w);
    w.simulator.directory.modifyUser(changed, { givenName: 'Quiet' }, { event: false });
    const created = w.simulator.directory.createUser({ test: false }, { event: false });
    w.simulator.directory.deleteUser(gone, { event: false });

    const found = await verifyMirror(engine.jobs.verify, false, engine.signal);
    expect(found.drift).toEqual({
      missing: [created.userId],
      extra: [gone],
      different: [{ userId: changed, fields: ['givenName'] }],
    });
    // Of the users of both sides: the one that is gone is no longer the directory's.
    expect(found.compared).toBe(w.simulator.directory.realSize + 1);
    expect(found.driftPpm).toBeCloseTo(3e6 / found.compared);
    expect(await status(engine)).toEqual({
      drift_ppm: expect.closeTo(found.driftPpm) as number,
      last_proof: before?.last_proof,
    });
    await expect(w.assertEqual()).rejects.toThrow('3 differences');

    const mended = await verifyMirror(engine.jobs.verify, true, engine.signal);
    expect(mended).toMatchObject({ repaired: 3, held: 0 });
    await w.assertEqual();
  });

  it('counts a tombstone of somebody who is there as missing, and lifts it when told', async () => {
    const { world: w, engine } = await filled(100);
    const userId = someone(w);
    await w.query(sql`
      update ${engine.mirror.t.users} set deleted_at = clock_timestamp() where user_id = ${userId}`);
    const { drift } = await verifyMirror(engine.jobs.verify, false, engine.signal);
    expect(drift).toEqual({ missing: [userId], extra: [], different: [] });
    const mended = await verifyMirror(engine.jobs.verify, true, engine.signal);
    expect(mended).toMatchObject({ repaired: 1, held: 0 });
    await w.assertEqual();
  });

  it('counts nothing as drift that arrives while it looks', async () => {
    const { world: w, engine } = await filled(300);
    const { directory } = w.simulator;
    const [changed = '', gone = ''] = realUserIds(w);
    const { client } = engine.jobs.verify;
    const arriving: typeof client = {
      ...client,
      loadUsers: async (userIds, call) => {
        const answer = await client.loadUsers(userIds, call);
        // Between the load and the look into the mirror: the directory changes again, and that is applied.
        directory.modifyUser(changed, { givenName: 'Newest' });
        directory.deleteUser(gone);
        await w.untilEqual();
        return answer;
      },
    };
    directory.modifyUser(changed, { givenName: 'Quiet' }, { event: false });
    directory.modifyUser(gone, { givenName: 'Quiet' }, { event: false });
    w.deliver();
    const deps = { ...engine.jobs.verify, client: arriving };
    expect(await verifyMirror(deps, false, engine.signal)).toMatchObject({
      driftPpm: 0,
      drift: { missing: [], extra: [], different: [] },
    });
  });

  it('holds the deletions of a repair above the breaker (G4)', async () => {
    const { world: w, engine } = await filled(200, { env: { BREAKER_MAX_COUNT: '5' } });
    w.simulator.directory.deleteMany(realUserIds(w).slice(0, 20), { event: false });
    const found = await verifyMirror(engine.jobs.verify, true, engine.signal);
    expect(found.held).toBe(20);
    await expect(w.assertEqual()).rejects.toThrow('20 differences');
  });
});

describe('the light verify', () => {
  it('asks nothing and tells no drift while the mirror is filling', async () => {
    scene = await createScene({ simulator: { users: 300 } });
    const { jobs, signal, mirror } = engineOf(scene);
    expect(await verifySample(jobs.verify, signal)).toBeNull();
    expect(scene.simulator.requests.summary()).not.toHaveProperty('userSearch');
    expect(await scene.query(sql`select 1 from ${mirror.t.syncRuns}`)).toEqual([]);
  });

  it('finds by counts who is missing and who is one too many, and tells their share', async () => {
    const { world: w, engine } = await filled(1_000);
    expect(await sample(engine)).toMatchObject({ driftPpm: 0 });
    expect(await status(engine)).toMatchObject({ drift_ppm: 0 });
    expect(await sampled(engine)).toBe(100);

    const { directory } = w.simulator;
    const gone = someone(w);
    directory.deleteUser(gone, { event: false });
    const monthAgo = Date.now() - 30 * 86_400_000;
    const created = directory.createUser({ test: false, createdMs: monthAgo }, { event: false });
    // The oldest is gone and a new one there: the directory is as large as it was.
    const found = await sample(engine);
    expect(found.drift).toEqual({ missing: [created.userId], extra: [gone], different: [] });
    expect(found.compared).toBe(directory.realSize + 1);
    expect(found.driftPpm).toBeCloseTo(2e6 / found.compared);
    expect(await status(engine)).toMatchObject({ drift_ppm: found.driftPpm });
  });

  it('counts all who are lost in many places, and stops asking who they are', async () => {
    const { world: w, engine } = await filled(1_500, { env: { PAGE_SIZE: '20' } });
    const { directory } = w.simulator;
    const before = directory.realSize;
    const lost = realUserIds(w).filter((_, at) => at % 20 === 0);
    directory.deleteMany(lost, { event: false });
    const found = await sample(engine);
    expect(found.drift.extra.length).toBeLessThan(lost.length);
    expect(found.compared).toBe(before);
    expect(found.driftPpm).toBeCloseTo((lost.length * 1e6) / before);
    expect(found.requests).toBeLessThan(120);
  });

  it('estimates from its sample how many differ, also among users imported at once', async () => {
    const { world: w, engine } = await filled(2_000, { simulator: { sameInstant: 2_000 } });
    const users = realUserIds(w);
    for (const userId of users.filter((_, at) => at % 2 === 0)) {
      w.simulator.directory.modifyUser(userId, { givenName: 'Quiet' }, { event: false });
    }
    const { driftPpm } = await sample(engine);
    // Half of all, give or take five standard deviations of a hundred draws.
    expect(driftPpm).toBeGreaterThan(250_000);
    expect(driftPpm).toBeLessThan(750_000);
  });

  it('goes on telling the drift that a full verify left, until everyone is compared again', async () => {
    const { world: w, engine } = await filled(1_500);
    w.simulator.directory.modifyUser(someone(w), { givenName: 'Quiet' }, { event: false });
    const { driftPpm } = await verifyMirror(engine.jobs.verify, false, engine.signal);
    expect(driftPpm).toBeGreaterThan(0);
    // Three times: a sample may happen to hold the one who differs.
    for (let times = 0; times < 3; times++) {
      expect((await sample(engine)).driftPpm).toBeGreaterThanOrEqual(driftPpm);
    }
    await verifyMirror(engine.jobs.verify, true, engine.signal);
    expect((await sample(engine)).driftPpm).toBe(0);
  });

  it('believes no count that is wrongly nobody', async () => {
    const { engine } = await filled(500);
    const { client } = engine.jobs.verify;
    let counts = 0;
    const lying: typeof client = {
      ...client,
      searchUsers: async (query, call) => {
        const page = await client.searchUsers(query, call);
        const isLie = query.toMs !== undefined && counts++ % 2 === 0;
        return isLie ? { ...page, users: [], total: 0 } : page;
      },
    };
    const found = await verifySample({ ...engine.jobs.verify, client: lying }, engine.signal);
    expect(found?.driftPpm).toBe(0);
    expect(counts).toBeGreaterThan(1);
  });
});
