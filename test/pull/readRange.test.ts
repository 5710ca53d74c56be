import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { WindowUnproven } from '../../src/errors.ts';
import { readRange, type ProvenStep, type Range } from '../../src/pull/readRange.ts';
import {
  MemoryDirectory,
  PLAIN,
  type Happening,
  type MemoryBehaviour,
  type MemoryUser,
  type Spoiling,
} from './memoryDirectory.ts';

const call = { priority: 'pull', signal: new AbortController().signal } as const;
/** A whole second; users are created from here on. */
const START_MS = 1_700_000_000_000;

async function read(
  directory: MemoryDirectory,
  range: Range,
  pageSize: number,
): Promise<ProvenStep[]> {
  const steps: ProvenStep[] = [];
  for await (const step of readRange({ client: directory, pageSize }, range, call)) {
    steps.push(step);
  }
  return steps;
}

const timeOf = (user: MemoryUser, { field }: Range) =>
  field === 'createdTime' ? user.createdMs : user.modifiedMs;

/** Steps join on to each other from the range's beginning to its end; those of no length bring users. */
function expectGapless(steps: readonly ProvenStep[], range: Range): void {
  let expected: number | null = range.fromMs;
  for (const { fromMs, untilMs, observations } of steps) {
    expect(fromMs).toBe(expected);
    if (untilMs !== null && observations.length === 0) expect(untilMs).toBeGreaterThan(fromMs);
    if (untilMs !== null) expect(untilMs).toBeGreaterThanOrEqual(fromMs);
    expected = untilMs;
  }
  expect(expected).toBe(null);
}

/** No step lacks a user of its own stretch that was there all the time. */
function expectComplete(
  steps: readonly ProvenStep[],
  users: readonly MemoryUser[],
  range: Range,
): void {
  const handedOver = new Set<string>();
  for (const step of steps) {
    const { seen } = step;
    for (const { userId } of step.observations) handedOver.add(userId);
    expect([...seen.keys()].filter((userId) => !handedOver.has(userId))).toEqual([]);
    const lacking = users.filter((user) => {
      const ms = timeOf(user, range);
      return (
        ms >= step.fromMs &&
        ms <= (range.toMs ?? Infinity) &&
        ms < (step.untilMs ?? Infinity) &&
        !seen.has(user.userId)
      );
    });
    expect(lacking).toEqual([]);
  }
}

const behaviours: fc.Arbitrary<MemoryBehaviour> = fc.record({
  unit: fc.constantFrom('ms', 's'),
  fromInclusive: fc.boolean(),
  toInclusive: fc.boolean(),
  clamp: fc.constantFrom(2, 5, 1_000),
  sendTime: fc.constantFrom('always', 'sometimes', 'never'),
  shuffleTies: fc.boolean(),
});

/** Users of one instant, of one second, of neighbouring seconds and far apart. */
const directories: fc.Arbitrary<MemoryUser[]> = fc
  .array(
    fc.record({
      gapMs: fc.constantFrom(0, 0, 0, 1, 7, 400, 1_000, 1_001, 60_000, 5_000_000),
      count: fc.integer({ min: 1, max: 12 }),
      laterMs: fc.constantFrom(0, 0, 1, 30_000, 4_000_000),
    }),
    { maxLength: 14 },
  )
  .map((bursts) => {
    const users: MemoryUser[] = [];
    let atMs = START_MS;
    for (const { gapMs, count, laterMs } of bursts) {
      for (let nth = 0; nth < count; nth++) {
        atMs += gapMs;
        const userId = String(users.length + 1);
        users.push({ userId, createdMs: atMs, modifiedMs: atMs + laterMs });
      }
    }
    return users;
  });

const END_MS = START_MS + 2_000_000_000;

const ranges: fc.Arbitrary<Range> = fc.oneof(
  // A sweep's: from the beginning, or a window, open or closed, in whole seconds.
  fc.record({ field: fc.constant('createdTime' as const), fromMs: fc.constant(0) }),
  fc.record({
    field: fc.constant('createdTime' as const),
    fromMs: fc.nat(200).map((s) => START_MS + s * 1_000),
    toMs: fc.nat(40_000).map((s) => START_MS + 200_000 + s * 1_000 - 1),
  }),
  // A pull's: anywhere.
  fc.record({
    field: fc.constant('modifiedTime' as const),
    fromMs: fc.nat(100_000).map((ms) => START_MS - 5_000 + ms),
    toMs: fc.nat(40_000_000).map((ms) => START_MS + 100_000 + ms),
  }),
);

const happenings: fc.Arbitrary<Happening> = fc.oneof(
  fc.record({ kind: fc.constant('delete' as const), pick: fc.nat(1_000) }),
  fc.record({ kind: fc.constant('modify' as const), pick: fc.nat(1_000) }),
  fc.constant({ kind: 'create' } as const),
);

/** What happens at which request: now and then, so that reading can win. */
function sometimes<T>(what: fc.Arbitrary<T>, most: number): fc.Arbitrary<Map<number, T>> {
  return fc.array(fc.tuple(fc.nat(120), what), { maxLength: most }).map((list) => new Map(list));
}

describe('reading a range', () => {
  it('sees every user, in ascending steps without a hole, whatever the bounds, unit, ties and clamp', async () => {
    await fc.assert(
      fc.asyncProperty(
        directories,
        behaviours,
        ranges,
        fc.integer({ min: 2, max: 20 }),
        async (users, behaviour, range, pageSize) => {
          const directory = new MemoryDirectory(users, behaviour, END_MS);
          const steps = await read(directory, range, pageSize);
          expectGapless(steps, range);
          expectComplete(steps, users, range);
        },
      ),
      { numRuns: 400 },
    );
  });

  it('misses nobody who was there throughout, while others are created, changed and deleted', async () => {
    await fc.assert(
      fc.asyncProperty(
        directories,
        behaviours,
        ranges,
        fc.integer({ min: 2, max: 20 }),
        sometimes(fc.array(happenings, { minLength: 1, maxLength: 4 }), 25),
        async (users, behaviour, range, pageSize, life) => {
          const directory = new MemoryDirectory(users, behaviour, END_MS);
          directory.happenings = life;
          const steps = await read(directory, range, pageSize).catch((error: unknown) => {
            // Too much happened within one second's pages: an honest gap.
            expect(error).toBeInstanceOf(WindowUnproven);
            return null;
          });
          if (steps === null) return;
          expectGapless(steps, range);
          expectComplete(steps, directory.throughout(), range);
        },
      ),
      { numRuns: 400 },
    );
  });

  it('believes no answer that is wrongly empty or partial now and then', async () => {
    const spoilt = fc.constantFrom<Spoiling>('zeroTotal', 'emptyPage', 'partialPage', 'falseClamp');
    await fc.assert(
      fc.asyncProperty(
        directories,
        behaviours,
        ranges,
        fc.integer({ min: 2, max: 20 }),
        // Few enough for six tries, so that reading always wins.
        sometimes(spoilt, 5),
        async (users, behaviour, range, pageSize, faults) => {
          const directory = new MemoryDirectory(users, behaviour, END_MS);
          // Never twice running: the same wrong answer twice is what nobody could tell from the truth.
          directory.spoilings = new Map([...faults].filter(([turn]) => !faults.has(turn - 1)));
          const steps = await read(directory, range, pageSize);
          expectGapless(steps, range);
          expectComplete(steps, users, range);
        },
      ),
      { numRuns: 400 },
    );
  });

  it('does not believe in nobody at all because it is said twice with a page in between', async () => {
    const users = Array.from({ length: 50 }, (_, at) => {
      const ms = START_MS + at * 97_003;
      return { userId: String(at + 1), createdMs: ms, modifiedMs: ms };
    });
    // Ten rows where twenty were asked for must come twice to pass for a page.
    const directory = new MemoryDirectory(users, { ...PLAIN, clamp: 10 }, END_MS);
    directory.spoilings = new Map([
      [0, 'zeroTotal'],
      [2, 'zeroTotal'],
    ]);
    const range = { field: 'createdTime', fromMs: 0 } as const;
    expectComplete(await read(directory, range, 20), users, range);
  });

  it('takes about one request a page where users are spread over time', async () => {
    for (const unit of ['ms', 's'] as const) {
      const users = Array.from({ length: 5_000 }, (_, at) => {
        const ms = START_MS + at * 97_003;
        return { userId: String(at + 1), createdMs: ms, modifiedMs: ms };
      });
      const directory = new MemoryDirectory(users, { ...PLAIN, unit }, END_MS);
      await read(directory, { field: 'createdTime', fromMs: 0 }, 100);
      // 99 new rows a request: the last one's second is read again.
      expect(directory.requests).toBeLessThanOrEqual(Math.ceil(5_000 / 99) + 1);
    }
  });

  it('takes two or three requests a page where rows do not tell their time', async () => {
    const users = Array.from({ length: 2_000 }, (_, at) => {
      const ms = START_MS + at * 97_003;
      return { userId: String(at + 1), createdMs: ms, modifiedMs: ms };
    });
    const directory = new MemoryDirectory(users, { ...PLAIN, sendTime: 'never' }, END_MS);
    const range = { field: 'modifiedTime', fromMs: START_MS, toMs: END_MS } as const;
    const steps = await read(directory, range, 100);
    expectComplete(steps, users, range);
    expect(directory.requests).toBeLessThan(110);
  });

  it('pages among thousands of one instant with one request a page', async () => {
    const atMs = START_MS + 400;
    const users = Array.from({ length: 3_000 }, (_, at) => {
      return { userId: String(at + 1), createdMs: atMs, modifiedMs: atMs };
    });
    for (const sendTime of ['always', 'never'] as const) {
      const behaviour = { ...PLAIN, sendTime, shuffleTies: true };
      const directory = new MemoryDirectory(users, behaviour, END_MS);
      const range = { field: 'modifiedTime', fromMs: START_MS - 300_000, toMs: END_MS } as const;
      const steps = await read(directory, range, 100);
      expectComplete(steps, users, range);
      expect(directory.requests).toBeLessThan(sendTime === 'always' ? 40 : 100);
      // Nobody has to hold them all.
      expect(Math.max(...steps.map(({ observations }) => observations.length))).toBe(100);
    }
  });

  it('gives up a range that keeps contradicting itself', async () => {
    const directory = new MemoryDirectory(
      [{ userId: '1', createdMs: START_MS, modifiedMs: START_MS }],
      PLAIN,
      END_MS,
    );
    directory.spoilings = new Map(Array.from({ length: 50 }, (_, turn) => [turn, 'emptyPage']));
    await expect(read(directory, { field: 'createdTime', fromMs: 0 }, 100)).rejects.toBeInstanceOf(
      WindowUnproven,
    );
    expect(directory.requests).toBeLessThan(10);
  });

  it('goes on where users are deleted all the time', async () => {
    const users = Array.from({ length: 400 }, (_, at) => {
      const ms = START_MS + at * 97_003;
      return { userId: String(at + 1), createdMs: ms, modifiedMs: ms };
    });
    const directory = new MemoryDirectory(users, PLAIN, END_MS);
    // At every request one of the younger half goes: no total comes twice until the very end.
    directory.happenings = new Map(
      Array.from({ length: 120 }, (_, turn) => [turn, [{ kind: 'delete', pick: 390 - turn }]]),
    );
    const range = { field: 'createdTime', fromMs: 0 } as const;
    const steps = await read(directory, range, 20);
    expectGapless(steps, range);
    expectComplete(steps, directory.throughout(), range);
  });
});
