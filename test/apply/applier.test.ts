import { sql } from 'drizzle-orm';
import { expect, it } from 'vitest';

import { createApplier } from '../../src/apply/applier.ts';
import { realUserIds } from '../support/world.ts';
import { beginFilled } from '../pull/pullScene.ts';

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
  const pending = await s.query<{ eventId: string }>(
    sql`select event_id as "eventId" from ${mirror.t.events} where state = 'pending' order by seq`,
  );
  const flights: number[] = [];
  const { client } = s.process();
  const applier = createApplier({
    mirror,
    client,
    includeTestUsers: false,
    breaker: { maxCount: 500, maxPercent: 5 },
    signal: new AbortController().signal,
    openWindow: () => Promise.resolve(),
    openSweep: () => Promise.resolve(),
    onApplied: ({ events }) => flights.push(events),
  });
  await applier.apply(pending.map(({ eventId }) => eventId));
  // 700 users; then twice 400; then the last 200.
  expect(flights).toEqual([1, 2, 2, 1]);
  await s.assertEqual();
});
