import pg from 'pg';
import { expect, it, onTestFinished } from 'vitest';

import { eventually } from './support/eventually.ts';
import { createWorld, realUserIds } from './support/world.ts';

it.each([
  ['true', true],
  ['false', false],
])(
  'a service with FEED_NOTIFY=%s tells listeners of changes: %s',
  async (setting, isTold) => {
    const world = await createWorld({
      simulator: { users: 5 },
      env: { FEED_NOTIFY: setting },
    });
    onTestFinished(() => world.stop());
    const heard: string[] = [];
    const listener = new pg.Client({ connectionString: world.database.url });
    await listener.connect();
    onTestFinished(() => listener.end());
    listener.on('notification', ({ channel, payload = '' }) => heard.push(`${channel} ${payload}`));
    await listener.query('listen descope_changes');
    await world.untilFilled();
    world.deliver();
    world.simulator.directory.modifyUser(realUserIds(world)[0] ?? '', { name: 'Changed' });
    await world.simulator.delivery.idle();
    await world.untilEqual();
    // Stopped in order: what was to be told was told before, or never will be.
    const untilHeard = (line: string) =>
      eventually(() => {
        expect(heard).toContain(line);
      });
    if (isTold) await untilHeard('descope_changes ');
    await world.service.stop();
    await world.database.mirror.pool.query(`notify descope_changes, 'last'`);
    await untilHeard('descope_changes last');
    expect(heard.includes('descope_changes ')).toBe(isTold);
  },
  60_000,
);
