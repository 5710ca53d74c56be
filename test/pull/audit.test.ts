import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { DescopeUnavailable, Stopping } from '../../src/errors.ts';
import { pullAudit, type AuditDeps } from '../../src/pull/audit.ts';
import { realUserIds } from '../support/world.ts';
import { beginFilled, beginPullScene, type PullScene } from './pullScene.ts';

import type { AuditQuery } from '../../src/descope/types.ts';

const SECONDS = 1_000;
const DAYS = 86_400 * SECONDS;

async function countEvents(s: PullScene): Promise<number> {
  const [found] = await s.query<{ n: number }>(
    sql`select count(*)::int as n from ${s.database.mirror.t.events} where audit_at is not null`,
  );
  return found?.n ?? 0;
}

/** Users created a millisecond apart, half a minute ago: two of one user in one millisecond are one hint. */
function createMany(s: PullScene, count: number): void {
  s.ago(30 * SECONDS, () => {
    for (let nth = 0; nth < count; nth++) {
      s.clock.shiftMs += 1;
      s.simulator.directory.createUser({ createdMs: Date.now() - 3_600 * SECONDS });
    }
    s.clock.shiftMs -= count;
  });
}

/** The same pull, whose searches are kept, and wait for what `before` returns. */
function withSearches(
  audit: AuditDeps,
  before: (count: number) => unknown = () => undefined,
): { deps: AuditDeps; queries: AuditQuery[] } {
  const queries: AuditQuery[] = [];
  const client = {
    ...audit.client,
    async searchAudit(...args: Parameters<AuditDeps['client']['searchAudit']>) {
      queries.push(args[0]);
      await before(queries.length);
      return audit.client.searchAudit(...args);
    },
  };
  return { deps: { ...audit, client }, queries };
}

const forever = new AbortController().signal;

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
    createMany(s, 2_600);
    const before = s.simulator.requests.countOf('audit');
    expect(await s.pullAudit()).toBe('done');
    expect(await countEvents(s)).toBe(2_600);
    expect(s.simulator.requests.countOf('audit') - before).toBe(3);
    // The overlap brings them all again.
    expect(await s.pullAudit()).toBe('done');
    expect(await countEvents(s)).toBe(2_600);
  });

  it('goes on where a pull was stopped, and does not read the first pages again', async () => {
    const s = await beginFilled({ simulator: { users: 30 } });
    createMany(s, 3_000);
    const stopping = new AbortController();
    const watermark = await s.watermark('audit');
    const first = withSearches(s.process().audit, (count) => {
      if (count === 3) stopping.abort();
    });
    await expect(pullAudit(first.deps, stopping.signal)).rejects.toThrow(Stopping);
    expect(await countEvents(s)).toBeGreaterThan(1_900);
    expect(await s.watermark('audit')).toBe(watermark);

    s.restart();
    const [from] = first.queries.slice(2).map((query) => query.fromMs);
    const second = withSearches(s.process().audit);
    expect(await pullAudit(second.deps, forever)).toBe('done');
    expect(await countEvents(s)).toBe(3_000);
    expect(second.queries[0]).toMatchObject({ fromMs: from, page: 0 });
    // Its last two pages; then what is new, with the overlap.
    expect(second.queries.filter(({ toMs }) => toMs === first.queries[0]?.toMs)).toHaveLength(2);
    expect(await s.watermark('audit')).toBeGreaterThan(watermark ?? 0);
    expect(new Set((await s.windows('audit')).map(({ state }) => state))).toEqual(
      new Set(['proven']),
    );
  });

  it('keeps what it has read of a window that fails', async () => {
    const s = await beginFilled({ simulator: { users: 30 } });
    createMany(s, 2_500);
    const first = withSearches(s.process().audit, (count) => {
      if (count === 2) throw new DescopeUnavailable('audit search', 'a test');
    });
    await expect(pullAudit(first.deps, forever)).rejects.toThrow(DescopeUnavailable);
    expect((await s.windows('audit')).at(-1)).toMatchObject({ state: 'gap' });
    const second = withSearches(s.process().audit);
    expect(await pullAudit(second.deps, forever)).toBe('done');
    const [begun, failed] = first.queries.map((query) => query.fromMs);
    expect(failed).toBeGreaterThan(begun ?? Infinity);
    expect(second.queries[0]?.fromMs).toBe(failed);
    expect(await countEvents(s)).toBe(2_500);
  });

  it('lets two pulls read the same window side by side', async () => {
    const s = await beginFilled({ simulator: { users: 30 } });
    createMany(s, 3_000);
    const { mirror } = s.database;
    const begun = withSearches(s.process().audit, (count) => {
      if (count === 2) throw new DescopeUnavailable('audit search', 'a test');
    });
    await expect(pullAudit(begun.deps, forever)).rejects.toThrow(DescopeUnavailable);
    // The second begins while the first waits for its page, as if the lease had run out.
    let outcome: ReturnType<typeof pullAudit> | undefined;
    const second = withSearches(s.process().audit);
    const first = withSearches(s.process().audit, async (count) => {
      if (count !== 1) return;
      await mirror.db.execute(sql`update ${mirror.t.watermarks} set busy_until = null`);
      outcome = pullAudit(second.deps, forever);
      await outcome;
    });
    expect(await pullAudit(first.deps, forever)).toBe('busy');
    expect(await outcome).toBe('done');
    expect(second.queries[0]?.fromMs).toBe(first.queries[0]?.fromMs);
    expect(first.queries).toHaveLength(1);
    expect(await countEvents(s)).toBe(3_000);
    await s.applyEvents();
    await s.assertEqual();
  });

  for (const auditBounds of ['inclusive', 'exclusive'] as const) {
    it(`pages among thousands of one instant, bounds ${auditBounds}`, async () => {
      const s = await beginFilled({ simulator: { users: 30, behaviour: { auditBounds } } });
      s.clock.frozenMs = Date.now() - 30 * SECONDS;
      for (let nth = 0; nth < 2_300; nth++) {
        s.simulator.directory.createUser({ createdMs: Date.now() - 3_600 * SECONDS });
      }
      s.clock.frozenMs = null;
      createMany(s, 100);
      expect(await s.pullAudit()).toBe('done');
      expect(await countEvents(s)).toBe(2_400);
    });
  }

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
    const reasons = await s.query<{ reason: string }>(
      sql`select reason from ${mirror.t.syncRuns} where pull = 'sweep' and outcome is null`,
    );
    expect(reasons).toEqual([
      { reason: 'the audit trail no longer reaches back to the last pull' },
    ]);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 3 });
    await s.assertEqual();
    // The sweep stands in for what the trail no longer tells.
    expect(await s.pullAudit()).toBe('done');
  });
});
