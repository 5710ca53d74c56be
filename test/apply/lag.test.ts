import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { parseRecord } from '../../src/inbox/parse.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { beginFilled, type PullScene } from '../pull/pullScene.ts';
import { realUserIds } from '../support/world.ts';

const quiet = { event: false };
const LAG_MS = 60_000;

/** Records an event about a user, and looks at it. */
async function tell(s: PullScene, action: string, userId: string, agoMs = 0): Promise<void> {
  const { db, t } = s.database.mirror;
  const nowMs = Date.now();
  const event = parseRecord({ action, userId, occurred: nowMs - agoMs }, nowMs);
  if (!event) throw new Error('not an event');
  await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
  await s.applyEvents();
}

async function lookAgain(s: PullScene): Promise<void> {
  await s.query(
    sql`update ${s.database.mirror.t.events} set due_at = clock_timestamp() where state = 'pending'`,
  );
  await s.applyEvents();
}

/** The feed of a user since the first fill. */
async function changesOf(s: PullScene, userId: string): Promise<string[]> {
  const found = await s.query<{ kind: string }>(
    sql`select kind from ${s.database.mirror.t.userChanges} where user_id = ${userId} order by seq`,
  );
  return found.map(({ kind }) => kind).slice(1);
}

describe('a user deleted a moment ago whom a lagging read still shows', () => {
  it.each([
    ['now', 0],
    ['late', 7_200_000],
  ])('is not restored by an event told %s, but looked at again', async (_, agoMs) => {
    const s = await beginFilled({ simulator: { users: 40 } });
    const { directory, behaviour } = s.simulator;
    const [userId = ''] = realUserIds(s);
    directory.deleteUser(userId, quiet);
    await tell(s, 'UserDeleted', userId);
    expect(await changesOf(s, userId)).toEqual(['deleted']);

    behaviour.readLagMs = LAG_MS;
    await tell(s, 'UserModified', userId, agoMs);
    await lookAgain(s);
    expect(await changesOf(s, userId)).toEqual(['deleted']);
    behaviour.readLagMs = 0;
    await lookAgain(s);
    expect(await changesOf(s, userId)).toEqual(['deleted']);
    const events = await s.query(sql`select state from ${s.database.mirror.t.events}`);
    expect(events).toEqual([{ state: 'applied' }, { state: 'applied' }]);
    await s.assertEqual();
  });

  it('is not restored by a pull, whose pages and loads come from the same copy', async () => {
    const s = await beginFilled({ simulator: { users: 40 } });
    const { directory, behaviour } = s.simulator;
    const [userId = ''] = realUserIds(s);
    s.ago(9_000, () => directory.modifyUser(userId, { name: 'Leaves' }, quiet));
    directory.deleteUser(userId, quiet);
    await tell(s, 'UserDeleted', userId);
    behaviour.readLagMs = 5_000;
    const before = await s.watermark('modified');
    await expect(s.pullModified()).rejects.toThrow('1 users deleted a moment ago are shown');
    expect(await s.watermark('modified')).toBe(before);
    expect(await changesOf(s, userId)).not.toContain('restored');
    behaviour.readLagMs = 0;
    expect(await s.pullModified()).toBe('done');
    await s.assertEqual();
  });

  it('is restored where every look shows them', async () => {
    const s = await beginFilled({ simulator: { users: 40 } });
    const [userId = ''] = realUserIds(s);
    await s.query(sql`
      update ${s.database.mirror.t.users} set deleted_at = clock_timestamp()
      where user_id = ${userId}`);
    await tell(s, 'UserModified', userId);
    await lookAgain(s);
    await lookAgain(s);
    expect(await changesOf(s, userId)).toEqual([]);
    await lookAgain(s);
    expect(await changesOf(s, userId)).toEqual(['restored']);
    await s.assertEqual();
  });

  it('and one deleted long ago at once', async () => {
    const s = await beginFilled({ simulator: { users: 40 } });
    const [userId = ''] = realUserIds(s);
    await s.query(sql`
      update ${s.database.mirror.t.users} set deleted_at = clock_timestamp() - interval '61 s'
      where user_id = ${userId}`);
    await tell(s, 'UserModified', userId);
    expect(await changesOf(s, userId)).toEqual(['restored']);
  });
});
