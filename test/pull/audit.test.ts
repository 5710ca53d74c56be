import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { DescopeUnavailable } from '../../src/errors.ts';
import { openSweep } from '../../src/pull/ledger.ts';
import { realUserIds } from '../support/world.ts';
import { beginFilled, beginPullScene, type PullScene } from './pullScene.ts';

const SECONDS = 1_000;
const DAYS = 86_400 * SECONDS;

async function countEvents(s: PullScene): Promise<number> {
  const [found] = await s.query<{ n: number }>(
    sql`select count(*)::int as n from ${s.database.mirror.t.events} where audit_at is not null`,
  );
  return found?.n ?? 0;
}

describe('pulling the audit trail', () => {
  it('has nothing to go on from before a sweep has begun', async () => {
    const scene = await beginPullScene();
    expect(await scene.pullAudit()).toBe('notBegun');
  });

  for (const auditBounds of ['inclusive', 'exclusive'] as const) {
    it(`finds deletions that no webhook told of, bounds ${auditBounds}`, async () => {
      const s = await beginFilled({ simulator: { users: 300, behaviour: { auditBounds } } });
      const gone = realUserIds(s).slice(0, 8);
      s.ago(5 * SECONDS, () => {
        s.simulator.directory.deleteMany(gone.slice(0, 4));
        s.simulator.directory.deleteBatch(gone.slice(4));
      });
      expect(await s.pullAudit()).toBe('done');
      expect(await s.applyEvents()).toBe(5);
      await s.assertEqual();
      expect(await s.deletions()).toEqual({ tombstoned: 8 });
      const lagMs = s.simulator.directory.clockMs() - ((await s.watermark('audit')) ?? 0);
      expect(lagMs).toBeLessThan(10 * SECONDS);
    });
  }

  it('reads as many pages as there are, and the same events once', async () => {
    const s = await beginFilled({ simulator: { users: 30 } });
    s.ago(30 * SECONDS, () => {
      for (let nth = 0; nth < 2_600; nth++) {
        // A millisecond apart: two of one user in one millisecond are one hint.
        s.clock.shiftMs += 1;
        s.simulator.directory.createUser({ createdMs: Date.now() - 3_600 * SECONDS });
      }
      s.clock.shiftMs -= 2_600;
    });
    const before = s.simulator.requests.countOf('audit');
    expect(await s.pullAudit()).toBe('done');
    expect(await countEvents(s)).toBe(2_600);
    expect(s.simulator.requests.countOf('audit') - before).toBe(3);
    // The overlap brings them all again.
    expect(await s.pullAudit()).toBe('done');
    expect(await countEvents(s)).toBe(2_600);
  });

  it('loses nothing to a trail that tells its records late', async () => {
    const s = await beginFilled({
      simulator: { users: 60, behaviour: { auditLagMs: 20 * SECONDS } },
    });
    s.ago(10 * SECONDS, () => s.simulator.directory.deleteMany(realUserIds(s).slice(0, 1)));
    await s.pullAudit();
    expect(await countEvents(s)).toBe(0);
    s.clock.shiftMs = 15 * SECONDS;
    s.restart();
    await s.pullAudit();
    expect(await countEvents(s)).toBe(1);
    await s.applyEvents();
    await s.assertEqual();
  });

  it.each([600, -600])('goes by the clock of a Descope that is %i s off', async (skewSeconds) => {
    const s = await beginFilled({
      simulator: { users: 60, behaviour: { clockSkewMs: skewSeconds * SECONDS } },
    });
    for (let turn = 0; turn < 2; turn++) {
      s.ago(5 * SECONDS, () => s.simulator.directory.deleteMany(realUserIds(s).slice(0, 1)));
      s.restart();
      await s.pullAudit();
      expect(await s.applyEvents()).toBe(1);
      await s.assertEqual();
    }
  });

  it('leaves a gap where it fails, and the next one closes it', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    await s.pullAudit();
    const watermark = await s.watermark('audit');
    s.ago(5 * SECONDS, () => s.simulator.directory.deleteMany(realUserIds(s).slice(0, 1)));
    s.simulator.faults.next('status500', { path: 'audit', times: 6 });
    await expect(s.pullAudit()).rejects.toThrow(DescopeUnavailable);
    expect(await s.watermark('audit')).toBe(watermark);
    expect((await s.windows('audit')).at(-1)).toMatchObject({ state: 'gap' });
    await s.pullAudit();
    expect((await s.windows('audit')).map((window) => window.state)).toEqual([
      'proven',
      'proven',
      'proven',
    ]);
    await s.applyEvents();
    await s.assertEqual();
  });

  it('says so where the trail no longer reaches back, and opens a sweep', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    const { mirror } = s.database;
    s.simulator.directory.deleteMany(realUserIds(s).slice(0, 3));
    // A month later.
    s.clock.shiftMs = 31 * DAYS;
    s.restart();
    expect(await s.pullAudit()).toBe('sweep');
    expect(await openSweep(mirror.db, mirror)).toMatchObject({
      reason: expect.stringContaining('no longer reaches back') as string,
    });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 3 });
    await s.assertEqual();
    // The sweep stands in for what the trail no longer tells.
    expect(await s.pullAudit()).toBe('done');
  });
});
