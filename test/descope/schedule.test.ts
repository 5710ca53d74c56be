import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { openScene, START_MS, useUp, type Driven, type Scene } from './driven.ts';

import type { Priority } from '../../src/descope/types.ts';

let scene: Scene;

beforeAll(async () => {
  scene = await openScene();
});

afterAll(() => scene.close());

const MINUTE_MS = 60_000;
/** A minute of the provider's holds what was granted in it, and half a second earlier. */
const WINDOW_MS = MINUTE_MS + 500;

function mostIn(windowMs: number, grantsMs: readonly number[]): number {
  let most = 0;
  let first = 0;
  grantsMs.forEach((atMs, last) => {
    // Both ends belong to the window: the strictest reading.
    while (atMs - (grantsMs[first] ?? atMs) > windowMs) first++;
    most = Math.max(most, last - first + 1);
  });
  return most;
}

/** How many fall in each whole minute since the beginning. */
function perMinuteOf(grantsMs: readonly number[], minutes: number): number[] {
  return Array.from({ length: minutes }, (_, minute) => {
    const fromMs = START_MS + minute * MINUTE_MS;
    return grantsMs.filter((atMs) => atMs >= fromMs && atMs < fromMs + MINUTE_MS).length;
  });
}

/** Asks again when it is told to, each time so much later as `lateMs` says; returns when slots were granted. */
async function load(
  { clock, schedule }: Driven,
  priority: Priority,
  durationMs: number,
  lateMs = () => 0,
): Promise<{ grantsMs: number[]; asked: number }> {
  const grantsMs: number[] = [];
  let asked = 0;
  for (const endMs = clock.nowMs + durationMs; clock.nowMs < endMs; asked++) {
    const { granted, waitMs } = await schedule.ask(priority);
    if (granted > 0) grantsMs.push(clock.nowMs);
    else clock.nowMs += waitMs + lateMs();
  }
  return { grantsMs, asked };
}

/** Numbers from 0 to 1 that look random and are always the same. */
function steady(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

/** Two processes with more to sweep than the budget lets through, each late by up to `lateMs` whenever it waited. */
async function saturate(run: Driven, minutes: number, lateMs: number, seed: number) {
  const random = steady(seed);
  const askers = [run.schedule, run.elsewhere].map((schedule) => ({ schedule, atMs: START_MS }));
  const grantsMs: number[] = [];
  for (;;) {
    const next = askers.reduce((one, two) => (two.atMs < one.atMs ? two : one));
    if (next.atMs >= START_MS + minutes * MINUTE_MS) return grantsMs;
    run.clock.nowMs = next.atMs;
    const { granted, waitMs } = await next.schedule.ask('sweep', 8);
    for (let slot = 0; slot < granted; slot++) grantsMs.push(next.atMs);
    next.atMs += granted > 0 ? 1 : waitMs + random() * lateMs;
  }
}

describe('the cap', () => {
  it('G6: grants at most its number in any minute, and uses 97 % of it under load', async () => {
    for (const perMinute of [1, 2, 8, 30, 100, 240]) {
      const minutes = perMinute < 10 ? 20 : 2;
      const { grantsMs, asked } = await load(scene.driven(perMinute), 'event', minutes * MINUTE_MS);
      expect(mostIn(WINDOW_MS, grantsMs)).toBeLessThanOrEqual(perMinute);
      expect(grantsMs.length).toBeGreaterThanOrEqual(Math.floor(0.97 * perMinute * minutes));
      // It is told when to come, for the spread as for the cap.
      expect(asked).toBeLessThanOrEqual(3 * grantsMs.length + 3);
    }
  });

  it('G6: holds whoever asks, whenever, with idle stretches and silences between', async () => {
    const step = fc.record({
      isElsewhere: fc.boolean(),
      priority: fc.constantFrom<Priority>('event', 'pull', 'sweep'),
      wanted: fc.integer({ min: 1, max: 10 }),
      idleMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 90_000 })),
      lateMs: fc.integer({ min: 0, max: 3_000 }),
      burst: fc.integer({ min: 1, max: 60 }),
      silenceMs: fc.option(fc.integer({ min: 1, max: 30_000 }), { freq: 10, nil: 0 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 60 }),
        fc.array(step, { minLength: 1, maxLength: 5 }),
        async (perMinute, steps) => {
          const run = scene.driven(perMinute);
          const { clock } = run;
          const grantsMs: number[] = [];
          for (const { isElsewhere, priority, wanted, idleMs, lateMs, burst, silenceMs } of steps) {
            const schedule = isElsewhere ? run.elsewhere : run.schedule;
            clock.nowMs += idleMs;
            if (silenceMs > 0) await schedule.silence(silenceMs, 1);
            const silentUntilMs = clock.nowMs + silenceMs;
            for (let asked = 0; asked < burst; asked++) {
              const { granted, waitMs } = await schedule.ask(priority, wanted);
              expect(granted).toBeLessThanOrEqual(wanted);
              expect(granted > 0).toBe(waitMs === 0);
              if (granted > 0) expect(clock.nowMs).toBeGreaterThanOrEqual(silentUntilMs);
              for (let slot = 0; slot < granted; slot++) grantsMs.push(clock.nowMs);
              if (waitMs > 0) clock.nowMs += waitMs + lateMs;
            }
          }
          expect(mostIn(WINDOW_MS, grantsMs)).toBeLessThanOrEqual(perMinute);
          expect((await run.row()).recent.length).toBeLessThanOrEqual(122);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('G6: is used by 97 of 100 in each minute when only sweeps ask, up to 0.3 s late', async () => {
    const grantsMs = await saturate(scene.driven(100), 5, 300, 1);
    expect(mostIn(WINDOW_MS, grantsMs)).toBeLessThanOrEqual(100);
    expect(Math.min(...perMinuteOf(grantsMs, 5))).toBeGreaterThanOrEqual(97);
  });

  it('G6: is used by 95 of 100 in each minute, and 97 on average, on a machine too busy to be in time', async () => {
    for (const seed of [1, 2]) {
      const grantsMs = await saturate(scene.driven(100), 5, 1_500, seed);
      expect(mostIn(WINDOW_MS, grantsMs)).toBeLessThanOrEqual(100);
      expect(Math.min(...perMinuteOf(grantsMs, 5))).toBeGreaterThanOrEqual(95);
      expect(grantsMs.length).toBeGreaterThanOrEqual(97 * 5);
    }
  });

  it('G6: waits until enough has expired where the budget was lowered', async () => {
    const run = scene.driven(100);
    await load(run, 'sweep', MINUTE_MS);
    const lowered = run.open(10);
    const { waitMs } = await lowered.ask('sweep');
    // The last ten of the old pace must be all that is left of the minute.
    expect(waitMs).toBeGreaterThan(50_000);
    run.clock.nowMs += waitMs - 1;
    expect((await lowered.ask('sweep')).granted).toBe(0);
    run.clock.nowMs += 1;
    expect((await lowered.ask('sweep', 5)).granted).toBe(1);
  });

  it.each([5_000, 600_000])(
    'G6: holds while a clock is set back by %i ms, and goes on',
    async (backMs) => {
      const run = scene.driven(100);
      const { grantsMs: before } = await load(run, 'event', 90_000);
      run.clock.nowMs -= backMs;
      const { grantsMs: after } = await load(run, 'event', 3 * MINUTE_MS);
      const real = [...before, ...after.map((atMs) => atMs + backMs)];
      expect(mostIn(WINDOW_MS, real)).toBeLessThanOrEqual(100);
      // A minute at most is lost: what was granted before counts as granted when the clock was set.
      expect(after.length).toBeGreaterThanOrEqual(190);
    },
  );

  it('G6: starves nobody by a mark from before a clock was set back', async () => {
    const run = scene.driven(100);
    await useUp(run.schedule, 'event');
    run.clock.nowMs -= 600_000;
    const { grantsMs } = await load(run, 'sweep', 2 * MINUTE_MS);
    expect(grantsMs.length).toBeGreaterThanOrEqual(90);
  });

  it('costs a large budget no more than a small one', async () => {
    const run = scene.driven(10_000_000);
    for (const idleMs of [0, 3, 400, 70_000]) {
      run.clock.nowMs += idleMs;
      expect((await run.schedule.ask('event', 1_000)).granted).toBe(1_000);
    }
    const row = await run.row();
    expect(row.granted).toBe(4_000);
    expect(row.recent.length).toBeLessThanOrEqual(122);
  });
});

describe('the spread', () => {
  it('G6: lets few go at once after an idle stretch, then one an interval', async () => {
    for (const [perMinute, most] of [
      [1, 1],
      [8, 1],
      [60, 3],
      [100, 4],
      [600, 21],
    ] as const) {
      const { clock, schedule } = scene.driven(perMinute);
      for (const idleMs of [0, 3_600_000]) {
        clock.nowMs += idleMs;
        expect(await useUp(schedule, 'sweep')).toBe(most);
      }
      const { granted } = await schedule.ask('event', 1_000);
      expect(granted).toBe(0);
    }
  });

  it('G6: lets nobody gain by asking for many at once', async () => {
    const { clock, schedule } = scene.driven(100);
    expect((await schedule.ask('sweep', 50)).granted).toBe(4);
    // The next is due 2.4 s after the first, and may leave 2 s before that.
    expect((await schedule.ask('sweep', 50)).waitMs).toBe(400);
    clock.nowMs += 500;
    expect((await schedule.ask('sweep', 50)).granted).toBe(1);
    expect((await schedule.ask('sweep', 50)).waitMs).toBe(500);
  });

  it('makes up for who asks up to 2 s late', async () => {
    const { clock, schedule } = scene.driven(60);
    let granted = await useUp(schedule, 'sweep');
    for (let asked = 0; asked < 20; asked++) {
      clock.nowMs += 2_000;
      granted += (await schedule.ask('sweep', 10)).granted;
    }
    expect(granted).toBe(3 + 40);
  });

  it('G6: is one for all processes', async () => {
    const run = scene.driven(100);
    const slots = await Promise.all(
      Array.from({ length: 60 }, (_, index) =>
        (index % 2 === 0 ? run.schedule : run.elsewhere).ask('event'),
      ),
    );
    expect(slots.filter(({ granted }) => granted > 0)).toHaveLength(4);
    expect((await run.row()).granted).toBe(4);
  });
});
