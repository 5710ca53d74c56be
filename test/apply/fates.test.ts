import { expect, test } from 'vitest';

import { emptySummary } from '../../src/apply/batch.ts';
import { noteFates, tellFates, type Fates } from '../../src/apply/fates.ts';

const NOTHING = {
  present: [],
  absent: [],
  leftOut: [],
  unsettled: [],
  notRestored: [],
  held: [],
  written: [],
};
const EARLY = '2026-11-21T01:20:00.000000Z';
const LATE = '2026-11-21T01:20:01.000000Z';

function sightOf(moments: Readonly<Record<string, string>>) {
  const absences = Object.entries(moments).map(([userId, observedAt]) => {
    return [userId, { userId, observedAt, evidence: 'not found' }] as const;
  });
  return { seen: new Map(), absences: new Map(absences) };
}

test("an event's outcome tells when its user was read, and what became of it", () => {
  const fates: Fates = new Map();
  const summary = { ...emptySummary(), stale: ['U1'], restored: ['U2'] };
  noteFates(fates, { ...NOTHING, present: ['U1', 'U2'], unsettled: ['U3'], written: [summary] });
  const sight = sightOf({ U1: EARLY, U2: EARLY, U3: LATE });
  const tell = (...userIds: string[]) => tellFates('seen', userIds, fates, sight);

  expect(tell('U1')).toBe(`seen, read at ${EARLY}: not written, something newer was seen`);
  expect(tell('U2')).toBe(`seen, read at ${EARLY}: restored`);
  expect(tell('U3')).toBe(`seen, read at ${LATE}: not deleted yet, an event still expects it`);
});

test('of several users it tells how many met which fate, and a moment only where all have it', () => {
  const fates: Fates = new Map();
  const present = ['U1', 'U2', 'U3'];
  noteFates(fates, { ...NOTHING, present, written: [{ ...emptySummary(), updated: ['U2'] }] });
  const together = sightOf({ U1: EARLY, U2: EARLY, U3: EARLY });
  const apart = sightOf({ U1: EARLY, U2: LATE, U3: EARLY });

  expect(tellFates('seen', present, fates, together)).toBe(
    `seen, read at ${EARLY}: 2 unchanged; 1 updated`,
  );
  expect(tellFates('seen', present, fates, apart)).toBe('seen: 2 unchanged; 1 updated');
});

test('an outcome of nobody stays as it is', () => {
  expect(tellFates('no such user', [], new Map(), sightOf({}))).toBe('no such user');
});
