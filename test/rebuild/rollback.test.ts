import { sql } from 'drizzle-orm';
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { databaseNow, transaction } from '../../src/mirror/database.ts';
import { toPresent } from '../../src/observation.ts';
import { ReadersBusy } from '../../src/rebuild/failures.ts';
import { rollBack } from '../../src/rebuild/previous.ts';
import { withoutCredentials } from '../commands/context.ts';
import { startProcess } from '../support/process.ts';
import { realUserIds } from '../support/world.ts';
import { caughtUp, filled, followFeed, runRebuild, SILENT, tables } from './rebuildScene.ts';

describe('rollcall rebuild --rollback', () => {
  it('brings back what was read before, tells the feed, and again swaps forward', async () => {
    const s = await filled();
    const [changed = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(changed, { givenName: 'Hidden' }, SILENT);
    const names = () =>
      s.query<{ name: string }>(
        sql`select given_name as name from descope.live_users where user_id = ${changed}`,
      );
    const before = await names();
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await names()).toEqual([{ name: 'Hidden' }]);
    const told = await followFeed(s);

    const back = await runRebuild(s, 'rollback');

    expect(back.exitCode).toBe(0);
    expect(back.json()).toMatchObject({ outcome: 'rolledBack', counts: { different: 1 } });
    expect(await names()).toEqual(before);
    const change = { userId: changed, kind: 'updated', changed: ['givenName'] };
    expect(await told()).toEqual([change]);

    expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);
    expect(await names()).toEqual([{ name: 'Hidden' }]);
    expect(await told()).toEqual([change, change]);
    await s.assertEqual();
  });

  it('keeps what was seen since the swap, and removes nobody (G3, G4)', async () => {
    const s = await filled();
    const { directory } = s.simulator;
    const [changed = '', gone = '', lost = '', hidden = ''] = realUserIds(s);
    const { db } = s.database.mirror;
    await db.execute(sql`delete from descope.users where user_id = ${lost}`);
    directory.modifyUser(hidden, { givenName: 'Hidden' }, SILENT);
    expect((await runRebuild(s)).exitCode).toBe(0);
    directory.modifyUser(changed, { givenName: 'Since' });
    directory.deleteUser(gone);
    const { userId: created } = directory.createUser({ test: false });
    await caughtUp(s);
    const told = await followFeed(s);

    expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);

    // All but what only the rebuild had found: that is what was gone back from.
    await s.assertEqual((userId) => userId === hidden);
    expect((await told()).map(({ userId, kind }) => [userId, kind])).toEqual([[hidden, 'updated']]);
    expect(
      await s.query(
        sql`select user_id from descope.live_users where user_id in (${lost}, ${created})`,
      ),
    ).toHaveLength(2);
    expect((await runRebuild(s)).exitCode).toBe(0);
    await s.assertEqual();
  });

  it('keeps what was loaded before the swap, and written after it had made the writer wait', async () => {
    const s = await filled({ simulator: { users: 30 } });
    const { mirror } = s.database;
    const [userId = ''] = realUserIds(s);
    // Everyone is read: what follows is the swap.
    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    const loadedAt = await databaseNow(mirror);
    expect((await runRebuild(s)).exitCode).toBe(0);
    const loaded = { userId, loginIds: [userId], givenName: 'Late', createdTime: 1_700_000_000 };
    const row = toUserRow(loaded);
    if (!row) throw new Error('not a user');
    const { updated } = await transaction(mirror, (tx) =>
      applyObservations(tx, mirror.t, [toPresent(row, loadedAt, 'load')], 'webhook'),
    );
    expect(updated).toEqual([userId]);

    expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);

    expect(
      await s.query(
        sql`select given_name as name from descope.live_users where user_id = ${userId}`,
      ),
    ).toEqual([{ name: 'Late' }]);
  });

  it('waits for a transaction that still sees the database as it was before', async () => {
    const s = await filled({ simulator: { users: 30 } });
    expect((await runRebuild(s)).exitCode).toBe(0);
    const old = new pg.Client({ connectionString: s.database.url });
    await old.connect();
    onTestFinished(() => old.end());
    await old.query('begin isolation level repeatable read; select 1');
    const { signal } = new AbortController();
    const back = () => rollBack(s.database.mirror, { signal, patienceMs: 0 });
    await expect(back()).rejects.toThrow(ReadersBusy);
    await old.query('commit');
    expect(await back()).toMatchObject({ told: { deleted: 0 } });
  });

  it('needs no credentials, and leaves an entry in the admin log like the rebuild', async () => {
    const s = await filled({ simulator: { users: 30 } });
    expect((await runRebuild(s)).exitCode).toBe(0);
    const cli = async (...args: string[]) => {
      const child = startProcess(['rebuild', ...args], { env: withoutCredentials(s) });
      return { exit: await child.exit, text: child.stdout() + child.stderr() };
    };
    expect(await cli()).toMatchObject({
      exit: 2,
      text: expect.stringContaining('DESCOPE_MANAGEMENT_KEY is required') as string,
    });
    expect(await cli('--rollback', '--discard')).toMatchObject({ exit: 2 });
    expect(await cli('--rollback')).toMatchObject({
      exit: 0,
      text: expect.stringContaining('swapped back') as string,
    });
    expect(await cli('--drop-previous')).toMatchObject({ exit: 0 });
    expect(await tables(s)).toEqual(['users']);
    expect(await cli('--rollback')).toMatchObject({ exit: 3 });
    const log = await s.query<{ action: string; outcome: string; result: string }>(
      sql`select action, outcome, detail ->> 'outcome' as result from descope.admin_log order by entry_id`,
    );
    expect(log).toEqual([
      { action: 'rebuild', outcome: 'done', result: 'swapped' },
      { action: 'rebuild --rollback', outcome: 'done', result: 'rolledBack' },
      { action: 'rebuild --rollback', outcome: 'done', result: 'none' },
    ]);
  });
});
