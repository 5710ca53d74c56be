import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { DescopeUnauthorised, DescopeUnavailable, WindowUnproven } from '../../src/errors.ts';
import { openModifiedWindow, pullModified } from '../../src/pull/modified.ts';
import { transaction } from '../../src/mirror/database.ts';
import { realUserIds } from '../support/world.ts';
import { beginFilled, beginPullScene, type PullScene } from './pullScene.ts';

import type { DescopeClient } from '../../src/descope/types.ts';

const quiet = { event: false };
const SECONDS = 1_000;

describe('pulling what was modified', () => {
  it('proves nothing before a load by id has told of the tombstones that a page shows', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    const { directory, faults } = s.simulator;
    const [userId = ''] = realUserIds(s);
    const { t } = s.database.mirror;
    await s.query(
      sql`update ${t.users} set deleted_at = clock_timestamp() - interval '1 hour'
          where user_id = ${userId}`,
    );
    s.ago(5 * SECONDS, () => {
      directory.modifyUser(userId, { name: 'Back' }, quiet);
      directory.createMany(3, quiet);
    });
    const before = await s.watermark('modified');
    faults.next('status403', { path: 'user' });
    await expect(s.pullModified()).rejects.toThrow(DescopeUnauthorised);
    expect(await s.watermark('modified')).toBe(before);
    expect(await s.windows('modified')).toMatchObject([{ state: 'gap' }]);
    expect(await s.pullModified()).toBe('done');
    await s.assertEqual();
  });

  it('has nothing to go on from before a sweep has begun', async () => {
    const scene = await beginPullScene();
    expect(await scene.pullModified()).toBe('notBegun');
  });

  for (const timeUnit of ['ms', 's'] as const) {
    for (const sendModifiedTime of [true, false]) {
      const times = sendModifiedTime ? 'with' : 'without';
      it(`brings changes that no webhook told of, in ${timeUnit}, ${times} modifiedTime`, async () => {
        const s = await beginFilled({
          simulator: { users: 300, behaviour: { timeUnit, sendModifiedTime } },
        });
        const { directory } = s.simulator;
        const searched = s.simulator.requests.countOf('userSearch');
        s.ago(5 * SECONDS, () => {
          directory.createMany(30, quiet);
          for (const userId of realUserIds(s).slice(0, 40)) {
            directory.modifyUser(userId, { name: `New ${userId}` }, quiet);
          }
        });
        expect(await s.pullModified()).toBe('done');
        await s.assertEqual();
        // Their own, and no more than a page beside.
        expect(s.simulator.requests.countOf('userSearch') - searched).toBeLessThanOrEqual(2);
      });

      it(`brings more than a page of changes of one second, in ${timeUnit}, ${times} modifiedTime`, async () => {
        const s = await beginFilled({
          simulator: {
            users: 400,
            behaviour: { timeUnit, sendModifiedTime, tieOrder: 'shuffled' },
          },
          env: { PAGE_SIZE: '50' },
        });
        const { directory } = s.simulator;
        s.clock.frozenMs = Date.now() - 10 * SECONDS;
        for (const userId of realUserIds(s).slice(0, 260)) {
          directory.modifyUser(userId, { name: `New ${userId}` }, quiet);
        }
        s.clock.frozenMs += 3 * SECONDS;
        directory.createMany(7, quiet);
        s.clock.frozenMs = null;
        expect(await s.pullModified()).toBe('done');
        await s.assertEqual();
        expect(await s.windows('modified')).toEqual([{ state: 'proven', error: null }]);
      });
    }
  }

  it.each([600, -600])('by the clock of a Descope that is %i s off', async (skewSeconds) => {
    const s = await beginFilled({
      simulator: { users: 60, behaviour: { clockSkewMs: skewSeconds * SECONDS } },
    });
    const { directory } = s.simulator;
    // Each time in a process of its own, which has asked nothing before.
    for (let turn = 0; turn < 3; turn++) {
      const [userId = ''] = realUserIds(s).slice(turn);
      s.ago(5 * SECONDS, () => directory.modifyUser(userId, { name: `New ${turn}` }, quiet));
      s.restart();
      expect(await s.pullModified()).toBe('done');
      await s.assertEqual();
      const lagMs = directory.clockMs() - ((await s.watermark('modified')) ?? 0);
      expect(lagMs).toBeGreaterThan(0);
      expect(lagMs).toBeLessThan(10 * SECONDS);
    }
  });

  it.each([600, -600])(
    'misses nothing that changed while the first sweep ran, %i s off',
    async (skewSeconds) => {
      const s = await beginPullScene({
        simulator: { users: 60, behaviour: { clockSkewMs: skewSeconds * SECONDS } },
        env: { PULL_SETTLE_SECONDS: '2' },
      });
      await s.runSweep();
      const [userId = ''] = realUserIds(s);
      s.simulator.directory.modifyUser(userId, { name: 'Changed behind the sweep' }, quiet);
      // The next pull comes six minutes later: only the watermark still reaches back.
      s.clock.shiftMs = 360 * SECONDS;
      s.restart();
      await s.pullModified();
      await s.assertEqual();
    },
  );

  it('leaves alone what is still settling, and brings it the next time', async () => {
    const s = await beginFilled({ simulator: { users: 60 }, env: { PULL_SETTLE_SECONDS: '60' } });
    const [userId = ''] = realUserIds(s);
    s.ago(20 * SECONDS, () => {
      s.simulator.directory.modifyUser(userId, { name: 'New' }, quiet);
    });
    await s.pullModified();
    await expect(s.assertEqual()).rejects.toThrow(userId);
    s.clock.shiftMs = 50 * SECONDS;
    s.restart();
    await s.pullModified();
    await s.assertEqual();
  });

  it('reads again what lies within the overlap: a lagging provider loses nothing', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    const { behaviour, directory } = s.simulator;
    const [userId = ''] = realUserIds(s);
    s.ago(10 * SECONDS, () => directory.modifyUser(userId, { name: 'New' }, quiet));
    behaviour.readLagMs = 60 * SECONDS;
    await s.pullModified();
    await expect(s.assertEqual()).rejects.toThrow(userId);
    behaviour.readLagMs = 0;
    expect(await s.watermark('modified')).toBeGreaterThan(Date.now() - 10 * SECONDS);
    await s.pullModified();
    await s.assertEqual();
  });

  it('believes no single answer that says nobody has changed', async () => {
    const s = await beginFilled({ simulator: { users: 60 }, env: { PULL_OVERLAP_SECONDS: '30' } });
    const [userId = ''] = realUserIds(s);
    s.ago(5 * SECONDS, () => s.simulator.directory.modifyUser(userId, { name: 'New' }, quiet));
    s.simulator.faults.next('zeroTotal', { path: 'search' });
    await s.pullModified();
    await s.assertEqual();
  });

  it('is one at a time', async () => {
    const s = await beginFilled({ simulator: { users: 10, behaviour: { latencyMs: 50 } } });
    const results = await Promise.all([s.pullModified(), s.pullModified()]);
    expect(results.sort()).toEqual(['busy', 'done']);
    expect(await s.pullModified()).toBe('done');
  });
});

describe('a pull that fails', () => {
  it('leaves a gap and its watermark where it was; the next one mends it', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    await s.pullModified();
    const watermark = await s.watermark('modified');
    const [userId = ''] = realUserIds(s);
    s.ago(5 * SECONDS, () => s.simulator.directory.modifyUser(userId, { name: 'New' }, quiet));
    s.simulator.faults.random(1, ['status500'], () => 0);
    await expect(s.pullModified()).rejects.toThrow(DescopeUnavailable);
    s.simulator.faults.clear();
    expect(await s.watermark('modified')).toBe(watermark);
    const [, gap] = await s.windows('modified');
    expect(gap?.state).toBe('gap');
    expect(gap?.error).toMatch(/no usable answer.*500/);

    expect(await s.pullModified()).toBe('done');
    await s.assertEqual();
    const states = (await s.windows('modified')).map((window) => window.state);
    expect(new Set(states)).toEqual(new Set(['proven']));
    expect(await s.watermark('modified')).toBeGreaterThanOrEqual(watermark ?? Infinity);
  });

  it('half way keeps what it has read, and goes on from there', async () => {
    const s = await beginFilled({
      simulator: { users: 300, behaviour: { sendModifiedTime: true } },
      env: { PAGE_SIZE: '20' },
    });
    const { directory, faults, requests } = s.simulator;
    s.clock.shiftMs = -100 * SECONDS;
    for (const userId of realUserIds(s).slice(0, 200)) {
      s.clock.shiftMs += 400;
      directory.modifyUser(userId, { name: `New ${userId}` }, quiet);
    }
    s.clock.shiftMs = 0;
    const { modified } = s.process();
    let read = 0;
    const failing: typeof modified = {
      ...modified,
      onStep: ({ rows }) => {
        read += rows;
        if (read >= 80 && read - rows < 80) faults.random(1, ['status500'], () => 0);
      },
    };
    const { signal } = new AbortController();
    await expect(pullModified(failing, signal)).rejects.toThrow(DescopeUnavailable);
    faults.clear();
    const before = requests.countOf('userSearch');
    await s.pullModified();
    await s.assertEqual();
    // The rest of the gap, and the overlap with what came after: not the gap from its beginning.
    expect(requests.countOf('userSearch') - before).toBeLessThan(20);
  });
});

/** A client whose searches that end before `untilMs` never show all whom they count. */
function failingBefore(client: DescopeClient, untilMs: number): DescopeClient {
  return {
    ...client,
    async searchUsers(query, call) {
      const page = await client.searchUsers(query, call);
      const isWhole = query.toMs === undefined || query.toMs >= untilMs;
      return isWhole ? page : { ...page, users: page.users.slice(1) };
    },
  };
}

/** So much later, to a process that learns the time anew. */
function later(s: PullScene, ms: number): void {
  s.clock.shiftMs += ms;
  s.restart();
}

async function openEventWindow(s: PullScene, fromMs: number, toMs: number): Promise<void> {
  const { mirror } = s.database;
  const range = { fromMs, toMs };
  await transaction(mirror, (tx) => openModifiedWindow(tx, { mirror }, 'an event', range));
}

describe('the window of an event', () => {
  it('that cannot be proven stays a gap, and holds up nothing of what comes after it', async () => {
    const s = await beginFilled({ simulator: { users: 60 }, env: { PULL_OVERLAP_SECONDS: '10' } });
    const { directory } = s.simulator;
    const [old = '', recent = ''] = realUserIds(s);
    later(s, 60 * SECONDS);
    s.ago(100 * SECONDS, () => directory.modifyUser(old, { name: 'Old' }, quiet));
    await s.pullModified();
    const watermark = (await s.watermark('modified')) ?? Infinity;
    const nowMs = directory.clockMs();
    await openEventWindow(s, nowMs - 130 * SECONDS, nowMs - 70 * SECONDS);
    later(s, 20 * SECONDS);
    s.ago(5 * SECONDS, () => directory.modifyUser(recent, { name: 'Recent' }, quiet));
    const { modified } = s.process();
    const client = failingBefore(modified.client, nowMs - 60 * SECONDS);
    const { signal } = new AbortController();
    for (let turn = 0; turn < 2; turn++) {
      await expect(pullModified({ ...modified, client }, signal)).rejects.toThrow(WindowUnproven);
    }
    expect(await s.watermark('modified')).toBeGreaterThan(watermark);
    await s.assertEqual((userId) => userId === old);
    const states = (await s.windows('modified')).map((window) => window.state);
    expect(states.filter((state) => state !== 'proven')).toEqual(['gap']);

    expect(await s.pullModified()).toBe('done');
    await s.assertEqual();
  });

  it('that reaches beyond the watermark and fails opens no further one a pull', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    const { directory } = s.simulator;
    const [userId = ''] = realUserIds(s);
    later(s, 60 * SECONDS);
    s.ago(5 * SECONDS, () => directory.modifyUser(userId, { name: 'New' }, quiet));
    const { modified } = s.process();
    const client = failingBefore(modified.client, Infinity);
    const { signal } = new AbortController();
    for (let turn = 0; turn < 3; turn++) {
      await expect(pullModified({ ...modified, client }, signal)).rejects.toThrow(WindowUnproven);
    }
    expect(await s.windows('modified')).toHaveLength(1);
  });

  it('that ends in the future does not carry the watermark there', async () => {
    const s = await beginFilled({ simulator: { users: 60 } });
    await s.pullModified();
    const { mirror } = s.database;
    const nowMs = s.simulator.directory.clockMs();
    await transaction(mirror, (tx) =>
      openModifiedWindow(tx, { mirror }, 'an event', {
        fromMs: nowMs - 60 * SECONDS,
        toMs: nowMs + 240 * SECONDS,
      }),
    );
    const { signal } = new AbortController();
    expect(await pullModified(s.process().modified, signal, 'gaps')).toBe('done');
    expect(await s.watermark('modified')).toBeLessThanOrEqual(s.simulator.directory.clockMs());
    const [open] = await s.query<{ n: number }>(
      sql`select count(*)::int as n from ${mirror.t.syncWindows} where state <> 'proven'`,
    );
    expect(open).toEqual({ n: 0 });
  });
});
