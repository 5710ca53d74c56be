import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { sql } from 'drizzle-orm';

import { databaseNow } from '../../src/mirror/database.ts';
import {
  changes,
  findUser,
  listUsers,
  usersOfTenant,
  usersWithRole,
  waitFor,
  type Change,
  type Reader,
} from '../../src/readers/users.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
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
  await db.execute(sql`truncate ${t.users}, ${t.userTenants}, ${t.userChanges}`);
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
