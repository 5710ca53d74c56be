import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import * as deletions from '../../src/commands/deletions.ts';
import * as status from '../../src/commands/status.ts';
import { UsageError } from '../../src/errors.ts';
import { reduceTombstones } from '../../src/apply/tombstones.ts';
import { openMirror } from '../../src/mirror/database.ts';
import { migrateMirror } from '../../src/mirror/migrate.ts';
import { dropStale } from '../../src/rebuild/previous.ts';
import { runCommand } from '../commands/context.ts';
import { createScene, realUserIds, type Scene } from '../support/world.ts';
import { compareWithDirectory } from '../../src/commands/compare.ts';
import * as backfill from '../../src/commands/backfill.ts';
import { caughtUp, filled, followFeed, runRebuild, SILENT, tables } from './rebuildScene.ts';

const ids = (userIds: readonly string[]) => sql`${sql.param(userIds)}::text[]`;

async function live(s: Scene, userIds: readonly string[]): Promise<number> {
  const [row] = await s.query<{ n: number }>(
    sql`select count(*)::int as n from descope.live_users where user_id = any(${ids(userIds)})`,
  );
  return row?.n ?? -1;
}

describe('a rebuild', () => {
  it('makes right what was damaged by hand, and tells the feed who and in which fields', async () => {
    const s = await filled();
    const [changed = '', lost = '', hidden = '', ...others] = realUserIds(s);
    const withTenant = others.find(
      (id) => (s.simulator.directory.answer(id)?.userTenants ?? []).length > 0,
    );
    const { t, db } = s.database.mirror;
    await db.execute(
      sql`update ${t.users} set email = 'other@example.com', name = null where user_id = ${changed}`,
    );
    await db.execute(sql`delete from ${t.users} where user_id = ${lost}`);
    await db.execute(
      sql`delete from ${t.userTenants} where user_id in (${lost}, ${withTenant ?? ''})`,
    );
    await db.execute(
      sql`update ${t.users} set deleted_at = clock_timestamp() where user_id = ${hidden}`,
    );
    const told = await followFeed(s);

    const done = await runRebuild(s);

    expect(done.exitCode).toBe(0);
    expect(done.json()).toMatchObject({
      outcome: 'swapped',
      ...{ deleted: 0, held: 0, counts: { missing: 1, extra: 0, different: 2 } },
      drift: { missing: [lost], extra: [] },
    });
    await s.assertEqual();
    const news = (await told()).map(({ userId, kind, changed: fields }) => [
      userId,
      kind,
      ...fields,
    ]);
    expect(news.sort()).toEqual(
      [
        [changed, 'updated', 'email', 'name'],
        [lost, 'created'],
        [hidden, 'restored'],
        [withTenant, 'updated', 'userTenants'],
      ].sort(),
    );
    expect(await tables(s)).toEqual(['users', 'users_previous']);
  });

  it('of a mirror that is right changes nothing that a reader or the feed could notice', async () => {
    const s = await filled();
    const told = await followFeed(s);
    const trace = () =>
      s.query(sql`select md5(string_agg(concat_ws(' ', u.*, t.*), ',' order by user_id, tenant_id)) as all
                  from (select user_id, content_hash, raw, email, changed_at, deleted_at from descope.users) u
                  left join descope.user_tenants t using (user_id)`);
    const before = await trace();
    const done = await runRebuild(s);
    expect(done.json()).toMatchObject({
      outcome: 'swapped',
      counts: { missing: 0, extra: 0, different: 0 },
    });
    expect(await trace()).toEqual(before);
    expect(await told()).toEqual([]);
    // And again: what the first has replaced makes room for what the second does.
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await tables(s)).toEqual(['users', 'users_previous']);
    await s.assertEqual();
  });

  it('moves no watermark, proves nothing and leaves no gap', async () => {
    const s = await filled();
    const { t } = s.database.mirror;
    const ledger = () =>
      s.query(sql`select (select jsonb_object_agg(pull, complete_to) from ${t.watermarks}) as watermarks,
                         (select last_proof from ${t.syncStatus}) as proof,
                         (select gaps from ${t.syncStatus}) as gaps`);
    const before = await ledger();
    s.simulator.faults.random(1, ['status403'], () => 0);
    await expect(runRebuild(s)).rejects.toThrow('refuses the management key');
    s.simulator.faults.clear();
    expect(await ledger()).toEqual(before);
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await ledger()).toEqual(before);
  });

  it('before any sweep has completed says what to do first, and ends with 3', async () => {
    const s = await createScene({ simulator: { users: 5 } });
    try {
      const refused = await runRebuild(s);
      expect(refused).toMatchObject({ exitCode: 3 });
      expect(refused.json()).toMatchObject({ outcome: 'notBegun' });
      expect(await tables(s)).toEqual(['users']);
    } finally {
      await s.stop();
    }
  });

  it('refuses a directory that says it is empty, and leaves nothing behind', async () => {
    const s = await filled();
    s.simulator.faults.random(1, ['zeroTotal'], () => 0);
    const refused = await runRebuild(s);
    expect(refused.exitCode).toBe(3);
    expect(refused.json()['reason']).toMatch(/no users at all/);
    s.simulator.faults.clear();
    expect(await tables(s)).toEqual(['users']);
    await s.assertEqual();
  });

  it('works in a schema of another name', async () => {
    const s = await createScene({
      simulator: { users: 120 },
      env: { PULL_SETTLE_SECONDS: '0', MIRROR_SCHEMA: 'other_mirror' },
    });
    const { url } = s.database;
    await migrateMirror({ databaseUrl: url, schema: 'other_mirror' });
    const mirror = openMirror({
      ...{ databaseUrl: url, schema: 'other_mirror', maxConnections: 2, onError: () => undefined },
    });
    try {
      expect((await runCommand(backfill, s)).exitCode).toBe(0);
      const [userId] = realUserIds(s);
      await mirror.db.execute(sql`delete from other_mirror.users where user_id = ${userId}`);
      expect((await runRebuild(s)).exitCode).toBe(0);
      const { directory } = s.simulator;
      expect((await compareWithDirectory(directory, mirror, false)).differences).toEqual([]);
      const [view] = (
        await mirror.db.execute(sql`select count(*)::int as n from other_mirror.live_users`)
      ).rows;
      expect(view).toEqual({ n: realUserIds(s).length });
      expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);
    } finally {
      await mirror.pool.end();
      await s.stop();
    }
  });
});

describe('what the service writes meanwhile', () => {
  it('is in the mirror after the swap: users who came, changed, went and came back (G4)', async () => {
    const s = await filled();
    const { directory } = s.simulator;
    const [changed = '', gone = '', back = ''] = realUserIds(s);
    const user = directory.get(back);
    directory.deleteUser(back);
    await caughtUp(s);
    // Of a deletion a moment old it is doubted that the user is back.
    await s.database.mirror.db.execute(sql`
      update descope.users set deleted_at = deleted_at - interval '5 minutes' where user_id = ${back}`);
    // Everyone is read; from here on the other tables grow old.
    const dry = await runRebuild(s, 'dryRun');
    expect(dry.json()).toMatchObject({ counts: { missing: 0, extra: 0, different: 0 } });
    const { userId: created } = directory.createUser({ test: false });
    directory.modifyUser(changed, { name: 'Meanwhile' });
    directory.deleteUser(gone);
    if (user) directory.bringBack(user);
    await caughtUp(s);
    const told = await followFeed(s);
    const searches = s.simulator.requests.countOf('userSearch');

    expect((await runRebuild(s)).exitCode).toBe(0);

    await s.assertEqual();
    expect(await live(s, [created, changed, back])).toBe(3);
    expect(await told()).toEqual([]);
    // It went on from what had been read: two counts at most.
    expect(s.simulator.requests.countOf('userSearch') - searches).toBeLessThanOrEqual(2);
  });

  it('takes tombstones along as they are, also those that keep no more than the id', async () => {
    const s = await filled();
    const { mirror } = s.database;
    const gone = realUserIds(s).slice(0, 2);
    s.simulator.directory.deleteMany(gone);
    await caughtUp(s);
    const tombstones = () =>
      s.query(sql`select user_id, deleted_at, observed_at, raw, email from descope.users
                  where deleted_at is not null order by user_id`);
    const before = await tombstones();
    expect(before).toHaveLength(2);
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await tombstones()).toEqual(before);

    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    const { signal } = new AbortController();
    expect(await reduceTombstones(mirror, { days: 0, steps: 1 }, signal)).toBe(2);
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await tombstones()).toMatchObject([{ raw: {} }, { raw: {} }]);
  });

  it('leaves alone test users, whom Descope is not asked about', async () => {
    const s = await filled({ env: { INCLUDE_TEST_USERS: 'true' } });
    const tests = [...s.simulator.directory.users()].filter((user) => user.test);
    expect(tests.length).toBeGreaterThan(0);
    const without = { ...s, config: { ...s.config, INCLUDE_TEST_USERS: false } };
    const done = await runRebuild(without);
    expect(done.json()).toMatchObject({ outcome: 'swapped', deleted: 0, counts: { extra: 0 } });
    await s.assertEqual();
  });
});

describe('who is gone at Descope', () => {
  it('is loaded by id, then tombstoned where it is read, and so told to the feed', async () => {
    const s = await filled();
    const gone = realUserIds(s).slice(0, 3);
    s.simulator.directory.deleteMany(gone, { event: false });
    const told = await followFeed(s);
    const done = await runRebuild(s);
    expect(done.json()).toMatchObject({ outcome: 'swapped', deleted: 3, counts: { extra: 0 } });
    await s.assertEqual();
    expect((await told()).map(({ userId, kind }) => [userId, kind]).sort()).toEqual(
      gone.map((userId) => [userId, 'deleted']).sort(),
    );
    const evidence = expect.stringMatching(
      /^missing from a proven window, (missing|not)/,
    ) as string;
    expect(await s.query(sql`select state, witness, evidence from descope.deletions`)).toEqual(
      gone.map(() => ({ state: 'tombstoned', witness: 'sweep', evidence })),
    );
  });

  it('removes nobody while loads fail, and goes on afterwards (G4)', async () => {
    const s = await filled();
    const gone = realUserIds(s).slice(0, 3);
    s.simulator.directory.deleteMany(gone, { event: false });
    s.simulator.faults.next('status403', { path: 'load' });
    await expect(runRebuild(s)).rejects.toThrow('refuses the management key');
    expect(await live(s, gone)).toBe(3);
    s.simulator.faults.clear();
    expect((await runRebuild(s)).exitCode).toBe(0);
    await s.assertEqual();
  });

  async function held(): Promise<{ s: Scene; gone: string[] }> {
    const s = await filled({ env: { BREAKER_MAX_COUNT: '5' } });
    const gone = realUserIds(s).slice(0, 8);
    s.simulator.directory.deleteMany(gone, { event: false });
    const stopped = await runRebuild(s);
    expect(stopped.exitCode).toBe(3);
    expect(stopped.json()).toMatchObject({
      ...{ outcome: 'held', held: 8, deleted: 0 },
      counts: { missing: 0, extra: 8, different: 0 },
    });
    expect(await live(s, gone)).toBe(8);
    expect(await tables(s)).toEqual(['users', 'users_next']);
    return { s, gone };
  }

  it('above the breaker stops before the swap; with --approve it goes on', async () => {
    const { s } = await held();
    expect((await runRebuild(s)).exitCode).toBe(3);
    const done = await runRebuild(s, 'approve');
    expect(done.exitCode).toBe(0);
    expect(done.json()).toMatchObject({ outcome: 'swapped', deleted: 8, held: 0 });
    await s.assertEqual();
  });

  it('and once they are approved, or rejected, it goes on as well: rejected, they stay', async () => {
    const { s, gone } = await held();
    const [kept = '', ...others] = gone;
    await runCommand(deletions, s, { action: 'reject', ids: [kept] });
    expect((await runRebuild(s)).exitCode).toBe(3);
    await runCommand(deletions, s, { action: 'approve', ids: others });
    const done = await runRebuild(s);
    expect(done.json()).toMatchObject({ outcome: 'swapped', held: 0 });
    expect(await live(s, gone)).toBe(1);
    await s.assertEqual((userId) => userId === kept);
  });
});

describe('--dry-run', () => {
  it('compares, changes nothing that is read, and ends with 3 where a swap would', async () => {
    const s = await filled();
    const [changed = '', gone = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(changed, { givenName: 'Hidden' }, SILENT);
    s.simulator.directory.deleteUser(gone, SILENT);
    const { userId: missing } = s.simulator.directory.createUser({ test: false }, SILENT);
    const told = await followFeed(s);
    const found = await runRebuild(s, 'dryRun');
    expect(found.exitCode).toBe(3);
    expect(found.json()).toMatchObject({
      outcome: 'compared',
      drift: {
        ...{ missing: [missing], extra: [gone] },
        different: [{ userId: changed, fields: ['givenName'] }],
      },
    });
    expect(await told()).toEqual([]);
    expect(await s.query(sql`select 1 from descope.deletions`)).toEqual([]);
    expect(await live(s, [gone, missing])).toBe(1);
    expect(await tables(s)).toEqual(['users', 'users_next']);
    expect((await runCommand(status, s)).stdout.join('\n')).toMatch(/rebuild +not ended/);

    expect((await runRebuild(s)).exitCode).toBe(0);
    await s.assertEqual();
    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    expect((await runRebuild(s, 'discard')).json()).toEqual({ discarded: true });
    expect((await runRebuild(s, 'discard')).json()).toEqual({ discarded: false });
    expect(await s.query(sql`select 1 from descope.sync_windows where state <> 'proven'`)).toEqual(
      [],
    );
    expect(await tables(s)).toEqual(['users', 'users_previous']);
  });
});

describe('what a rebuild has replaced', () => {
  it('is dropped when asked for, or by the hourly prune when its time is over', async () => {
    const s = await filled();
    const { mirror } = s.database;
    const { t, db } = mirror;
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect((await runCommand(status, s)).stdout.join('\n')).toContain(
      'users_previous is kept until',
    );
    expect((await runRebuild(s, 'dropPrevious')).json()).toEqual({ dropped: true });
    expect(await tables(s)).toEqual(['users']);
    const none = await runRebuild(s, 'rollback');
    expect(none).toMatchObject({ exitCode: 3 });

    expect((await runRebuild(s)).exitCode).toBe(0);
    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    await dropStale(mirror, 30);
    expect(await tables(s)).toEqual(['users', 'users_next', 'users_previous']);
    const age = async (days: number) => {
      await db.execute(sql`
        update ${t.learnt} set value = to_jsonb(clock_timestamp() - make_interval(days => ${days}))
        where name = 'usersSwappedAt'`);
    };
    await age(4);
    await dropStale(mirror, 30);
    expect(await tables(s)).toContain('users_previous');
    // Nothing of a deleted user is kept for longer than TOMBSTONE_RETENTION_DAYS.
    await dropStale(mirror, 3);
    expect(await tables(s)).toEqual(['users', 'users_next']);
    await db.execute(sql`update ${t.syncRuns} set started_at = started_at - interval '8 days'`);
    await db.execute(sql`update ${t.syncWindows} set updated_at = updated_at - interval '8 days'`);
    await dropStale(mirror, 30);
    expect(await tables(s)).toEqual(['users']);
  });

  it('is not dropped while something of somebody else reads it, and it is said what', async () => {
    const s = await filled({ simulator: { users: 5 } });
    const { mirror } = s.database;
    expect((await runRebuild(s)).exitCode).toBe(0);
    await s.query(sql`create view public.before as select user_id from descope.users_previous`);
    const told = /before reads users_previous, which is to be dropped/;
    await expect(runRebuild(s, 'dropPrevious')).rejects.toThrow(told);
    await expect(runRebuild(s)).rejects.toThrow(told);
    await expect(dropStale(mirror, 0)).rejects.toThrow(told);
    // Going back drops nothing.
    expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);
    await s.query(sql`drop view public.before`);
    expect((await runRebuild(s)).exitCode).toBe(0);
  });

  it('is one option at a time', async () => {
    const s = await filled({ simulator: { users: 5 } });
    const { run } = await import('../../src/commands/rebuild.ts');
    await expect(runCommand({ run }, s, { rollback: true, discard: true })).rejects.toThrow(
      UsageError,
    );
  });
});
