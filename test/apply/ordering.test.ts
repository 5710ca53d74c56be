import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { toUserRow } from '../../src/descope/users.ts';
import { decide, winner, type Decision, type StoredUser } from '../../src/apply/ordering.ts';

import type { Observation } from '../../src/observation.ts';

const instants = {
  older: '2026-01-01T00:00:01.000000Z',
  equal: '2026-01-01T00:00:02.000000Z',
  newer: '2026-01-01T00:00:03.000000Z',
} as const;
type Age = keyof typeof instants;

/** Three contents, in the order of their hashes. */
const contents = [1, 2, 3]
  .map((n) => toUserRow({ userId: 'U1', name: `Name ${n}` }))
  .filter((row) => row !== null)
  .sort((a, b) => (a.contentHash < b.contentHash ? -1 : 1));

function present(at: string, content: number, by: 'load' | 'page'): Observation {
  const row = contents[content];
  if (!row) throw new Error('no such content');
  return { kind: 'present', userId: 'U1', row, observedAt: at, by };
}

const absent = (at: string): Observation => ({ kind: 'absent', userId: 'U1', observedAt: at });

/** The mirror holds the middle one of the contents, seen at `equal`. */
const stored = (gone: boolean): StoredUser => ({
  contentHash: contents[1]?.contentHash ?? '',
  observedAt: instants.equal,
  gone,
});

const CONTENT = { lower: 0, same: 1, higher: 2 } as const;
type Seen =
  `${'load' | 'page'} of ${'the same' | 'a lower' | 'a higher'} content` | 'a load of nobody';
type Held = 'live' | 'gone' | 'unknown';

/** The whole rule: what is seen, how old it is, and what the mirror holds. Total, so nothing is left open. */
const RULE: Record<Seen, Record<Age, Record<Held, Decision>>> = {
  'load of the same content': {
    older: { live: 'unchanged', gone: 'stale', unknown: 'insert' },
    equal: { live: 'unchanged', gone: 'restore', unknown: 'insert' },
    newer: { live: 'touch', gone: 'restore', unknown: 'insert' },
  },
  'load of a lower content': {
    older: { live: 'stale', gone: 'stale', unknown: 'insert' },
    equal: { live: 'stale', gone: 'restore', unknown: 'insert' },
    newer: { live: 'update', gone: 'restore', unknown: 'insert' },
  },
  'load of a higher content': {
    older: { live: 'stale', gone: 'stale', unknown: 'insert' },
    equal: { live: 'update', gone: 'restore', unknown: 'insert' },
    newer: { live: 'update', gone: 'restore', unknown: 'insert' },
  },
  'page of the same content': {
    older: { live: 'unchanged', gone: 'stale', unknown: 'insert' },
    equal: { live: 'unchanged', gone: 'refused', unknown: 'insert' },
    newer: { live: 'unchanged', gone: 'refused', unknown: 'insert' },
  },
  'page of a lower content': {
    older: { live: 'stale', gone: 'stale', unknown: 'insert' },
    equal: { live: 'stale', gone: 'refused', unknown: 'insert' },
    newer: { live: 'update', gone: 'refused', unknown: 'insert' },
  },
  'page of a higher content': {
    older: { live: 'stale', gone: 'stale', unknown: 'insert' },
    equal: { live: 'update', gone: 'refused', unknown: 'insert' },
    newer: { live: 'update', gone: 'refused', unknown: 'insert' },
  },
  'a load of nobody': {
    older: { live: 'stale', gone: 'unchanged', unknown: 'tombstone' },
    equal: { live: 'stale', gone: 'unchanged', unknown: 'tombstone' },
    newer: { live: 'tombstone', gone: 'touch', unknown: 'tombstone' },
  },
};

function observe(seen: Seen, age: Age): Observation {
  const at = instants[age];
  if (seen === 'a load of nobody') return absent(at);
  const by = seen.startsWith('load') ? 'load' : 'page';
  const content = (['lower', 'same', 'higher'] as const).find((name) => seen.includes(name));
  return present(at, CONTENT[content ?? 'same'], by);
}

describe('the write rule', () => {
  for (const [seen, byAge] of Object.entries(RULE) as [Seen, (typeof RULE)[Seen]][]) {
    for (const [age, byHeld] of Object.entries(byAge) as [Age, Record<Held, Decision>][]) {
      for (const [held, decision] of Object.entries(byHeld) as [Held, Decision][]) {
        it(`${seen}, ${age}, of a user who is ${held} in the mirror: ${decision}`, () => {
          const known = held === 'unknown' ? undefined : stored(held === 'gone');
          expect(decide(observe(seen, age), known)).toBe(decision);
        });
      }
    }
  }
});

describe('of two observations of one user', () => {
  const one = fc
    .tuple(
      fc.constantFrom(...Object.values(instants)),
      fc.constantFrom(0, 1, 2),
      fc.constantFrom('load', 'page', 'absent'),
    )
    .map(([at, content, kind]) => (kind === 'absent' ? absent(at) : present(at, content, kind)));

  it('the same one goes on whichever comes first', () => {
    fc.assert(
      fc.property(one, one, (a, b) => {
        expect(winner(a, b)).toEqual(winner(b, a));
      }),
    );
  });

  it('of three, the same one goes on however they are paired', () => {
    fc.assert(
      fc.property(one, one, one, (a, b, c) => {
        expect(winner(winner(a, b), c)).toEqual(winner(a, winner(b, c)));
      }),
    );
  });

  it('never the older one', () => {
    fc.assert(
      fc.property(one, one, (a, b) => {
        const later = a.observedAt > b.observedAt ? a.observedAt : b.observedAt;
        expect(winner(a, b).observedAt).toBe(later);
      }),
    );
  });
});
