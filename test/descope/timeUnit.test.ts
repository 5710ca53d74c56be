import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import {
  createTimeUnit,
  toBounds,
  type TimeBound,
  type TimeUnit,
} from '../../src/descope/timeUnit.ts';
import { DescopeUnavailable, Stopping } from '../../src/errors.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

import type { Call } from '../../src/descope/types.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(() => database.mirror.db.execute(sql`delete from descope.learnt`));

const call: Call = { priority: 'pull', signal: new AbortController().signal };

/** A directory of users that were all created in 2023, on a clock that may be wrong. */
function directory(unit: TimeUnit, users: number) {
  const asked: TimeBound[] = [];
  const createdAt = unit === 'ms' ? 1_700_000_000_000 : 1_700_000_000;
  return {
    asked,
    count: (bound: TimeBound): Promise<number> => {
      asked.push(bound);
      const matches = bound.side === 'from' ? createdAt > bound.value : createdAt <= bound.value;
      return Promise.resolve(matches ? users : 0);
    },
  };
}

const finder = (count: (bound: TimeBound, call: Call) => Promise<number>) =>
  createTimeUnit({ mirror: database.mirror, setting: 'auto', count });

async function remembered(): Promise<unknown> {
  const { rows } = await database.mirror.db.execute(sql`select value from descope.learnt`);
  return rows[0]?.['value'];
}

describe('the time unit', () => {
  it.each(['ms', 's'] as const)('is found to be %s, once for all processes', async (unit) => {
    const source = directory(unit, 3);
    const timeUnit = finder(source.count);
    const answers = await Promise.all([1, 2, 3].map(() => timeUnit('modifiedTime', call)));
    expect(answers).toEqual([unit, unit, unit]);
    expect(await timeUnit('modifiedTime', call)).toBe(unit);
    expect(source.asked).toHaveLength(unit === 'ms' ? 1 : 2);
    const elsewhere = directory(unit, 3);
    expect(await finder(elsewhere.count)('createdTime', call)).toBe(unit);
    expect(elsewhere.asked).toHaveLength(0);
  });

  it('stays open where there is nobody to count: ms for now, probed again next time', async () => {
    expect(await finder(directory('s', 0).count)('createdTime', call)).toBe('ms');
    expect(await remembered()).toBeUndefined();
    expect(await finder(directory('s', 1).count)('createdTime', call)).toBe('s');
  });

  it('is not learnt from a failure, nor from answers that are wrongly empty', async () => {
    const broken = finder(() => Promise.reject(new DescopeUnavailable('user search', 'HTTP 502')));
    await expect(broken('createdTime', call)).rejects.toThrow(DescopeUnavailable);
    const source = directory('ms', 3);
    let faults = 1;
    const timeUnit = finder((bound) => (faults-- > 0 ? Promise.resolve(0) : source.count(bound)));
    expect(await timeUnit('createdTime', call)).toBe('ms');
    expect(await remembered()).toBeUndefined();
    expect(await timeUnit('createdTime', call)).toBe('ms');
    expect(await remembered()).toBe('ms');
  });

  it('is never probed where it is set', async () => {
    const source = directory('ms', 3);
    const setting = { mirror: database.mirror, setting: 's', count: source.count } as const;
    expect(await createTimeUnit(setting)('createdTime', call)).toBe('s');
    expect(source.asked).toHaveLength(0);
  });

  it('is probed by the next caller when the first one stops', async () => {
    const stop = new AbortController();
    const source = directory('s', 3);
    const timeUnit = finder((bound, { signal }) => {
      if (signal !== stop.signal) return source.count(bound);
      stop.abort();
      return Promise.reject(new Stopping());
    });
    const first = timeUnit('createdTime', { ...call, signal: stop.signal });
    const second = timeUnit('createdTime', call);
    await expect(first).rejects.toThrow(Stopping);
    expect(await second).toBe('s');
  });
});

describe('the bounds', () => {
  it.each([
    ['ms', 5_000, 9_000, { from: 4_999, to: 9_001 }],
    ['s', 5_000, 9_000, { from: 4, to: 10 }],
    ['s', 5_001, 8_999, { from: 4, to: 10 }],
    ['ms', undefined, 9_000, { to: 9_001 }],
    ['ms', 5_000, undefined, { from: 4_999 }],
    ['ms', 0, undefined, {}],
    ['s', 1_999, undefined, {}],
  ] as const)('in %s of %s to %s are %j', (unit, fromMs, toMs, bounds) => {
    expect(toBounds(unit, fromMs, toMs)).toEqual(bounds);
  });
});
