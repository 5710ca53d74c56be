import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import { createEngine, type Engine } from '../src/engine.ts';
import { createLogger } from '../src/log.ts';
import { rows } from '../src/mirror/database.ts';
import { verifySample } from '../src/pull/sample.ts';
import { verifyMirror } from '../src/pull/verify.ts';
import { createWorld, type World } from './support/world.ts';

let world: World | undefined;
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

/** A filled mirror, and the engine a foreground command would have. */
async function filled(users: number, env: Record<string, string> = {}) {
  world = await createWorld({ simulator: { users }, env: { PULL_SETTLE_SECONDS: '0', ...env } });
  await world.untilFilled(30_000);
  const engine = createEngine({
    config: world.config,
    log: createLogger({ level: 'silent' }),
    mirror: world.database.mirror,
    queues: null,
  });
  return { world, engine };
}

/** Any live user that is no test user. */
function someone(w: World): string {
  for (const user of w.simulator.directory.users()) if (!user.test) return user.userId;
  throw new Error('nobody there');
}

async function status(engine: Engine) {
  const { db, t } = engine.mirror;
  const [row] = await rows<{ drift_ppm: number; last_proof: string }>(
    db,
    sql`select drift_ppm, last_proof from ${t.syncStatus}`,
  );
  return row;
}

describe('verify', () => {
  it('finds nothing in an equal mirror, and says when that was proven', async () => {
    const { engine } = await filled(500);
    const found = await verifyMirror(engine.jobs.verify, false, engine.signal);
    expect(found).toMatchObject({ driftPpm: 0, drift: { missing: [], extra: [], different: [] } });
    expect(await status(engine)).toMatchObject({ drift_ppm: 0 });
  });

  it('finds one silent change, one missing and one extra user, writes nothing, and repairs them when told', async () => {
    const { world: w, engine } = await filled(800);
    const changed = someone(w);
    w.simulator.directory.modifyUser(changed, { givenName: 'Quiet' }, { event: false });
    const created = w.simulator.directory.createUser({ test: false }, { event: false });
    const [gone] = [...w.simulator.directory.users()].filter(
      (user) => !user.test && user.userId !== changed && user.userId !== created.userId,
    );
    w.simulator.directory.deleteUser(gone?.userId ?? '', { event: false });

    const found = await verifyMirror(engine.jobs.verify, false, engine.signal);
    expect(found.drift).toEqual({
      missing: [created.userId],
      extra: [gone?.userId],
      different: [{ userId: changed, fields: ['givenName'] }],
    });
    await expect(w.assertEqual()).rejects.toThrow('3 differences');

    const mended = await verifyMirror(engine.jobs.verify, true, engine.signal);
    expect(mended).toMatchObject({ repaired: 3, held: 0 });
    await w.assertEqual();
  });

  it('holds the deletions of a repair above the breaker (G4)', async () => {
    const { world: w, engine } = await filled(200, { BREAKER_MAX_COUNT: '5' });
    const everyone = [...w.simulator.directory.users()].filter((user) => !user.test);
    const doomed = everyone.slice(0, 20).map((user) => user.userId);
    w.simulator.directory.deleteMany(doomed, { event: false });
    const found = await verifyMirror(engine.jobs.verify, true, engine.signal);
    expect(found.held).toBe(20);
    await expect(w.assertEqual()).rejects.toThrow('20 differences');
  });

  it('finds by counts and a sample that somebody is missing', async () => {
    const { world: w, engine } = await filled(1_000);
    expect((await verifySample(engine.jobs.verify, engine.signal)).driftPpm).toBe(0);
    const created = w.simulator.directory.createUser(
      { test: false, createdMs: Date.now() - 86_400_000 * 30 },
      { event: false },
    );
    const found = await verifySample(engine.jobs.verify, engine.signal);
    expect(found.drift.missing).toEqual([created.userId]);
    expect(found.driftPpm).toBeGreaterThan(0);
    expect(await status(engine)).toMatchObject({ drift_ppm: found.driftPpm });
  });
});
