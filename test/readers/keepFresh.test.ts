import { describe, expect, it } from 'vitest';

import { keepFresh } from '../../src/readers/keepFresh.ts';

interface Reading {
  readonly resolve: (value: string) => void;
  readonly reject: (error: Error) => void;
}

/** Readings end when they are told to. */
function begin(patienceMs: number) {
  const readings: Reading[] = [];
  let nowMs = 0;
  const read = keepFresh(
    () =>
      new Promise<string>((resolve, reject) => {
        readings.push({ resolve, reject });
      }),
    { nowMs: () => nowMs, patienceMs },
  );
  return {
    readings,
    readAt: (ms: number) => {
      nowMs = ms;
      return read();
    },
    /** The first reading ends at that moment; it began at 0. */
    endAt: (ms: number) => {
      nowMs = ms;
      readings[0]?.resolve('old');
    },
  };
}

describe('keepFresh', () => {
  it('tells the value before where the next one takes too long, and how old that is', async () => {
    const { readings, readAt, endAt } = begin(1);
    const first = readAt(0);
    endAt(2_000);
    expect(await first).toEqual({ value: 'old', ageMs: 2_000 });
    expect(await readAt(14_999)).toEqual({ value: 'old', ageMs: 14_999 });
    expect(readings).toHaveLength(1);
    expect(await readAt(15_000)).toEqual({ value: 'old', ageMs: 15_000 });
    expect(await readAt(40_000)).toEqual({ value: 'old', ageMs: 40_000 });
    // One reading for all, and who asks after it has it.
    expect(readings).toHaveLength(2);
    readings[1]?.resolve('new');
    expect(await readAt(40_000)).toEqual({ value: 'new', ageMs: 25_000 });
  });

  it('reads again at once what took no time, and later what took some', async () => {
    const { readings, readAt, endAt } = begin(60_000);
    const first = readAt(0);
    endAt(50);
    await first;
    expect(await readAt(499)).toEqual({ value: 'old', ageMs: 499 });
    const next = readAt(500);
    readings[1]?.resolve('new');
    expect(await next).toEqual({ value: 'new', ageMs: 0 });
    void readAt(501);
    expect(readings).toHaveLength(3);
  });

  it('waits for the next one where the value before is minutes old', async () => {
    const { readings, readAt } = begin(1);
    const first = readAt(0);
    readings[0]?.resolve('old');
    await first;
    const late = readAt(300_000);
    readings[1]?.resolve('new');
    expect(await late).toEqual({ value: 'new', ageMs: 0 });
  });

  it('waits a moment for the next one', async () => {
    const { readings, readAt } = begin(60_000);
    const first = readAt(0);
    readings[0]?.resolve('old');
    await first;
    const next = readAt(15_000);
    readings[1]?.resolve('new');
    expect(await next).toEqual({ value: 'new', ageMs: 0 });
  });

  it('reads again after a failure, of which only those who waited hear', async () => {
    const { readings, readAt } = begin(60_000);
    const first = readAt(0);
    readings[0]?.resolve('old');
    await first;
    const second = readAt(20_000);
    readings[1]?.reject(new Error('gone'));
    await expect(second).rejects.toThrow('gone');
    const third = readAt(20_001);
    readings[2]?.resolve('new');
    expect(await third).toEqual({ value: 'new', ageMs: 0 });
  });
});
