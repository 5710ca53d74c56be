import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { WindowUnproven } from '../../src/errors.ts';
import { readTrail } from '../../src/pull/readTrail.ts';
import {
  MemoryTrail,
  PLAIN_TRAIL,
  type MemoryRecord,
  type TrailBehaviour,
  type TrailSpoiling,
} from './memoryTrail.ts';

const call = { priority: 'pull', signal: new AbortController().signal } as const;
const START_MS = 1_700_000_000_000;

interface Read {
  readonly records: MemoryRecord[];
  /** Where reading could be taken up again, ascending. */
  readonly cursors: number[];
}

/** Reads to the end, or as many steps as told. */
async function read(
  trail: MemoryTrail,
  [fromMs, toMs]: readonly [number, number],
  mostSteps = Infinity,
  atLeast = 1,
): Promise<Read> {
  const done: Read = { records: [], cursors: [] };
  let steps = 0;
  let ended = false;
  for await (const step of readTrail(trail, { fromMs, toMs, actions: [] }, atLeast, call)) {
    expect(ended).toBe(false);
    done.records.push(...(step.records as MemoryRecord[]));
    if (step.untilMs === null) ended = true;
    else done.cursors.push(step.untilMs);
    if (++steps === mostSteps) return done;
  }
  expect(ended).toBe(true);
  return done;
}

const idsOf = (records: readonly MemoryRecord[]) => new Set(records.map((one) => one.ID));

/** Whoever occurred in the range, and before `untilMs`, is among those read. */
function expectComplete(
  trail: readonly MemoryRecord[],
  done: Read,
  [fromMs, toMs]: readonly [number, number],
  untilMs = Infinity,
): void {
  const ids = idsOf(done.records);
  const lacking = trail.filter(({ ID, occurred }) => {
    const ms = Number(occurred);
    return ms >= fromMs && ms <= toMs && ms < untilMs && !ids.has(ID);
  });
  expect(lacking).toEqual([]);
}

/** Records a moment or a day apart, and many of one instant. */
const trails: fc.Arbitrary<MemoryRecord[]> = fc
  .array(
    fc.record({
      gapMs: fc.constantFrom(0, 1, 2, 7, 400, 1_000, 60_000, 80_000_000),
      count: fc.integer({ min: 1, max: 14 }),
    }),
    { maxLength: 14 },
  )
  .map((bursts) => {
    let atMs = START_MS;
    return bursts.flatMap(({ gapMs, count }, burst) => {
      atMs += gapMs;
      return Array.from({ length: count }, (_, nth) => {
        return { ID: `${burst}-${nth}`, occurred: String(atMs) };
      });
    });
  });

const behaviours: fc.Arbitrary<TrailBehaviour> = fc.record({
  fromInclusive: fc.boolean(),
  toInclusive: fc.boolean(),
  pageSize: fc.constantFrom(2, 5, 20),
  clamp: fc.constantFrom(2, 3, 1_000, 1_000),
  shuffleTies: fc.boolean(),
  newestFirst: fc.constantFrom(false, false, true),
});

const ranges = fc.tuple(
  fc.nat(2_000).map((ms) => START_MS - 500 + ms),
  fc.constantFrom(100, 1_500, 100_000, 900_000_000).map((ms) => START_MS + 2_000 + ms),
);

/** Few enough for six tries, never twice running: the same wrong answer twice nobody could tell from the truth. */
const spoilings = fc
  .array(
    fc.tuple(fc.nat(60), fc.constantFrom<TrailSpoiling>('zeroTotal', 'emptyPage', 'partialPage')),
    { maxLength: 5 },
  )
  .map((list) => new Map(list))
  .map((faults) => new Map([...faults].filter(([turn]) => !faults.has(turn - 1))));

describe('reading the audit trail', () => {
  it('reads every record, whatever the bounds, ties, clamp, order and faults', async () => {
    await fc.assert(
      fc.asyncProperty(
        trails,
        behaviours,
        ranges,
        spoilings,
        async (records, how, range, faults) => {
          const trail = new MemoryTrail(records, how);
          trail.spoilings = faults;
          const done = await read(trail, range);
          expectComplete(records, done, range);
          expect(done.cursors).toEqual(done.cursors.toSorted((a, b) => a - b));
        },
      ),
      { numRuns: 600 },
    );
  });

  it('has handed over everything before a cursor, and can be taken up there', async () => {
    await fc.assert(
      fc.asyncProperty(
        trails,
        behaviours,
        ranges,
        spoilings,
        fc.integer({ min: 1, max: 12 }),
        async (records, how, [fromMs, toMs], faults, steps) => {
          const trail = new MemoryTrail(records, how);
          trail.spoilings = faults;
          const first = await read(trail, [fromMs, toMs], steps);
          const cursorMs = first.cursors.at(-1);
          if (cursorMs === undefined) return;
          expectComplete(records, first, [fromMs, toMs], cursorMs);
          const rest = await read(new MemoryTrail(records, how), [cursorMs, toMs]);
          expectComplete(records, rest, [cursorMs, toMs]);
        },
      ),
      { numRuns: 400 },
    );
  });

  it('reads thousands of one instant that change places with every request', async () => {
    for (const inclusive of [true, false]) {
      const how = { fromInclusive: inclusive, toInclusive: inclusive, shuffleTies: true };
      const records = Array.from({ length: 3_200 }, (_, nth) => {
        return { ID: String(nth), occurred: String(START_MS + (nth < 100 ? nth : 100)) };
      });
      records.push({ ID: 'last', occurred: String(START_MS + 101) });
      const trail = new MemoryTrail(records, { ...PLAIN_TRAIL, ...how });
      const range = [START_MS, START_MS + 60_000] as const;
      expectComplete(records, await read(trail, range), range);
    }
  });

  it('reads records without an id, some of them the same to the letter', async () => {
    const records = Array.from({ length: 45 }, () => ({ occurred: String(START_MS) }));
    const trail = new MemoryTrail(records, { ...PLAIN_TRAIL, pageSize: 10 });
    const done = await read(trail, [START_MS - 5, START_MS + 5]);
    expect(done.records.length).toBeGreaterThanOrEqual(45);
  });

  it('takes one request a page, and none of them is deep', async () => {
    const records = Array.from({ length: 20_000 }, (_, nth) => {
      return { ID: String(nth), occurred: String(START_MS + nth * 40) };
    });
    const trail = new MemoryTrail(records, PLAIN_TRAIL);
    await read(trail, [START_MS, START_MS + 900_000]);
    expect(trail.queries.length).toBeLessThanOrEqual(21);
    expect(trail.queries.every(({ page }) => page === 0)).toBe(true);
  });

  it('gives up a trail that keeps contradicting itself', async () => {
    const records = [{ ID: '1', occurred: String(START_MS) }];
    const trail = new MemoryTrail(records, PLAIN_TRAIL);
    trail.spoilings = new Map(Array.from({ length: 50 }, (_, turn) => [turn, 'emptyPage']));
    await expect(read(trail, [START_MS - 5, START_MS + 5])).rejects.toBeInstanceOf(WindowUnproven);
    expect(trail.queries.length).toBeLessThan(10);
  });
});
