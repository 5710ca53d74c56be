import { expect, it } from 'vitest';

import { toUserRow } from '../../src/descope/users.ts';
import { toPresent } from '../../src/observation.ts';
import { ahead } from '../../src/pull/ahead.ts';

import type { ProvenStep } from '../../src/pull/readRange.ts';

const at = (second: number) => `2026-01-01T00:00:0${second}.000000Z`;

/** The step from `fromMs`, in which these users are seen, a second after the step before. */
function step(fromMs: number, userIds: readonly string[], untilMs: number | null): ProvenStep {
  const observedAt = at(fromMs);
  const observations = userIds.map((userId) => {
    const row = toUserRow({ userId, name: `seen from ${fromMs}` });
    if (!row) throw new Error('no row');
    return toPresent(row, observedAt, 'page');
  });
  const seen = new Map(userIds.map((userId) => [userId, fromMs]));
  return { observations, seen, observedAt, fromMs, untilMs, total: 10 - fromMs };
}

/** Steps one user each, every one handed over when it is asked for; `asked` counts. */
function createSource(count: number, failure?: Error) {
  const source = {
    asked: 0,
    async *read(): AsyncGenerator<ProvenStep, void> {
      for (let from = 1; from <= count; from++) {
        source.asked++;
        yield await Promise.resolve(step(from, [`U${from}`], from === count ? null : from + 1));
      }
      source.asked++;
      if (failure) throw failure;
    },
  };
  return source;
}

/** All that waits for promises, and what that leads to, has happened. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const impatient = () => false;
const idsOf = ({ observations }: ProvenStep) => observations.map((o) => o.userId);

it('gives the first step before it asks for another', async () => {
  const source = createSource(5);
  const steps = ahead(source.read(), impatient);
  const first = await steps.next();
  await settled();
  expect(first.value && idsOf(first.value)).toEqual(['U1']);
  expect(source.asked).toBe(1);
});

it('reads three steps at most while one is being written, and joins them', async () => {
  const source = createSource(9);
  const steps = ahead(source.read(), impatient);
  await steps.next();
  const second = await steps.next();
  expect(second.value && idsOf(second.value)).toEqual(['U2']);
  // Somebody writes for long.
  await settled();
  expect(source.asked).toBe(5);
  const { value } = await steps.next();
  expect(value && idsOf(value)).toEqual(['U3', 'U4', 'U5']);
  expect(value).toMatchObject({ fromMs: 3, untilMs: 6, total: 7, observedAt: at(3) });
});

it('waits for three where the caller is patient, and for no more than there are', async () => {
  const steps = ahead(createSource(6).read(), () => true);
  const all: string[][] = [];
  for await (const one of steps) all.push(idsOf(one));
  expect(all).toEqual([['U1'], ['U2', 'U3', 'U4'], ['U5', 'U6']]);
});

it('keeps of a user whom two steps show the later look, and counts them once', async () => {
  async function* source(): AsyncGenerator<ProvenStep, void> {
    yield step(1, ['U1'], 2);
    yield step(2, ['U2', 'U3'], 3);
    yield step(3, ['U3', 'U4'], null);
    await Promise.resolve();
  }
  const steps = ahead(source(), () => true);
  await steps.next();
  const { value } = await steps.next();
  if (!value) throw new Error('nothing came');
  expect(idsOf(value)).toEqual(['U2', 'U3', 'U4']);
  expect(value.observations.map((o) => o.row.name)).toEqual([2, 3, 3].map((n) => `seen from ${n}`));
  expect([...value.seen]).toEqual([
    ['U2', 2],
    ['U3', 3],
    ['U4', 3],
  ]);
  expect(value.untilMs).toBeNull();
});

it('fails only when all that was read before has been given', async () => {
  const failure = new Error('gone');
  const steps = ahead(createSource(3, failure).read(), () => true);
  await steps.next();
  const { value } = await steps.next();
  expect(value && idsOf(value)).toEqual(['U2', 'U3']);
  await expect(steps.next()).rejects.toBe(failure);
});

it('reads no further than the step under way once the caller has stopped', async () => {
  const source = createSource(9);
  const steps = ahead(source.read(), impatient);
  await steps.next();
  await steps.next();
  const { asked } = source;
  await steps.return();
  await settled();
  expect(source.asked).toBeLessThanOrEqual(asked + 1);
});
