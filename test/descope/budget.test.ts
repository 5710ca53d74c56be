import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createBudget } from '../../src/descope/budget.ts';
import { createSchedule } from '../../src/descope/schedule.ts';
import { Stopping } from '../../src/errors.ts';
import { databaseNow, openMirror, rows, type Mirror } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { startProxy } from '../support/proxy.ts';
import { useUp } from './driven.ts';

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

const forever = new AbortController().signal;

describe('the budget', () => {
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
    await useUp(createSchedule({ mirror: other, name: 'waiting', perMinute: 60 }), 'event');
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
    await useUp(createSchedule({ mirror: other, name: 'abort', perMinute: 120 }), 'pull');
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

  const grantedOf = async (name: string) => {
    const [row] = await rows<{ granted: number }>(
      other.db,
      sql`select granted::int from descope.budgets where name = ${name}`,
    );
    return row?.granted;
  };

  it('asks once for all who wait, and tells how long they did', async () => {
    const waited: [Priority, number][] = [];
    const asked: unknown[] = [];
    const db = new Proxy(database.mirror.db, {
      get(target, key) {
        if (key === 'execute') asked.push(key);
        return Reflect.get(target, key, target) as unknown;
      },
    });
    const onTake = (priority: Priority, ms: number) => waited.push([priority, ms]);
    const settings = { name: 'many', perMinute: 6_000, onTake };
    const budget = createBudget({ mirror: { ...database.mirror, db }, ...settings });
    await Promise.all(Array.from({ length: 50 }, () => budget.take('pull', forever)));
    // The row is asked for, made, and asked for again; the first stood in line alone.
    expect(asked.length).toBeLessThanOrEqual(4);
    expect(await grantedOf('many')).toBe(50);
    expect(waited).toHaveLength(50);
    expect(waited.every(([priority, ms]) => priority === 'pull' && ms >= 0 && ms < 60_000)).toBe(
      true,
    );
  });

  it('G6: keeps no slot for later that was taken for one who left', async () => {
    const budget = createBudget({ mirror: database.mirror, name: 'left', perMinute: 60 });
    const leave = new AbortController();
    const first = budget.take('sweep', forever);
    const gone = [budget.take('sweep', leave.signal), budget.take('sweep', leave.signal)];
    const refused = gone.map((wait) => expect(wait).rejects.toThrow(Stopping));
    // By then the three slots are asked for; the answer is not here yet.
    await new Promise((resolve) => setImmediate(resolve));
    leave.abort();
    await Promise.all([first, ...refused]);
    expect(await grantedOf('left')).toBe(3);
    await budget.take('sweep', forever);
    expect(await grantedOf('left')).toBe(4);
  });
});
