import { sql } from 'drizzle-orm';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createBudget } from '../../src/descope/budget.ts';
import { createSchedule, type Schedule } from '../../src/descope/schedule.ts';
import { Stopping } from '../../src/errors.ts';
import { databaseNow, openMirror, rows, type Mirror } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { startProxy } from '../support/proxy.ts';

import type { Priority } from '../../src/descope/types.ts';

let database: TestDatabase;
/** A second pool: what another process has. */
let other: Mirror;

beforeAll(async () => {
  database = await createTestDatabase();
  other = openMirror({
    databaseUrl: database.url,
    schema: 'descope',
    maxConnections: 5,
    onError: () => undefined,
  });
});

afterAll(async () => {
  await other.pool.end();
  await database.drop();
});

const START_MS = Date.parse('2026-03-01T00:00:00Z');
const MINUTE_MS = 60_000;
const forever = new AbortController().signal;
let names = 0;

/** The schedule of a budget whose clock stands still until told. */
function driven(perMinute: number, mirror = database.mirror) {
  const name = `driven${++names}`;
  const clock = { nowMs: START_MS };
  const open = (on: Mirror): Schedule =>
    createSchedule({
      mirror: on,
      name,
      perMinute,
      clock: () => sql`to_timestamp(${clock.nowMs / 1000}::double precision)`,
    });
  return { name, clock, open, schedule: open(mirror) };
}

/** Takes every slot that is free now. */
async function useUp(name: string, perMinute: number, priority: Priority): Promise<void> {
  const schedule = createSchedule({ mirror: database.mirror, name, perMinute });
  for (let taken = 0; (await schedule.ask(priority)).waitMs === 0; taken++) {
    expect(taken).toBeLessThan(10);
  }
}

function mostInAMinute(grantsMs: readonly number[]): number {
  let most = 0;
  let first = 0;
  grantsMs.forEach((atMs, last) => {
    // Both ends belong to the minute: the strictest reading.
    while (atMs - (grantsMs[first] ?? atMs) > MINUTE_MS) first++;
    most = Math.max(most, last - first + 1);
  });
  return most;
}

/** Asks again the moment it is told to, for a while; who asks is drawn by `pick`. */
async function load(
  { clock, schedule }: ReturnType<typeof driven>,
  pick: () => Priority,
  durationMs: number,
): Promise<number[]> {
  const grantsMs: number[] = [];
  const endMs = clock.nowMs + durationMs;
  while (clock.nowMs < endMs) {
    const { waitMs } = await schedule.ask(pick());
    if (waitMs === 0) grantsMs.push(clock.nowMs);
    else clock.nowMs += waitMs;
  }
  return grantsMs;
}

describe('the budget', () => {
  it('G6: grants at most its number in any minute, and uses 95 % of it under load', async () => {
    for (const perMinute of [1, 2, 8, 30, 100, 240]) {
      const minutes = perMinute < 10 ? 20 : 3;
      const run = driven(perMinute);
      const grantsMs = await load(run, () => 'event', minutes * MINUTE_MS);
      expect(mostInAMinute(grantsMs)).toBeLessThanOrEqual(perMinute);
      expect(grantsMs.length).toBeGreaterThanOrEqual(Math.floor(0.95 * perMinute * minutes));
    }
  });

  it('G6: uses 95 % of it when only sweeps ask', async () => {
    const grantsMs = await load(driven(100), () => 'sweep', 3 * MINUTE_MS);
    expect(grantsMs.length).toBeGreaterThanOrEqual(285);
  });

  it('G6: holds whoever asks, whenever, with idle stretches and silences between', async () => {
    const step = fc.record({
      priority: fc.constantFrom<Priority>('event', 'pull', 'sweep'),
      idleMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 90_000 })),
      burst: fc.integer({ min: 1, max: 30 }),
      silenceMs: fc.option(fc.integer({ min: 1, max: 30_000 }), { freq: 10, nil: 0 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 60 }),
        fc.array(step, { minLength: 1, maxLength: 5 }),
        async (perMinute, steps) => {
          const { clock, schedule } = driven(perMinute);
          const grantsMs: number[] = [];
          for (const { priority, idleMs, burst, silenceMs } of steps) {
            clock.nowMs += idleMs;
            if (silenceMs > 0) await schedule.silence(silenceMs, 1);
            const silentUntilMs = clock.nowMs + silenceMs;
            for (let asked = 0; asked < burst; asked++) {
              const { waitMs } = await schedule.ask(priority);
              if (waitMs === 0) grantsMs.push(clock.nowMs);
              else clock.nowMs += waitMs;
              if (waitMs === 0 && silenceMs > 0) {
                expect(clock.nowMs).toBeGreaterThanOrEqual(silentUntilMs);
              }
            }
          }
          expect(mostInAMinute(grantsMs)).toBeLessThanOrEqual(perMinute);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('G6: lets events go before pulls and pulls before sweeps', async () => {
    const { clock, schedule } = driven(60);
    const granted: Record<Priority, number> = { event: 0, pull: 0, sweep: 0 };
    const everybody: Priority[] = ['sweep', 'pull', 'event'];
    /** All of them ask every 50 ms, the least important first. */
    const ask = async (priorities: readonly Priority[], durationMs: number) => {
      for (const endMs = clock.nowMs + durationMs; clock.nowMs < endMs; clock.nowMs += 50) {
        for (const priority of everybody.filter((one) => priorities.includes(one))) {
          if ((await schedule.ask(priority)).waitMs === 0) granted[priority]++;
        }
      }
    };
    await ask(everybody, 3_000); // the first second or two are for all
    granted.pull = granted.sweep = granted.event = 0;
    await ask(everybody, 20_000);
    expect(granted).toMatchObject({ pull: 0, sweep: 0 });
    expect(granted.event).toBeGreaterThanOrEqual(18);
    granted.event = 0;
    await ask(['sweep', 'pull'], 20_000);
    expect(granted).toMatchObject({ event: 0, sweep: 0 });
    expect(granted.pull).toBeGreaterThanOrEqual(17);
    await ask(['sweep'], 20_000);
    expect(granted.sweep).toBeGreaterThanOrEqual(17);
  });

  it('G6: is one for all processes', async () => {
    const run = driven(100);
    const elsewhere = run.open(other);
    const tries = Array.from({ length: 60 }, (_, index) =>
      (index % 2 === 0 ? run.schedule : elsewhere).ask('event'),
    );
    const slots = await Promise.all(tries);
    const grants = slots.filter(({ waitMs }) => waitMs === 0).length;
    expect(grants).toBe(4);
    const [row] = await rows<{ granted: string }>(
      other.db,
      sql`select granted from descope.budgets where name = ${run.name}`,
    );
    expect(Number(row?.granted)).toBe(grants);
  });

  it('G6: is silent in every process after a throttle, then begins without a burst', async () => {
    const run = driven(600);
    const elsewhere = run.open(other);
    expect((await elsewhere.ask('event')).waitMs).toBe(0);
    await run.schedule.silence(60_000, 1);
    await run.schedule.silence(1_000, 1); // a shorter one does not end the longer
    run.clock.nowMs += 59_999;
    expect((await elsewhere.ask('event')).waitMs).toBe(1);
    run.clock.nowMs += 1;
    expect((await elsewhere.ask('event')).waitMs).toBe(0);
    expect((await run.schedule.ask('event')).waitMs).toBeGreaterThan(0);
  });

  it('wakes who waits, in the order they came', async () => {
    const budget = createBudget({ mirror: database.mirror, name: 'order', perMinute: 1200 });
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        await budget.take('event', forever);
        order.push(index);
      }),
    );
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(order).toHaveLength(60);
  });

  it('keeps those silent who waited already', async () => {
    const budget = createBudget({ mirror: database.mirror, name: 'waiting', perMinute: 60 });
    await useUp('waiting', 60, 'event');
    const elsewhere = createBudget({ mirror: other, name: 'waiting', perMinute: 60 });
    const startMs = performance.now();
    const waiting = budget.take('event', forever);
    await elsewhere.silence(1_800);
    await waiting;
    expect(performance.now() - startMs).toBeGreaterThanOrEqual(1_700);
  });

  it('G6: keeps a silence that Postgres is not there to hear, and tells the others when it is back', async () => {
    const proxy = await startProxy(database.url);
    const through = openMirror({
      databaseUrl: proxy.through(database.url),
      schema: 'descope',
      maxConnections: 2,
      onError: () => undefined,
    });
    const settings = { name: 'away', perMinute: 6_000 };
    const budget = createBudget({ mirror: through, ...settings });
    const elsewhere = createSchedule({ mirror: other, ...settings });
    try {
      await budget.take('event', forever);
      proxy.cut();
      const startMs = performance.now();
      const start = await databaseNow(other);
      // Two of them: the second is the longer.
      await Promise.all([budget.silence(1_000), budget.silence(2_500)]);
      const waiting = budget.take('event', forever);
      // Whoever else asks does not know yet.
      expect((await elsewhere.ask('event')).waitMs).toBe(0);
      proxy.restore();
      await waiting;
      expect(performance.now() - startMs).toBeGreaterThanOrEqual(2_400);
      const [row] = await rows<{ throttled: string; isTold: boolean }>(
        other.db,
        sql`select throttled, silent_until > ${start}::timestamptz + interval '2.4 s' as "isTold"
            from descope.budgets where name = 'away'`,
      );
      expect(row).toEqual({ throttled: '2', isTold: true });
    } finally {
      await through.pool.end();
      await proxy.stop();
    }
  });

  it('lets an aborted waiter go at once, and the next one take its turn', async () => {
    const budget = createBudget({ mirror: database.mirror, name: 'abort', perMinute: 120 });
    await useUp('abort', 120, 'pull');
    const [first, second] = [new AbortController(), new AbortController()];
    const waits = [
      budget.take('pull', first.signal),
      budget.take('pull', second.signal),
      budget.take('pull', forever),
    ];
    const refused = waits.slice(0, 2).map((wait) => expect(wait).rejects.toThrow(Stopping));
    second.abort();
    await refused[1];
    first.abort();
    await refused[0];
    await waits[2];
    await expect(budget.take('pull', AbortSignal.abort())).rejects.toThrow(Stopping);
  });
});
