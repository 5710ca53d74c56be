import { sql } from 'drizzle-orm';
import { expect, it } from 'vitest';

import { createApplier } from '../../src/apply/applier.ts';
import { eventually } from '../support/eventually.ts';
import { realUserIds } from '../support/world.ts';
import { beginFilled, type PullScene } from '../pull/pullScene.ts';

it('bounds a flight by the users its events name; an event alone may name more (G8)', async () => {
  const s = await beginFilled({ simulator: { users: 800 } });
  const { mirror } = s.database;
  const userIds = realUserIds(s);
  const { directory } = s.simulator;
  s.ago(30_000, () => {
    directory.modifyBatch(userIds.slice(0, 700), { name: 'Everybody' });
    for (let nth = 1; nth <= 5; nth++) {
      s.clock.shiftMs += 1_000;
      directory.modifyBatch(userIds.slice(nth * 100, nth * 100 + 200), { name: `Round ${nth}` });
    }
    s.clock.shiftMs -= 5_000;
  });
  await s.pullAudit();
  const flights: number[] = [];
  const { client } = s.process();
  const applier = createApplier({
    mirror,
    client,
    includeTestUsers: false,
    breaker: { maxCount: 500, maxPercent: 5 },
    signal: new AbortController().signal,
    overlapMs: 0,
    openWindow: () => Promise.resolve(),
    openSweep: () => Promise.resolve(),
    onApplied: ({ events }) => flights.push(events),
  });
  await applier.apply(await pendingIds(s));
  // In any order: the one of 700 users alone, and of 200 users each never more than two together.
  expect(flights.reduce((sum, events) => sum + events, 0)).toBe(6);
  expect(flights.length).toBeGreaterThanOrEqual(4);
  expect(Math.max(...flights)).toBe(2);
  await s.assertEqual();
});

it('is not held up by a load that takes long', async () => {
  const s = await beginFilled({ simulator: { users: 20 }, requestTimeoutMs: 4_000 });
  const { directory, faults } = s.simulator;
  const [one = '', another = ''] = realUserIds(s);
  s.ago(9_000, () => directory.modifyUser(one, { name: 'Waits' }));
  await s.pullAudit();
  const { applier } = s.process();
  faults.next('hang', { path: 'user' });
  const waiting = applier.apply(await pendingIds(s));
  await eventually(() => {
    expect(faults.count).toBe(1);
  });
  s.ago(9_000, () => directory.modifyUser(another, { name: 'Does not' }));
  await s.pullAudit();
  const [, later = ''] = await pendingIds(s);
  await applier.apply([later]);
  expect(await pendingIds(s)).toHaveLength(1);
  await waiting;
  await s.assertEqual();
});

async function pendingIds(s: PullScene): Promise<string[]> {
  const pending = await s.query<{ eventId: string }>(
    sql`select event_id as "eventId" from ${s.database.mirror.t.events}
        where state = 'pending' order by seq`,
  );
  return pending.map(({ eventId }) => eventId);
}
