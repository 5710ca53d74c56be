import { describe, expect, it } from 'vitest';

import { toUserRow } from '../../src/descope/users.ts';
import { floorSecond, judgePage, type Verdict } from '../../src/pull/judge.ts';

import type { UserQuery } from '../../src/descope/types.ts';

const query: UserQuery = { field: 'createdTime', fromMs: 10_000, toMs: 99_999, limit: 3 };

/** A page of users created in these seconds; null: without a time. */
function pageOf(seconds: readonly (number | null)[], total: number, pageSize = 3) {
  const users = seconds.map((createdTime, at) => {
    const row = toUserRow({ userId: `U${at}`, ...(createdTime !== null && { createdTime }) });
    if (!row) throw new Error('a user without an id');
    return row;
  });
  return { users, total, observedAt: '2026-01-01T00:00:00.000000Z', pageSize };
}

describe('a page is judged', () => {
  const upTo = (timeMs: number): Verdict => ({ kind: 'upTo', timeMs });
  const cases: readonly (readonly [string, ReturnType<typeof pageOf>, Partial<Verdict>])[] = [
    ['whole, where nobody matches', pageOf([], 0), { kind: 'whole' }],
    ['whole, where it holds every match', pageOf([10, 20], 2), { kind: 'whole' }],
    ['whole, where it is full and holds every match', pageOf([10, 20, 30], 3), { kind: 'whole' }],
    [
      'whole, where every match fits though none tells its time',
      pageOf([null], 1),
      { kind: 'whole' },
    ],
    [
      'whole, though not sorted, where it holds every match',
      pageOf([30, 10], 2),
      { kind: 'whole' },
    ],
    ['proven up to the last time, where it is full', pageOf([10, 20, 30], 4), upTo(30_000)],
    ['proven up to the last time, ties included', pageOf([10, 30, 30], 9), upTo(30_000)],
    ['full at the size Descope clamps to', pageOf([10, 20], 9, 2), upTo(20_000)],
    ['a tie, where all is of the first second', pageOf([10, 10, 10], 9), { kind: 'tie' }],
    ['a tie, where all lies before the range', pageOf([9, 9, 9], 9), { kind: 'tie' }],
    ['to be split, where a row has no time', pageOf([10, null, 30], 9), { kind: 'split' }],
    ['to be split, where it is not sorted', pageOf([10, 30, 20], 9), { kind: 'split' }],
    ['unproven, where it is short', pageOf([10, 20], 9), { kind: 'unproven' }],
    ['unproven, where it is empty and the total is not', pageOf([], 9), { kind: 'unproven' }],
    ['unproven, where it holds more than the total', pageOf([10, 20], 1), { kind: 'unproven' }],
    [
      'unproven, where it holds somebody and the total nobody',
      pageOf([10], 0),
      { kind: 'unproven' },
    ],
  ];
  it.each(cases)('%s', (_, page, verdict) => {
    expect(judgePage(query, page)).toMatchObject(verdict);
  });

  it('unproven, where a user appears twice', () => {
    const page = pageOf([10, 20], 2);
    const [first] = page.users;
    const twice = { ...page, users: first ? [first, first] : [] };
    expect(judgePage(query, twice)).toMatchObject({ kind: 'unproven' });
  });

  it('progress from the beginning of time, whatever the first second', () => {
    const open: UserQuery = { field: 'createdTime', limit: 3 };
    expect(judgePage(open, pageOf([10, 10, 10], 9))).toEqual({ kind: 'upTo', timeMs: 10_000 });
  });

  it('a tie by the whole second, where the range begins within it', () => {
    expect(judgePage({ ...query, fromMs: 10_700 }, pageOf([10, 10, 10], 9))).toMatchObject({
      kind: 'tie',
    });
  });

  it('by the field it is asked by', () => {
    const byModified: UserQuery = { ...query, field: 'modifiedTime' };
    // Created times are there, modified times are not.
    expect(judgePage(byModified, pageOf([10, 20, 30], 9))).toEqual({ kind: 'split' });
  });
});

it('ranges are cut at whole seconds', () => {
  expect([0, 999, 1_000, 1_999].map(floorSecond)).toEqual([0, 0, 1_000, 1_000]);
});
