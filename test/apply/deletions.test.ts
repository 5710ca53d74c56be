import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import {
  countLive,
  deleteReported,
  deleteVerified,
  isHeld,
  mostToCount,
  type Breaker,
  type Decided,
} from '../../src/apply/deletions.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { databaseNow, rows, transaction } from '../../src/mirror/database.ts';
import { migrateMirror } from '../../src/mirror/migrate.ts';
import { mirrorTables } from '../../src/mirror/schema.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

import type { Observation } from '../../src/observation.ts';

describe('the breaker', () => {
  const usual: Breaker = { maxCount: 500, maxPercent: 5 };
  const cases: readonly (readonly [
    count: number,
    live: number,
    breaker: Breaker,
    held: boolean,
  ])[] = [
    [0, 0, usual, false],
    [1, 1, usual, false],
    // Up to ten, a percentage means nothing: also all users of a small directory may go.
    [10, 10, usual, false],
    [11, 11, usual, true],
    [11, 219, usual, true],
    [11, 220, usual, false],
    [500, 10_000, usual, false],
    [500, 9_999, usual, true],
    [501, 1_000_000, usual, true],
    [20, 900, { maxCount: 20, maxPercent: 100 }, false],
    [21, 900, { maxCount: 20, maxPercent: 100 }, true],
    // No deletion at all without a person.
    [0, 900, { maxCount: 0, maxPercent: 5 }, false],
    [1, 900, { maxCount: 0, maxPercent: 5 }, true],
    [10, 900, { maxCount: 500, maxPercent: 0 }, false],
    [11, 900, { maxCount: 500, maxPercent: 0 }, true],
  ];
  it.each(cases)('%i of %i users under %o: held %s', (count, live, breaker, held) => {
    expect(isHeld(count, live, breaker)).toBe(held);
  });

  it('decides the same on as many users as it has to count', () => {
    const percents = [0, 0.1, 0.3, 1, 5, 7, 33.3, 50, 99.9, 100];
    for (const maxPercent of percents) {
      const breaker = { maxCount: 500, maxPercent };
      for (const count of [0, 1, 10, 11, 12, 77, 300, 499, 500, 501]) {
        const most = mostToCount(count, breaker);
        for (const live of [0, 11, count, most - 2, most - 1, most, most + 1, 10_000_000]) {
          const told = isHeld(count, Math.min(live, most), breaker);
          expect(told, `${count} of ${live} at ${maxPercent} %`).toBe(isHeld(count, live, breaker));
        }
      }
    }
    // With the usual settings a bounded number, whatever the directory's size.
    expect(mostToCount(500, usual)).toBe(10_001);
    expect([10, 501].map((count) => mostToCount(count, usual))).toEqual([0, 0]);
  });
});

describe('deletions that events report', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createTestDatabase();
  });
  afterAll(() => database.drop());

  beforeEach(async () => {
    const { db, t } = database.mirror;
    await db.execute(sql`truncate ${t.users}, ${t.deletions}`);
    await fill(400);
  });

  async function fill(count: number): Promise<void> {
    const { mirror } = database;
    const observedAt = await databaseNow(mirror);
    const users = Array.from({ length: count }, (_, at): Observation => {
      const row = toUserRow({ userId: userId(at) });
      if (!row) throw new Error('a user without an id');
      return { kind: 'present', userId: row.userId, row, observedAt, by: 'load' };
    });
    await transaction(mirror, (tx) => applyObservations(tx, mirror.t, users, 'sweep'));
  }

  const userId = (at: number) => `U${String(at).padStart(4, '0')}`;
  const breaker: Breaker = { maxCount: 20, maxPercent: 50 };

  /** Users `from` to `to` - 1 are gone. */
  async function absencesOf(from: number, to: number) {
    const observedAt = await databaseNow(database.mirror);
    return Array.from({ length: to - from }, (_, at) => {
      return { userId: userId(from + at), observedAt, evidence: 'not found (E112102)' };
    });
  }

  async function report(from: number, to: number): Promise<Decided> {
    const { mirror } = database;
    const absences = await absencesOf(from, to);
    return transaction(mirror, (tx) => deleteReported(tx, mirror, absences, 'webhook', breaker));
  }

  async function states(): Promise<Record<string, number>> {
    const { db, t } = database.mirror;
    const found = await rows<{ state: string; n: number }>(
      db,
      sql`select state, count(*)::int as n from ${t.deletions} group by state order by state`,
    );
    return Object.fromEntries(found.map(({ state, n }) => [state, n]));
  }

  const live = () => countLive(database.mirror.db, database.mirror);

  it('are carried out up to the limit, whatever the pieces they come in', async () => {
    expect(await report(0, 15)).toMatchObject({ held: false });
    expect(await report(15, 20)).toMatchObject({ held: false });
    expect(await live()).toBe(380);
    expect(await report(20, 21)).toMatchObject({ held: true });
    expect(await live()).toBe(380);
    expect(await states()).toEqual({ tombstoned: 20, held: 1 });
  });

  it('are held together where one report brings too many', async () => {
    expect(await report(0, 21)).toMatchObject({ held: true });
    expect(await live()).toBe(400);
    expect(await states()).toEqual({ held: 21 });
  });

  it('count over a rolling hour', async () => {
    await report(0, 20);
    const { db, t } = database.mirror;
    await db.execute(sql`
      update ${t.deletions} set decided_at = decided_at - interval '61 minutes',
                                nominated_at = nominated_at - interval '61 minutes'`);
    expect(await report(20, 40)).toMatchObject({ held: false });
    expect(await live()).toBe(360);
  });

  it('are held once, however often they are reported', async () => {
    await report(0, 30);
    await report(0, 30);
    expect(await states()).toEqual({ held: 30 });
  });

  it('that are held, or were refused by a person, are carried out by no sweep that finds fewer (G4)', async () => {
    const { mirror } = database;
    const { db, t } = mirror;
    const sweep = async (runId: number) => {
      const gone = [...(await absencesOf(0, 15)), ...(await absencesOf(100 + runId, 102 + runId))];
      return transaction(mirror, (tx) => deleteVerified(tx, mirror, { runId, gone, breaker }));
    };
    await report(0, 30);
    expect(await sweep(10)).toEqual({ deleted: 2, held: 15 });
    expect(await states()).toEqual({ held: 30, superseded: 15, tombstoned: 2 });
    await db.execute(sql`update ${t.deletions} set state = 'rejected' where state = 'held'`);
    expect(await sweep(20)).toEqual({ deleted: 2, held: 15 });
    expect(await states()).toEqual({ held: 15, rejected: 30, superseded: 15, tombstoned: 4 });
    expect(await live()).toBe(396);
  });

  it('do not count users that are gone already or were never here', async () => {
    await report(0, 20);
    expect(await report(0, 20)).toMatchObject({ held: false, summary: { deleted: [] } });
    expect(await report(5_000, 5_040)).toMatchObject({ held: false });
    expect(await states()).toEqual({ tombstoned: 20 });
  });

  it('are not told as carried out where something newer was seen meanwhile', async () => {
    const { mirror } = database;
    const absences = await absencesOf(0, 2);
    await mirror.db.execute(sql`
      update ${mirror.t.users} set observed_at = clock_timestamp() where user_id = ${userId(0)}`);
    const decided = await transaction(mirror, (tx) =>
      deleteReported(tx, mirror, absences, 'webhook', breaker),
    );
    expect(decided.summary).toMatchObject({ deleted: [userId(1)], stale: [userId(0)] });
    expect(await states()).toEqual({ superseded: 1, tombstoned: 1 });
  });

  it("wait for no other schema's", async () => {
    const { url, mirror } = database;
    await migrateMirror({ databaseUrl: url, schema: 'second' });
    const second = { ...mirror, t: mirrorTables('second') };
    const absences = await absencesOf(0, 1);
    await mirror.db.execute(sql`insert into ${second.t.users} select * from ${mirror.t.users}`);
    await transaction(mirror, async (tx) => {
      await deleteReported(tx, mirror, absences, 'webhook', breaker);
      const other = await transaction(mirror, async (tx2) => {
        await tx2.execute(sql`set local lock_timeout = '5s'`);
        return deleteReported(tx2, second, absences, 'webhook', breaker);
      });
      expect(other.summary.deleted).toEqual([userId(0)]);
    });
  });

  it('stay within the limit though reported side by side', async () => {
    await Promise.all([report(0, 15), report(15, 30), report(30, 45), report(45, 60)]);
    expect(await live()).toBe(385);
    expect(await states()).toEqual({ tombstoned: 15, held: 45 });
  });
});
