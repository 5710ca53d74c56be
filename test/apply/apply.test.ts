import { sql, type SQL } from 'drizzle-orm';
import { PgDialect } from 'drizzle-orm/pg-core';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { applyObservations, isUnchanged } from '../../src/apply/apply.ts';
import { winner } from '../../src/apply/ordering.ts';
import { parseJson } from '../../src/json.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { asInstant, rows, transaction } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

import type { ApplySummary } from '../../src/apply/batch.ts';
import type { Observation, ObservedBy, Present } from '../../src/observation.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(clear);

async function clear(): Promise<void> {
  const { db, t } = database.mirror;
  await db.execute(sql`truncate ${t.users}, ${t.userTenants}, ${t.userChanges}`);
}

const at = (second: number) => `2026-01-01T00:00:0${second}.000000Z`;

function present(
  userId: string,
  second: number,
  answer: Readonly<Record<string, unknown>> = {},
  by: ObservedBy = 'load',
): Present {
  const row = toUserRow({ userId, ...answer });
  if (!row) throw new Error('a user without an id');
  return { kind: 'present', userId, row, observedAt: at(second), by };
}

const absent = (userId: string, second: number): Observation => {
  return { kind: 'absent', userId, observedAt: at(second) };
};

function apply(...observations: Observation[]): Promise<ApplySummary> {
  const { mirror } = database;
  return transaction(mirror, (tx) => applyObservations(tx, mirror.t, observations, 'manual'));
}

interface Held {
  readonly userId: string;
  readonly contentHash: string;
  readonly observedAt: string;
  readonly gone: boolean;
  readonly tenants: readonly string[];
}

function readMirror(): Promise<Held[]> {
  const { db, t } = database.mirror;
  return rows<Held>(
    db,
    sql`select user_id as "userId", content_hash as "contentHash", deleted_at is not null as gone,
               ${asInstant(sql`observed_at`)} as "observedAt",
               array(select tenant_id from ${t.userTenants} x
                     where x.user_id = u.user_id order by tenant_id) as tenants
        from ${t.users} u order by user_id`,
  );
}

interface Change {
  readonly userId: string;
  readonly kind: string;
  readonly changed: readonly string[];
}

function readChanges(): Promise<Change[]> {
  const { db, t } = database.mirror;
  return rows<Change>(
    db,
    sql`select user_id as "userId", kind, changed from ${t.userChanges} order by seq`,
  );
}

/** What the mirror must hold when everything has arrived, in whatever order. */
function expected(observations: readonly Observation[]): Pick<Held, 'userId' | 'gone'>[] {
  const byUser = new Map<string, Observation>();
  for (const observation of observations) {
    const other = byUser.get(observation.userId);
    byUser.set(observation.userId, other ? winner(other, observation) : observation);
  }
  return [...byUser.values()]
    .sort((a, b) => (a.userId < b.userId ? -1 : 1))
    .map((o) => ({
      userId: o.userId,
      gone: o.kind === 'absent',
      observedAt: o.observedAt,
      tenants: o.kind === 'present' ? o.row.tenants.map((tenant) => tenant.tenantId).sort() : [],
      ...(o.kind === 'present' ? { contentHash: o.row.contentHash } : {}),
    }));
}

/** Each change fits what the ones before it left behind. */
function expectSoundFeed(changes: readonly Change[], held: readonly Held[]): void {
  const live = new Map<string, boolean>();
  for (const { userId, kind } of changes) {
    const before = live.get(userId);
    if (kind === 'created') expect(before).toBe(undefined);
    if (kind === 'updated' || kind === 'deleted') expect(before).toBe(true);
    // A user whose tombstone came first is restored without having been created.
    if (kind === 'restored') expect(before).not.toBe(true);
    live.set(userId, kind !== 'deleted');
  }
  for (const { userId, gone } of held) expect(live.get(userId) ?? false).toBe(!gone);
}

/** Content number n: a name and n tenants. */
function content(n: number): Readonly<Record<string, unknown>> {
  const userTenants = Array.from({ length: n }, (_, tenant) => ({ tenantId: `T${tenant}` }));
  return { name: `Name ${n}`, userTenants };
}

const someUser = fc.constantFrom('U1', 'U2', 'U3');
const someSecond = fc.integer({ min: 1, max: 6 });

const loads = fc.array(
  fc.oneof(
    { weight: 2, arbitrary: fc.tuple(someUser, someSecond, fc.nat(2)) },
    { weight: 1, arbitrary: fc.tuple(someUser, someSecond, fc.constant(null)) },
  ),
  { minLength: 1, maxLength: 14 },
);

/** Cuts a list into batches of these sizes. */
function batches<T>(list: readonly T[], sizes: readonly number[]): T[][] {
  const cut: T[][] = [];
  for (let from = 0, nth = 0; from < list.length; nth++) {
    const size = sizes[nth % sizes.length] ?? 1;
    cut.push(list.slice(from, from + size));
    from += size;
  }
  return cut;
}

const someSizes = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 });

describe('whatever the order in which observations arrive', () => {
  it('loads end in the same mirror, in any batches, on two connections at once', async () => {
    const shuffled = loads.chain((list) =>
      fc.shuffledSubarray(list, { minLength: list.length, maxLength: list.length }),
    );
    await fc.assert(
      fc.asyncProperty(shuffled, someSizes, fc.boolean(), async (list, sizes, isParallel) => {
        await clear();
        const all = list.map(([userId, second, n]) =>
          n === null ? absent(userId, second) : present(userId, second, content(n)),
        );
        const work = batches(all, sizes);
        const lanes = isParallel ? [0, 1] : [0];
        await Promise.all(
          lanes.map(async (lane) => {
            for (const [nth, batch] of work.entries()) {
              if (nth % lanes.length === lane) await apply(...batch);
            }
          }),
        );
        const held = await readMirror();
        expect(held).toMatchObject(expected(all));
        expectSoundFeed(await readChanges(), held);
      }),
      { numRuns: 60 },
    );
  });

  it('pages end in the same content, in any batches, on two connections at once', async () => {
    const pages = fc
      .array(fc.tuple(someUser, someSecond), { minLength: 1, maxLength: 14 })
      .chain((list) =>
        fc.shuffledSubarray(list, { minLength: list.length, maxLength: list.length }),
      );
    await fc.assert(
      fc.asyncProperty(pages, someSizes, async (list, sizes) => {
        await clear();
        // The same content for two seconds, then another, never an earlier one again: what is equal to
        // the mirror's is not written, so an older page could not tell that it was seen since.
        const all = list.map(([userId, second]) =>
          present(userId, second, content(Math.floor(second / 2)), 'page'),
        );
        const work = batches(all, sizes);
        await Promise.all(
          [0, 1].map(async (lane) => {
            for (const [nth, batch] of work.entries()) {
              if (nth % 2 === lane) await apply(...batch);
            }
          }),
        );
        const held = await readMirror();
        const wanted = expected(all).map((one) => ({
          ...one,
          observedAt: expect.any(String) as string,
        }));
        expect(held).toMatchObject(wanted);
        expectSoundFeed(await readChanges(), held);
      }),
      { numRuns: 80 },
    );
  });

  it('the moment of a row never moves back', async () => {
    await fc.assert(
      fc.asyncProperty(loads, async (list) => {
        await clear();
        const newest = new Map<string, string>();
        for (const [userId, second, n] of list) {
          await apply(n === null ? absent(userId, second) : present(userId, second, content(n)));
          for (const held of await readMirror()) {
            expect(held.observedAt >= (newest.get(held.userId) ?? '')).toBe(true);
            newest.set(held.userId, held.observedAt);
          }
        }
      }),
      { numRuns: 20 },
    );
  });

  it('a load that arrives between two looks at nobody lifts no tombstone', async () => {
    await apply(present('U1', 1));
    await apply(absent('U1', 3));
    await apply(absent('U1', 5));
    expect(await apply(present('U1', 4))).toMatchObject({ restored: [], stale: ['U1'] });
    expect(await readMirror()).toMatchObject([{ gone: true, observedAt: at(5) }]);
  });
});

describe('a race between two writers', () => {
  /** Runs `late` so that it decides before and writes after what `early` does. */
  async function race(late: Observation, early: Observation): Promise<void> {
    const { mirror } = database;
    let decided: () => void = () => undefined;
    const isDecided = new Promise<void>((resolve) => (decided = resolve));
    let release: () => void = () => undefined;
    const mayWrite = new Promise<void>((resolve) => (release = resolve));
    const slow = transaction(mirror, (tx) => {
      let statements = 0;
      const execute = async (...query: Parameters<typeof tx.execute>) => {
        statements++;
        if (statements === 2) {
          decided();
          await mayWrite;
        }
        return tx.execute(...query);
      };
      return applyObservations({ execute } as typeof tx, mirror.t, [late], 'manual');
    });
    await isDecided;
    await apply(early);
    release();
    await slow;
  }

  it('never gives one content the moment at which another was seen', async () => {
    await apply(present('U1', 1, content(1)));
    // Decided as "the same, later", while an older look at something else is written.
    await race(present('U1', 5, content(1)), present('U1', 4, content(2)));
    const [held] = await readMirror();
    expect(held).toMatchObject(expected([present('U1', 5, content(1))])[0] ?? {});
  });

  it('remembers the later moment where the other has written the same', async () => {
    await apply(present('U1', 1, content(1)));
    await race(present('U1', 5, content(2)), present('U1', 3, content(2)));
    expect(await readMirror()).toMatchObject([{ observedAt: at(5) }]);
    expect(await apply(present('U1', 4, content(1)))).toMatchObject({ stale: ['U1'] });
  });

  it('inserts a user once', async () => {
    await race(present('U1', 5, content(2)), present('U1', 4, content(1)));
    expect(await readMirror()).toMatchObject(expected([present('U1', 5, content(2))]));
    expect((await readChanges()).map((change) => change.kind)).toEqual(['created', 'updated']);
  });
});

describe('a tombstone', () => {
  it('is not lifted by a page, which asks for a load instead', async () => {
    await apply(present('U1', 1), absent('U1', 2));
    const summary = await apply(present('U1', 9, { name: 'A' }, 'page'));
    expect(summary).toMatchObject({ refused: ['U1'], restored: [], updated: [] });
    expect(await readMirror()).toMatchObject([{ gone: true, observedAt: at(2) }]);
  });

  it('is lifted by a newer load, with what the load shows', async () => {
    await apply(present('U1', 1, { name: 'A', ...content(2) }));
    await apply(absent('U1', 2));
    expect((await readMirror())[0]).toMatchObject({ gone: true, tenants: [] });
    await apply(present('U1', 3, { name: 'B', userTenants: [{ tenantId: 'T9' }] }));
    expect((await readMirror())[0]).toMatchObject({ gone: false, tenants: ['T9'] });
    expect(await readChanges()).toEqual([
      { userId: 'U1', kind: 'created', changed: [] },
      { userId: 'U1', kind: 'deleted', changed: [] },
      { userId: 'U1', kind: 'restored', changed: ['name', 'userTenants'] },
    ]);
  });

  it('keeps the last snapshot', async () => {
    await apply(present('U1', 1, { name: 'Ada', email: 'ada@example.com' }));
    await apply(absent('U1', 2));
    const { db, t } = database.mirror;
    const [row] = await rows(db, sql`select name, raw ->> 'email' as email from ${t.users}`);
    expect(row).toEqual({ name: 'Ada', email: 'ada@example.com' });
  });

  it('is written of a user never seen, so that what was seen earlier comes too late', async () => {
    expect(await apply(absent('U1', 5))).toMatchObject({ deleted: [] });
    expect(await apply(present('U1', 4))).toMatchObject({
      created: [],
      restored: [],
      stale: ['U1'],
    });
    expect(await readMirror()).toMatchObject([{ gone: true, observedAt: at(5) }]);
    expect(await readChanges()).toEqual([]);
  });
});

describe('what is not news', () => {
  it('says beforehand whether a page has nothing to write', async () => {
    const name = fc.constantFrom('A', 'B');
    const stored = fc.option(fc.record({ name, gone: fc.boolean() }));
    const users = fc.array(fc.record({ stored, shown: fc.option(name) }), { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(users, async (drawn) => {
        await clear();
        for (const [index, { stored: held }] of drawn.entries()) {
          if (held) await apply(present(`U${index}`, 1, { name: held.name }));
          if (held?.gone) await apply(absent(`U${index}`, 2));
        }
        const page = drawn.flatMap(({ shown }, index) =>
          shown === null ? [] : [present(`U${index}`, 3, { name: shown }, 'page')],
        );
        const { db, t } = database.mirror;
        const said = await rows(db, sql`select ${isUnchanged(t, page)} as "is"`);
        expect(said).toEqual([{ is: (await apply(...page)).unchanged === page.length }]);
      }),
      { numRuns: 60 },
    );
  });
  it('writes nothing: an unchanged page leaves the row version as it is', async () => {
    const { db, t } = database.mirror;
    const version = () => rows(db, sql`select xmin::text, ctid::text, observed_at from ${t.users}`);
    await apply(present('U1', 1, { name: 'A' }, 'page'));
    const before = await version();
    expect(await apply(present('U1', 2, { name: 'A' }, 'page'))).toMatchObject({ unchanged: 1 });
    expect(await apply(present('U1', 0, { name: 'B' }, 'page'))).toMatchObject({ stale: ['U1'] });
    expect(await version()).toEqual(before);
    expect(await readChanges()).toHaveLength(1);
  });

  it('moves the moment alone where a load saw the same', async () => {
    await apply(present('U1', 1, { name: 'A' }));
    expect(await apply(present('U1', 2, { name: 'A' }))).toMatchObject({ unchanged: 1 });
    const { db, t } = database.mirror;
    const [row] = await rows(db, sql`select changed_at > observed_at as kept from ${t.users}`);
    expect(row).toEqual({ kept: true });
    expect(await readMirror()).toMatchObject([{ observedAt: at(2) }]);
    expect(await readChanges()).toHaveLength(1);
  });

  it('is no field that only stands elsewhere in the answer', async () => {
    await apply(present('U1', 1, { name: 'A', email: 'a@example.com' }));
    expect(await apply(present('U1', 2, { email: 'a@example.com', name: 'A' }))).toMatchObject({
      unchanged: 1,
    });
  });
});

describe('the feed of changes', () => {
  it('names the fields that differ, those that came and those that went', async () => {
    await apply(present('U1', 1, { name: 'A', phone: '1', customAttributes: { a: 1, b: [1, 2] } }));
    await apply(present('U1', 2, { name: 'B', email: 'e', customAttributes: { b: [1, 2], a: 1 } }));
    await apply(present('U1', 3, { name: 'B', email: 'e', customAttributes: { b: [2, 1], a: 1 } }));
    const [, second, third] = await readChanges();
    expect(second).toMatchObject({ kind: 'updated', changed: ['email', 'name', 'phone'] });
    expect(third).toMatchObject({ kind: 'updated', changed: ['customAttributes'] });
  });

  it('tells a change that JavaScript numbers cannot', async () => {
    const answer = (digits: string) =>
      parseJson(`{"customAttributes":{"id":${digits}}}`) as Record<string, unknown>;
    await apply(present('U1', 1, answer('9007199254740993')));
    await apply(present('U1', 2, answer('9007199254740992')));
    expect((await readChanges())[1]).toMatchObject({ changed: ['customAttributes'] });
  });

  it('has one row a change and user, whatever the batch', async () => {
    await apply(...['U1', 'U2', 'U3'].map((userId) => present(userId, 1, { name: 'A' })));
    await apply(
      present('U1', 2, { name: 'B' }),
      absent('U2', 2),
      present('U3', 2, { name: 'A' }),
      present('U4', 2, {}),
    );
    expect((await readChanges()).slice(3).map((c) => `${c.kind} ${c.userId}`)).toEqual([
      'created U4',
      'updated U1',
      'deleted U2',
    ]);
  });
});

describe('texts that have broken importers', () => {
  const nasty = {
    name: 'NUL \0 and a lone surrogate \ud800.',
    givenName: '\u2028\u2029\u0007 "\'\\ ; drop table users; --',
    familyName: '🦊 Zoë 美咲 محمد',
    email: '',
    phone: '   ',
    roleNames: ['a,b', '{c}', '"d"', '', 'null', 'NULL', '\\'],
    customAttributes: { 'k\0ey': '\0', deep: { x: ['\udfff'] }, empty: '' },
    userTenants: [
      { tenantId: 'T1', tenantName: 'Ten\0ant', roleNames: ['r'], permissions: [] },
      { tenantId: 'T1', tenantName: 'named twice' },
      { tenantName: 'without an id' },
    ],
  };

  it('are stored as near as Postgres can', async () => {
    await apply(present('U1', 1, nasty));
    const { db, t } = database.mirror;
    const [row] = await rows<Record<string, unknown>>(
      db,
      sql`select name, given_name, family_name, email, phone, role_names, custom_attributes,
                 raw ->> 'email' as raw_email from ${t.users}`,
    );
    expect(row).toEqual({
      name: 'NUL \ufffd and a lone surrogate \ufffd.',
      given_name: nasty.givenName,
      family_name: nasty.familyName,
      email: null,
      phone: null,
      role_names: ['a,b', '{c}', '"d"', 'null', 'NULL', '\\'],
      custom_attributes: { 'k\ufffdey': '\ufffd', deep: { x: ['\ufffd'] }, empty: '' },
      raw_email: '',
    });
    const tenants = await rows(db, sql`select tenant_id, tenant_name from ${t.userTenants}`);
    expect(tenants).toEqual([{ tenant_id: 'T1', tenant_name: 'Ten\ufffdant' }]);
  });

  it('are updated and seen again as what they are', async () => {
    await apply(present('U1', 1, { ...nasty, middleName: 'x' }));
    await apply(present('U1', 2, nasty));
    expect(await apply(present('U1', 3, nasty, 'page'))).toMatchObject({ unchanged: 1 });
    expect((await readChanges())[1]?.changed).toEqual(['middleName']);
  });

  it('keep the digits of numbers past 2^53', async () => {
    const text =
      '{"userId":"U1","customAttributes":{"a":9007199254740993,"b":-123456789012345678901234567890,"c":0.1234567890123456789}}';
    const row = toUserRow(parseJson(text));
    if (!row) throw new Error('a user without an id');
    await apply({ kind: 'present', userId: 'U1', row, observedAt: at(1), by: 'page' });
    const { db, t } = database.mirror;
    const [kept] = await rows<{ raw: string; attributes: string }>(
      db,
      sql`select raw::text as raw, custom_attributes::text as attributes from ${t.users}`,
    );
    for (const digits of [
      '9007199254740993',
      '-123456789012345678901234567890',
      '0.1234567890123456789',
    ]) {
      expect(kept?.raw).toContain(digits);
      expect(kept?.attributes).toContain(digits);
    }
  });
});

it('carries a bounded number of observations in a statement, whatever is handed over (G8)', async () => {
  const { mirror } = database;
  const many = (second: number, n: number) =>
    Array.from({ length: 2_500 }, (_, nth) => present(`U${nth}`, second, content(n)));
  const dialect = new PgDialect();
  const texts: string[] = [];
  const summaries: ApplySummary[] = [];
  for (const observations of [many(1, 1), many(2, 2)]) {
    summaries.push(
      await transaction(mirror, (tx) => {
        const execute: typeof tx.execute = (query) => {
          texts.push(JSON.stringify(dialect.sqlToQuery(query as SQL).params));
          return tx.execute(query);
        };
        return applyObservations({ execute }, mirror.t, observations, 'manual');
      }),
    );
  }
  expect(summaries.map(({ created, updated }) => [created.length, updated.length])).toEqual([
    [2_500, 0],
    [0, 2_500],
  ]);
  const sizes = texts.map((text) => new Set(text.match(/\bU\d+/g)).size);
  expect(Math.max(...sizes)).toBe(1_000);
  expect(await readChanges()).toHaveLength(5_000);
});
