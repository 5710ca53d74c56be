import { describe, expect, it } from 'vitest';

import { startTraffic } from '../../src/simulator/traffic.ts';
import { beginPullScene } from './pullScene.ts';

describe('a first sweep fills the mirror', () => {
  const kinds = ['exclusive', 'inclusive'] as const;
  for (const timeUnit of ['ms', 's'] as const) {
    for (const fromBound of kinds) {
      for (const toBound of kinds) {
        it(`of 2,640 users, 340 of one instant: ${timeUnit}, from ${fromBound}, to ${toBound}`, async () => {
          // The documented limit and half of it, made ten times larger, so that it does not take long.
          const s = await beginPullScene({
            simulator: {
              users: 2_640,
              sameInstant: 340,
              behaviour: {
                timeUnit,
                fromBound,
                toBound,
                sendModifiedTime: fromBound === toBound,
                tieOrder: toBound === 'inclusive' ? 'shuffled' : 'stable',
                limits: { users: 2_000 },
              },
            },
            env: { API_BUDGET_PER_MINUTE: '1900' },
          });
          expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 0, held: 0 });
          await s.assertEqual();
          expect(s.simulator.requests.tooMany).toBe(0);
          expect(s.simulator.requests.countOf('userSearch')).toBeLessThan(45);
        });
      }
    }
  }

  it.each([
    ['where Descope clamps pages to 50', { PAGE_SIZE: '100' }, 50],
    ['in pages of 250', { PAGE_SIZE: '250' }, 1_000],
    ['in pages of 250 that are clamped to 100', { PAGE_SIZE: '250' }, 100],
    ['in pages of 7', { PAGE_SIZE: '7' }, 100],
  ])('%s', async (_, env, maxPageSize) => {
    const s = await beginPullScene({
      simulator: { users: 700, sameInstant: 120, behaviour: { maxPageSize } },
      env,
    });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete' });
    await s.assertEqual();
    const size = Math.min(Number(env.PAGE_SIZE), maxPageSize);
    expect(s.simulator.requests.countOf('userSearch')).toBeLessThan((700 / size) * 1.4 + 20);
  });

  it.each([0, 1, 2])('of %i users', async (users) => {
    const s = await beginPullScene({ simulator: { users } });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', users });
    await s.assertEqual();
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 0 });
    await s.assertEqual();
  });

  it.each(['true', 'false'])('with INCLUDE_TEST_USERS=%s', async (include) => {
    const s = await beginPullScene({
      simulator: { users: 600 },
      env: { INCLUDE_TEST_USERS: include },
    });
    const { directory } = s.simulator;
    expect(directory.realSize).toBeLessThan(directory.size);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete' });
    await s.assertEqual();
    const { live } = await s.countUsers();
    expect(live).toBe(include === 'true' ? directory.size : directory.realSize);
  });

  it('while users sign up, change and leave, and the pulls bring what it could not', async () => {
    const s = await beginPullScene({
      simulator: { users: 1_500, behaviour: { latencyMs: 20 } },
      env: { PAGE_SIZE: '40', PULL_SETTLE_SECONDS: '0' },
    });
    const traffic = startTraffic(s.simulator, { perSecond: 150 });
    const run = await s.runSweep();
    traffic.stop();
    expect(traffic.count).toBeGreaterThan(50);
    expect(run).toMatchObject({ outcome: 'complete', held: 0 });
    // A moment passes, so that all that happened lies before the pulls' end.
    s.clock.shiftMs = 3_000;
    s.restart();
    await s.pullModified();
    await s.pullAudit();
    while ((await s.applyEvents()) > 0);
    await s.assertEqual();
  });

  it.each([
    ['ms', 30_000],
    ['s', 9_000],
  ] as const)('with little more than a request a page, %s, %i users', async (timeUnit, users) => {
    const s = await beginPullScene({
      simulator: { users, behaviour: { timeUnit } },
      env: { INCLUDE_TEST_USERS: 'true' },
    });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', total: users });
    await s.assertEqual();
    // A page brings 99 new users, for the last one's second is read again; then half a page a window,
    // and a handful to find the unit, to plan and to count.
    const most = Math.ceil(users / 99) + 12;
    expect(s.simulator.requests.countOf('userSearch')).toBeLessThanOrEqual(most);
  });
});
