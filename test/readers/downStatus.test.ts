import { sql } from 'drizzle-orm';
import { expect, onTestFinished, test } from 'vitest';

import { createWorld, realUserIds } from '../support/world.ts';

test('sync_status stays right when the service is down: nothing is proven that nobody read', async () => {
  const world = await createWorld({ simulator: { users: 20 } });
  onTestFinished(() => world.stop());
  await world.untilFilled();
  const read = async () => {
    const [row] = await world.query<{ asOf: string; lag: number; pending: number; gaps: number }>(
      sql`select as_of as "asOf", extract(epoch from lag)::float8 as lag, pending_events::int as pending,
                 gaps::int from ${world.database.mirror.t.syncStatus}`,
    );
    if (!row) throw new Error('no status');
    return row;
  };
  const running = await read();
  await world.service.stop();
  const stoppedMs = Date.now();

  // The directory moves on, and a delivery was taken that nobody applied.
  world.simulator.directory.deleteMany(realUserIds(world).slice(0, 1), { event: false });
  const { db, t } = world.database.mirror;
  await db.execute(sql`
    insert into ${t.events} (event_id, action, occurred_at, payload)
    values ('late', 'UserCreated', clock_timestamp(), '{}')`);
  const down = await read();

  expect(down.asOf).toEqual(running.asOf);
  expect(Date.parse(down.asOf)).toBeLessThanOrEqual(stoppedMs);
  expect(down.lag).toBeGreaterThan(running.lag);
  expect(down).toMatchObject({ pending: 1, gaps: 0 });
});
