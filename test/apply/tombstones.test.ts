import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import { reduceTombstones } from '../../src/apply/tombstones.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { Stopping } from '../../src/errors.ts';
import { rows, transaction, type Mirror } from '../../src/mirror/database.ts';
import { toPresent, type Observation } from '../../src/observation.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let mirror: Mirror;
beforeEach(async () => {
  database = await createTestDatabase();
  mirror = database.mirror;
});
afterEach(() => database.drop());

const forever = new AbortController().signal;
const reduce = (days: number, steps = 100) => reduceTombstones(mirror, { days, steps }, forever);

const OLD = '2026-01-01T00:00:00.000000Z';
const GONE = '2026-01-02T00:00:00.000000Z';
const BACK = '2026-01-03T00:00:00.000000Z';

const USER = {
  ...{ loginIds: ['ada@example.com'], externalIds: ['ada@example.com'], email: 'ada@example.com' },
  ...{ phone: '+15550100', name: 'Ada L', givenName: 'Ada', middleName: 'B', familyName: 'L' },
  ...{ picture: 'https://x/ada.png', status: 'enabled', verifiedEmail: true, verifiedPhone: true },
  ...{ test: true, roleNames: ['admin'], permissions: ['all'], ssoAppIds: ['app'] },
  ...{ customAttributes: { plan: 'pro' }, createdTime: 1_700_000_000, modifiedTime: 1_700_000_001 },
  userTenants: [{ tenantId: 'T2x', tenantName: 'Acme', roleNames: ['viewer'], permissions: [] }],
};

function present(userId: string, at: string, by: 'load' | 'page' = 'load'): Observation {
  const row = toUserRow({ userId, ...USER });
  if (row === null) throw new Error('no user');
  return toPresent(row, at, by);
}
function absent(userId: string, observedAt: string): Observation {
  return { kind: 'absent', userId, observedAt };
}
const apply = (...observations: Observation[]) =>
  transaction(mirror, (tx) => applyObservations(tx, mirror.t, observations, 'webhook'));

/** Users who were deleted so many days ago. */
async function bury(days: number, ...userIds: string[]): Promise<void> {
  await apply(...userIds.map((userId) => present(userId, OLD)));
  await apply(...userIds.map((userId) => absent(userId, GONE)));
  for (const userId of userIds) {
    await mirror.db.execute(sql`update ${mirror.t.users}
      set deleted_at = now() - make_interval(days => ${days}) where user_id = ${userId}`);
  }
}

const stored = async (userId: string) => {
  const [row] = await rows<Record<string, unknown>>(
    mirror.db,
    sql`select * from ${mirror.t.users} where user_id = ${userId}`,
  );
  return row;
};

/** Ids of users of whom more than the id is left. */
async function full(): Promise<string[]> {
  const found = await rows<{ id: string }>(
    mirror.db,
    sql`select user_id as id from ${mirror.t.users} where raw <> '{}' order by 1`,
  );
  return found.map(({ id }) => id);
}

describe('reduceTombstones', () => {
  it('leaves of a user what a tombstone has whose user was never seen, and when it was deleted', async () => {
    await bury(31, 'U1');
    await apply(absent('U2', GONE));
    const before = await stored('U1');
    const never = await stored('U2');
    const feed = await rows(mirror.db, sql`select * from ${mirror.t.userChanges}`);
    expect(await reduce(30)).toBe(1);
    const after = await stored('U1');
    const kept = (row: typeof after) =>
      ['user_id', 'observed_at', 'changed_at', 'deleted_at', 'witness'].map((name) => row?.[name]);
    expect(kept(after)).toEqual(kept(before));
    const cleared = (row: typeof after) =>
      Object.entries(row ?? {}).filter(([, value]) => !kept(row).includes(value));
    expect(cleared(after)).toEqual(cleared(never));
    expect(JSON.stringify(after)).not.toMatch(/ada|5550100|Acme|admin|pro/i);
    expect(await rows(mirror.db, sql`select * from ${mirror.t.userChanges}`)).toEqual(feed);
    expect(await reduce(30)).toBe(0);
  });

  it('leaves no more of them where a rebuild fills tables, or keeps those it has replaced', async () => {
    await bury(31, 'U1');
    await bury(29, 'U2');
    const others = ['users_next', 'users_previous'];
    for (const name of others) {
      await mirror.db.execute(sql`
        create table ${sql.raw(`descope.${name}`)} (like descope.users including all)`);
      await mirror.db.execute(
        sql`insert into ${sql.raw(`descope.${name}`)} select * from descope.users`,
      );
    }
    expect(await reduce(30)).toBe(1);
    for (const name of others) {
      const left = await rows(
        mirror.db,
        sql`select user_id as id from ${sql.raw(`descope.${name}`)} where raw <> '{}'`,
      );
      expect(left).toEqual([{ id: 'U2' }]);
    }
    expect(await stored('U1')).toMatchObject({ raw: {} });
  });

  it('takes none that is younger, and nobody who is there', async () => {
    await bury(31, 'U1');
    await bury(29, 'U2');
    await apply(present('U3', OLD));
    expect(await reduce(30)).toBe(1);
    expect(await full()).toEqual(['U2', 'U3']);
    expect(await reduce(28)).toBe(1);
    expect(await full()).toEqual(['U3']);
  });

  it('goes on when users are kept longer, and shorter again', async () => {
    await bury(31, 'U1');
    await reduce(30);
    expect(await reduce(100)).toBe(0);
    await bury(29, 'U2');
    await bury(20, 'U3');
    expect(await reduce(15)).toBe(2);
    expect(await full()).toEqual([]);
  });

  it('takes a mark from a clock that was ahead for none', async () => {
    await mirror.db.execute(sql`
      insert into ${mirror.t.learnt} (name, value)
      values ('tombstonesReducedTo', to_jsonb('2999-01-01T00:00:00.000000Z'::text))`);
    await bury(31, 'U1');
    expect(await reduce(30)).toBe(1);
    // The mark is one of the past now: what is behind it is not looked at again.
    await bury(32, 'U2');
    expect(await reduce(30)).toBe(0);
  });

  it('lets a reduced user come back by a load, and by nothing else (G3)', async () => {
    await bury(31, 'U1');
    const restored = await stored('U1');
    await reduce(30);
    expect((await apply(present('U1', OLD))).stale).toEqual(['U1']);
    expect((await apply(present('U1', BACK, 'page'))).refused).toEqual(['U1']);
    expect(await full()).toEqual([]);
    expect((await apply(present('U1', BACK))).restored).toEqual(['U1']);
    const after = await stored('U1');
    expect(after).toMatchObject({ email: 'ada@example.com', deleted_at: null });
    expect(after?.['content_hash']).toBe(restored?.['content_hash']);
    const tenants = await rows(mirror.db, sql`select tenant_id from ${mirror.t.userTenants}`);
    expect(tenants).toEqual([{ tenant_id: 'T2x' }]);
  });

  it('lets one come back that was seen in the very moment of its deletion, and be deleted again', async () => {
    await bury(31, 'U1');
    await reduce(30);
    expect((await apply(present('U1', GONE))).restored).toEqual(['U1']);
    expect((await apply(absent('U1', BACK))).deleted).toEqual(['U1']);
    expect(await reduce(30)).toBe(0);
    await mirror.db.execute(
      sql`update ${mirror.t.users} set deleted_at = now() - interval '25 hours'`,
    );
    expect(await reduce(1)).toBe(1);
    // A later look that finds nobody still moves the observation.
    const later = '2026-01-04T00:00:00.000000Z';
    expect((await apply(absent('U1', later))).unchanged).toBe(1);
    expect((await apply(present('U1', BACK))).stale).toEqual(['U1']);
  });

  async function buryMany(count: number): Promise<void> {
    await mirror.db.execute(sql`
      insert into ${mirror.t.users} (user_id, email, login_ids, raw, content_hash, observed_at, changed_at,
                                     deleted_at, witness)
      select 'U' || n, 'x@example.com', array['x' || n], '{"userId": "x"}', 'x', now(), now(),
             -- Many of one moment: a step cannot be cut between them.
             now() - interval '40 days' - (n / 1500) * interval '1 minute', 'sweep'
      from generate_series(0, ${count - 1}::int) as n`);
  }

  it('takes so many steps of a thousand, and goes on the next time', async () => {
    await buryMany(5_200);
    expect(await reduce(30, 3)).toBe(3_000);
    expect(await full()).toHaveLength(2_200);
    expect(await reduce(30)).toBe(2_200);
    expect(await full()).toEqual([]);
  });

  it('does no harm beside its twin, nor to whom restores the same users', async () => {
    await buryMany(3_000);
    const back = Array.from({ length: 400 }, (_, n) => `U${n * 7}`);
    const [first, second] = await Promise.all([
      reduce(30),
      reduce(30),
      apply(...back.map((userId) => present(userId, '9999-01-01T00:00:00.000000Z'))),
    ]);
    expect(first + second + (await reduce(30))).toBeGreaterThanOrEqual(2_600);
    expect(await full()).toEqual([...back].sort());
    const live = await rows<{ email: string }>(
      mirror.db,
      sql`select distinct email from ${mirror.t.users} where deleted_at is null`,
    );
    expect(live).toEqual([{ email: 'ada@example.com' }]);
  });

  it('stops between two steps', async () => {
    await buryMany(10);
    const stopped = reduceTombstones(mirror, { days: 30, steps: 10 }, AbortSignal.abort());
    await expect(stopped).rejects.toThrow(Stopping);
    expect(await full()).toHaveLength(10);
  });
});
