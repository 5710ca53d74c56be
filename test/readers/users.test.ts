import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { sql, type SQL } from 'drizzle-orm';
import pg from 'pg';

import { createNotifier } from '../../src/feed/notify.ts';
import { pruneFeed } from '../../src/feed/prune.ts';
import { databaseNow, transaction } from '../../src/mirror/database.ts';
import {
  changes,
  confirmChanges,
  feedHead,
  findUser,
  needsSnapshot,
  listUsers,
  usersOfTenant,
  usersWithRole,
  waitFor,
  type Change,
  type Reader,
} from '../../src/readers/users.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { look, type Answer } from '../support/look.ts';

let database: TestDatabase;
let reader: Reader;
beforeAll(async () => {
  database = await createTestDatabase();
  reader = { db: database.mirror.pool, schema: 'descope' };
});
afterAll(() => database.drop());
beforeEach(async () => {
  const { db, t } = database.mirror;
  await db.execute(sql`
    truncate ${t.users}, ${t.userTenants}, ${t.userChanges}, ${t.feedPruned}, ${t.feedCursors}`);
});

const see = (users: Readonly<Record<string, Answer | null>>) => look(database.mirror, users);

async function toList(iterable: AsyncIterable<Change>): Promise<Change[]> {
  const list: Change[] = [];
  for await (const change of iterable) list.push(change);
  return list;
}

const idsOf = (users: readonly { readonly userId: string }[]) => users.map((user) => user.userId);

describe('findUser', () => {
  it('gives the columns and as of when they are right', async () => {
    await see({ U1: { name: 'Ada', loginIds: ['ada'], createdTime: 1_700_000_000, test: true } });

    expect(await findUser(reader, 'U1')).toMatchObject({
      userId: 'U1',
      name: 'Ada',
      loginIds: ['ada'],
      email: null,
      test: true,
      createdTime: new Date(1_700_000_000_000),
      customAttributes: {},
      raw: { userId: 'U1', name: 'Ada' },
      asOf: expect.any(Date) as unknown,
    });
  });

  it('finds nobody who is gone or never was', async () => {
    await see({ U1: {} });
    await see({ U1: null });

    expect(await findUser(reader, 'U1')).toBeNull();
    expect(await findUser(reader, 'U2')).toBeNull();
  });
});

describe('listUsers and usersOfTenant', () => {
  it('page through users in the order of their ids', async () => {
    const acme = { userTenants: [{ tenantId: 'T1' }] };
    await see({ U1: acme, U2: {}, U3: acme, U4: acme });

    expect(idsOf(await listUsers(reader, { limit: 2 }))).toEqual(['U1', 'U2']);
    expect(idsOf(await listUsers(reader, { limit: 2, after: 'U2' }))).toEqual(['U3', 'U4']);
    expect(idsOf(await usersOfTenant(reader, 'T1', { limit: 2 }))).toEqual(['U1', 'U3']);
    expect(idsOf(await usersOfTenant(reader, 'T1', { after: 'U3' }))).toEqual(['U4']);
    expect(await usersOfTenant(reader, 'T2')).toEqual([]);
  });
});

describe('usersWithRole', () => {
  it('finds them in the project, in one tenant or in either', async () => {
    const inTenant = (tenantId: string, ...roleNames: string[]) => ({
      userTenants: [{ tenantId, roleNames }],
    });
    await see({
      ...{ U1: { roleNames: ['admin'] }, U2: inTenant('T1', 'admin'), U3: inTenant('T2', 'admin') },
      ...{ U4: { roleNames: ['admin'], ...inTenant('T1', 'admin', 'owner') }, U5: {} },
    });

    expect(idsOf(await usersWithRole(reader, 'admin'))).toEqual(['U1', 'U2', 'U3', 'U4']);
    expect(idsOf(await usersWithRole(reader, 'admin', { tenantId: null }))).toEqual(['U1', 'U4']);
    expect(idsOf(await usersWithRole(reader, 'admin', { tenantId: 'T1' }))).toEqual(['U2', 'U4']);
    expect(idsOf(await usersWithRole(reader, 'admin', { after: 'U1', limit: 2 }))).toEqual([
      ...['U2', 'U3'],
    ]);
    expect(await usersWithRole(reader, 'nobody has it')).toEqual([]);
  });
});

describe('changes', () => {
  it('goes on from a cursor, in batches of any size', async () => {
    await see({ U1: {}, U2: {} });
    await see({ U1: { name: 'Ada' } });
    await see({ U2: null });

    const all = await toList(changes(reader, { batch: 1 }));

    expect(all.map(({ userId, kind }) => `${userId} ${kind}`)).toEqual([
      'U1 created',
      'U2 created',
      'U1 updated',
      'U2 deleted',
    ]);
    expect(all[2]).toMatchObject({ changed: ['name'], witness: 'manual' });
    const rest = await toList(changes(reader, { after: all[1]?.cursor ?? null }));
    expect(rest).toEqual(all.slice(2));
  });

  it('follows until it is told to stop', async () => {
    const stop = new AbortController();
    const seen: string[] = [];
    await see({ U1: {} });
    for await (const { userId } of changes(reader, { follow: stop.signal, everyMs: 1 })) {
      seen.push(userId);
      if (userId === 'U1') await see({ U2: {} });
      else stop.abort();
    }
    expect(seen).toEqual(['U1', 'U2']);
  });
});

describe('changes with a connection that listens', () => {
  it('come as soon as Postgres tells of them, though nobody asks for an hour', async () => {
    const listener = new pg.Client({ connectionString: database.url });
    await listener.connect();
    onTestFinished(() => listener.end());
    const notifier = createNotifier(database.mirror, (error) => {
      throw error;
    });
    onTestFinished(() => notifier.stop());
    const mirror = { ...database.mirror, onCommit: notifier.poke };
    const observe = (userId: string) => look(mirror, { [userId]: {} });
    const stop = new AbortController();
    const seen: string[] = [];
    await observe('U0');
    const options = { follow: stop.signal, listener, everyMs: 3_600_000 };
    for await (const { userId } of changes(reader, options)) {
      seen.push(userId);
      if (seen.length === 4) stop.abort();
      // After the loop has begun to wait, and while it does not.
      else if (seen.length === 1) setTimeout(() => void observe('U1'), 50);
      else await observe(`U${seen.length}`);
    }
    expect(seen).toEqual(['U0', 'U1', 'U2', 'U3']);
    expect(listener.listenerCount('notification')).toBe(0);
  });

  it('are told of when a transaction ends that began before one told of already', async () => {
    const listener = new pg.Client({ connectionString: database.url });
    await listener.connect();
    onTestFinished(() => listener.end());
    let heard = 0;
    listener.on('notification', () => heard++);
    await listener.query('listen descope_changes');
    const { db, pool, schema, t } = database.mirror;
    let told = 0;
    const counting = new Proxy(db, {
      get: (target, name, self: unknown) =>
        name === 'execute'
          ? (statement: SQL) => target.execute(statement).finally(() => told++)
          : (Reflect.get(target, name, self) as unknown),
    });
    const notifier = createNotifier({ db: counting, t, schema }, (error) => {
      throw error;
    });
    onTestFinished(() => notifier.stop());
    const mirror = { ...database.mirror, pool, onCommit: notifier.poke };
    await transaction(mirror, async (early) => {
      await early.execute(sql`select pg_current_xact_id()`);
      await look(mirror, { U2: {} });
      await eventually(() => {
        expect(told).toBeGreaterThan(0);
      });
      await early.execute(sql`
        insert into ${t.userChanges} (user_id, kind, changed, observed_at, witness)
        values ('U1', 'created', '{}', clock_timestamp(), 'manual')`);
      expect(await toList(changes(reader))).toEqual([]);
    });
    const before = heard;
    await eventually(() => {
      expect(heard).toBeGreaterThan(before);
    });
    expect((await toList(changes(reader))).map(({ userId }) => userId)).toEqual(['U1', 'U2']);

    // Of another process, and rolled back: it pokes nobody.
    const silent = database.mirror;
    const given = told;
    const rolledBack = transaction(silent, async (early) => {
      await early.execute(sql`select pg_current_xact_id()`);
      await look(mirror, { U3: {} });
      await eventually(() => {
        expect(told).toBeGreaterThan(given);
      });
      throw new Error('rolled back');
    });
    await expect(rolledBack).rejects.toThrow('rolled back');
    const then = heard;
    await eventually(() => {
      expect(heard).toBeGreaterThan(then);
    });
    expect((await toList(changes(reader))).map(({ userId }) => userId)).toContain('U3');
  });

  it('are told of a few times a second at most, and not at all where nothing was written', async () => {
    const listener = new pg.Client({ connectionString: database.url });
    await listener.connect();
    onTestFinished(() => listener.end());
    const heard: string[] = [];
    listener.on('notification', ({ payload = '' }) => heard.push(payload));
    await listener.query('listen descope_changes');
    let asked = 0;
    const { db, pool, schema, t } = database.mirror;
    const counting = new Proxy(db, {
      get: (target, name, self: unknown) => {
        if (name === 'execute') asked++;
        return Reflect.get(target, name, self) as unknown;
      },
    });
    const notifier = createNotifier({ db: counting, t, schema }, (error) => {
      throw error;
    });
    onTestFinished(() => notifier.stop());
    const mirror = { pool, schema, onCommit: notifier.poke };
    const commit = () => transaction(mirror, () => Promise.resolve());
    /** What was heard before this moment: notifications come in the order of their commits. */
    const untilHeard = async () => {
      await db.execute(sql`notify descope_changes, 'now'`);
      await eventually(() => {
        expect(heard.at(-1)).toBe('now');
      });
      return heard.filter((payload) => payload === '').length;
    };
    const startedMs = performance.now();
    for (let at = 0; at < 50; at++) {
      await see({ [`U${at}`]: {} });
      await commit();
    }
    const most = (performance.now() - startedMs) / 250 + 1;
    expect(asked).toBeGreaterThan(0);
    expect(asked).toBeLessThanOrEqual(most);
    await eventually(async () => {
      expect(await untilHeard()).toBeGreaterThan(0);
    });
    // Until the last of those has been told of.
    await eventually(async () => {
      const before = [asked, await untilHeard()];
      await commit();
      await eventually(() => {
        expect(asked).toBeGreaterThan(before[0] ?? 0);
      });
      expect(await untilHeard()).toBe(before[1]);
    });
  });
});

describe('changes of a consumer whose cursor is kept', () => {
  const ids = (list: readonly Change[]) => list.map(({ userId }) => userId);
  const readAs = (consumer: string, batch = 10) => toList(changes(reader, { consumer, batch }));

  it('goes on where the last iteration ended', async () => {
    await see({ U1: {}, U2: {}, U3: {} });
    expect(ids(await readAs('a', 2))).toEqual(['U1', 'U2', 'U3']);
    await see({ U4: {} });
    expect(ids(await readAs('a'))).toEqual(['U4']);
    expect(ids(await readAs('b'))).toEqual(['U1', 'U2', 'U3', 'U4']);
  });

  it('brings again what the loop was left at, and nothing before it', async () => {
    await see({ U1: {}, U2: {}, U3: {} });
    for await (const { userId } of changes(reader, { consumer: 'a' })) {
      if (userId === 'U2') break;
    }
    expect(ids(await readAs('a'))).toEqual(['U2', 'U3']);

    await see({ U4: {}, U5: {} });
    const failing = async () => {
      for await (const { userId } of changes(reader, { consumer: 'a' })) {
        if (userId === 'U5') throw new Error('the index is away');
      }
    };
    await expect(failing()).rejects.toThrow('the index is away');
    expect(ids(await readAs('a'))).toEqual(['U5']);
  });

  it('confirms each second of a long batch', async () => {
    await see({ U1: {}, U2: {}, U3: {} });
    for await (const { userId } of changes(reader, { consumer: 'a' })) {
      if (userId === 'U1') vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 1_000);
      // Asked by somebody else while the first loop is still at it.
      if (userId === 'U3') expect(ids(await readAs('a'))).toEqual(['U2', 'U3']);
    }
    vi.restoreAllMocks();
  });

  it('begins after a snapshot, and says when that is needed', async () => {
    await see({ U1: {}, U2: {} });
    const { db, t } = database.mirror;
    await db.execute(sql`update ${t.userChanges} set written_at = now() - interval '2 days'`);
    await pruneFeed(database.mirror, { days: 1, steps: 1 }, new AbortController().signal);
    const error = await readAs('a').catch((thrown: unknown) => thrown);
    expect(needsSnapshot(error)).toBe(true);
    expect(needsSnapshot(new Error('another'))).toBe(false);

    const head = await feedHead(reader);
    await see({ U3: {} });
    expect(await confirmChanges(reader, 'a', head)).toBe(head);
    expect(ids(await readAs('a'))).toEqual(['U3']);
  });

  it('is not for one who has a cursor of its own', async () => {
    await expect(toList(changes(reader, { consumer: 'a', after: '1-1' }))).rejects.toThrow(
      'a cursor or a consumer, not both',
    );
  });
});

describe('waitFor', () => {
  it('answers once the user has been seen at or after the instant', async () => {
    const since = new Date(await databaseNow(database.mirror));
    const waiting = waitFor(reader, 'U1', since);
    await see({ U1: {} });

    expect(await waiting).toMatchObject({ userId: 'U1', deleted: false });
  });

  it('gives up in time', async () => {
    expect(await waitFor(reader, 'U1', new Date(), { timeoutMs: 1 })).toBeNull();
    const signal = AbortSignal.abort();
    expect(await waitFor(reader, 'U1', '2026-01-01T00:00:00Z', { signal })).toBeNull();
  });
});
