import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { beginOf, rows, transaction, type Executor } from '../../src/mirror/database.ts';
import { createRandom } from '../../src/simulator/random.ts';
import { adoptRestoredFeed } from '../../src/mirror/restored.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

import {
  clearFeed,
  Consumer,
  expectEverything,
  keepAllChanges,
  NamedConsumer,
  prune,
  type Change,
} from './feedReaders.ts';

import type pg from 'pg';
import type { Observation } from '../../src/observation.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await keepAllChanges(database);
});
afterAll(() => database.drop());

const clear = () => clearFeed(database);

function changesSince(cursor: string | null, most: number): Promise<Change[]> {
  return rows<Change>(
    database.mirror.db,
    sql`select seq, user_id as "userId", kind, cursor from descope.changes_since(${cursor}, ${most})`,
  );
}

/** Later calls are later observations, so each of them that tells something new is written. */
let looks = 0;
function look(userId: string, isThere: boolean): Observation {
  const observedAt = new Date(Date.UTC(2026, 0, 1) + ++looks).toISOString().replace('Z', '000Z');
  if (!isThere) return { kind: 'absent', userId, observedAt };
  const row = toUserRow({ userId, name: `look ${looks}` });
  if (!row) throw new Error('a user without an id');
  return { kind: 'present', userId, row, observedAt, by: 'load' };
}

function apply(tx: Executor, ...observations: Observation[]): Promise<unknown> {
  return applyObservations(tx, database.mirror.t, observations, 'manual');
}

const WRITERS = 3;
const USERS = 4;

type Move =
  | {
      readonly kind: 'write';
      readonly writer: number;
      readonly user: number;
      readonly isThere: boolean;
    }
  | { readonly kind: 'commit' | 'rollback'; readonly writer: number }
  | { readonly kind: 'read'; readonly most: number }
  | { readonly kind: 'readNamed'; readonly most: number; readonly share: number }
  | { readonly kind: 'prune'; readonly newest: number };

const writer = fc.nat({ max: WRITERS - 1 });
const move: fc.Arbitrary<Move> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      writer,
      user: fc.nat({ max: USERS - 1 }),
      isThere: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('commit' as const), writer }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('rollback' as const), writer }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('read' as const),
      most: fc.integer({ min: 1, max: 3 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('readNamed' as const),
      most: fc.integer({ min: 1, max: 3 }),
      share: fc.constantFrom(0, 0.5, 1),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('prune' as const),
      newest: fc.constantFrom(0, 0, 0, 1, 3),
    }),
  },
);

/** Writers with a transaction each, in one order of events. Nobody waits for a lock: that user is left out. */
class Table {
  readonly #clients: readonly pg.PoolClient[];
  readonly #open = new Set<number>();
  /** Which writer's transaction holds a user. */
  readonly #held = new Map<number, number>();

  constructor(clients: readonly pg.PoolClient[]) {
    this.#clients = clients;
  }

  async write(at: number, user: number, isThere: boolean): Promise<void> {
    const holder = this.#held.get(user);
    if (holder !== undefined && holder !== at) return;
    const client = this.#client(at);
    if (!this.#open.has(at)) await client.query(beginOf(database.mirror));
    this.#open.add(at);
    this.#held.set(user, at);
    await apply(drizzle(client), look(`U${user}`, isThere));
  }

  async end(at: number, how: 'commit' | 'rollback'): Promise<void> {
    if (!this.#open.delete(at)) return;
    await this.#client(at).query(how);
    for (const [user, holder] of this.#held) if (holder === at) this.#held.delete(user);
  }

  async endAll(): Promise<void> {
    for (const at of [...this.#open]) await this.end(at, 'commit');
  }

  #client(at: number): pg.PoolClient {
    const client = this.#clients[at];
    if (!client) throw new Error(`no writer ${at}`);
    return client;
  }
}

async function play(moves: readonly Move[]): Promise<void> {
  await clear();
  const clients: pg.PoolClient[] = [];
  for (let at = 0; at < WRITERS; at++) clients.push(await database.mirror.pool.connect());
  const table = new Table(clients);
  const consumer = new Consumer(database);
  const named = new NamedConsumer(database, 'search');
  try {
    for (const next of moves) {
      if (next.kind === 'write') await table.write(next.writer, next.user, next.isThere);
      else if (next.kind === 'read') await consumer.read(next.most);
      else if (next.kind === 'readNamed') await named.readAndConfirm(next.most, next.share);
      else if (next.kind === 'prune') await prune(database, await seqBefore(next.newest));
      else await table.end(next.writer, next.kind);
    }
    await table.endAll();
  } finally {
    await Promise.all(clients.map((client) => client.query('rollback')));
    for (const client of clients) client.release();
  }
  await consumer.readAll();
  await expectEverything(database, consumer);
  await named.readAll();
  await expectEverything(database, named);
}

/** The seq that all but the newest so many of the committed rows lie at or below. */
async function seqBefore(newest: number): Promise<number> {
  const { db, t } = database.mirror;
  const [row] = await rows<{ seq: number }>(
    db,
    sql`select coalesce(max(seq), 0)::float8 - ${newest}::int as seq from ${t.userChanges}`,
  );
  return row?.seq ?? 0;
}

describe('changes_since()', () => {
  it('skips nothing and repeats nothing, however transactions overlap and rows are pruned: or it says so', async () => {
    await fc.assert(fc.asyncProperty(fc.array(move, { minLength: 5, maxLength: 40 }), play), {
      numRuns: 60,
    });
  });

  it("keeps a user's changes in their order where the transaction that began first comes last", async () => {
    await play([
      { kind: 'write', writer: 0, user: 0, isThere: true },
      { kind: 'write', writer: 1, user: 3, isThere: true },
      { kind: 'write', writer: 2, user: 1, isThere: true },
      { kind: 'write', writer: 2, user: 1, isThere: false },
      { kind: 'commit', writer: 2 },
      { kind: 'write', writer: 0, user: 1, isThere: true },
      { kind: 'commit', writer: 0 },
      { kind: 'read', most: 3 },
      { kind: 'commit', writer: 1 },
    ]);
  });

  it('prunes nothing that a transaction under way may still write before', async () => {
    await play([
      { kind: 'write', writer: 0, user: 0, isThere: true },
      { kind: 'write', writer: 1, user: 1, isThere: true },
      { kind: 'commit', writer: 1 },
      { kind: 'prune', newest: 0 },
      { kind: 'read', most: 3 },
      { kind: 'readNamed', most: 3, share: 1 },
      { kind: 'commit', writer: 0 },
    ]);
  });

  it("keeps a user's changes in their order where the one before was pruned", async () => {
    await play([
      { kind: 'write', writer: 0, user: 0, isThere: true },
      { kind: 'write', writer: 1, user: 1, isThere: true },
      { kind: 'commit', writer: 1 },
      { kind: 'read', most: 3 },
      { kind: 'commit', writer: 0 },
      { kind: 'prune', newest: 0 },
      { kind: 'write', writer: 2, user: 3, isThere: true },
      { kind: 'write', writer: 0, user: 1, isThere: false },
      { kind: 'commit', writer: 0 },
      { kind: 'read', most: 3 },
      { kind: 'write', writer: 2, user: 1, isThere: true },
    ]);
  });

  it('rebuilds the mirror from 20,000 changes of four writers while they write', async () => {
    await clear();
    const consumer = new Consumer(database);
    let left = 20_000;
    let writing = 4;
    const write = async (at: number) => {
      const next = createRandom(at + 1);
      while (left > 0) {
        left -= 20;
        const users = new Set(Array.from({ length: 20 }, () => Math.floor(next() * 2_000)));
        await transaction(database.mirror, async (tx) => {
          await apply(tx, ...[...users].map((user) => look(`U${user}`, next() < 0.7)));
          // Held open while others commit, now and then.
          for (let more = Math.floor(next() * 4); more > 0; more--) await consumer.read(1_000);
        });
      }
      writing--;
    };
    // One consumer, read by whoever has a moment: two at once would read the same page.
    let turn = Promise.resolve(false);
    const read = consumer.read.bind(consumer);
    consumer.read = (most) => (turn = turn.then(() => read(most)));
    await Promise.all([0, 1, 2, 3].map(write));
    expect(writing).toBe(0);
    await consumer.readAll();
    await expectEverything(database, consumer);
  });

  it('does not wait for transactions that write elsewhere', async () => {
    await clear();
    const { mirror } = database;
    const other = await mirror.pool.connect();
    try {
      await other.query('begin');
      await other.query('select pg_current_xact_id()');
      await transaction(mirror, (tx) => apply(tx, look('U1', true)));

      expect(await changesSince(null, 10)).toHaveLength(1);
    } finally {
      await other.query('rollback');
      other.release();
    }
  });

  it('shows nothing beyond what the transaction that asks may still write itself', async () => {
    await clear();
    const { mirror } = database;
    await transaction(mirror, async (tx) => {
      await apply(tx, look('U1', true));
      await transaction(mirror, (other) => apply(other, look('U2', true)));
      expect(await rows(tx, sql`select * from descope.changes_since(null, 10)`)).toEqual([]);
    });
    expect(await changesSince(null, 10)).toHaveLength(2);
  });

  it('skips nothing in a snapshot that is older than the answer either', async () => {
    await clear();
    const { mirror } = database;
    const [writer, reader] = [await mirror.pool.connect(), await mirror.pool.connect()];
    const read = async () => {
      const { rows: found } = await reader.query<{ user_id: string }>(
        'select user_id from descope.changes_since(null, 10)',
      );
      return found;
    };
    try {
      await writer.query(beginOf(mirror));
      await apply(drizzle(writer), look('U1', true));
      await transaction(mirror, (tx) => apply(tx, look('U2', true)));
      await reader.query('begin isolation level repeatable read');
      await reader.query('select 1');
      await writer.query('commit');

      // U2's row alone would be a skip: U1's comes before it.
      expect(await read()).toEqual([]);
      await reader.query('commit');
      expect(await read()).toHaveLength(2);
    } finally {
      await writer.query('rollback');
      await reader.query('rollback');
      writer.release();
      reader.release();
    }
  });

  it('tells a cursor that is none', async () => {
    for (const cursor of ['', '7', "1-1'; drop table users", '1-1-1']) {
      await expect(changesSince(cursor, 1)).rejects.toMatchObject({
        cause: { code: '22023', message: 'not a cursor of changes_since()' },
      });
    }
  });

  it('tells a cursor from before a restore, whose changes it cannot go on from', async () => {
    await expect(changesSince('9000000000000000000-1', 1)).rejects.toMatchObject({
      cause: { code: 'RC002', message: 'this cursor of changes_since() is not of this database' },
    });
    // Of a number that has been, but not of this row.
    await clear();
    await transaction(database.mirror, (tx) => apply(tx, look('U1', true)));
    const [change] = await changesSince(null, 1);
    const seq = change?.cursor.split('-')[1] ?? '';
    await expect(changesSince(`7-${seq}`, 1)).rejects.toMatchObject({ cause: { code: 'RC002' } });
    expect(await changesSince(change?.cursor ?? null, 1)).toEqual([]);
  });

  it('shows what a dump of another server brought, once that is adopted', async () => {
    const { mirror } = database;
    await clear();
    const consumer = new Consumer(database);
    await transaction(mirror, (tx) => apply(tx, look('U1', true)));
    await transaction(mirror, (tx) => apply(tx, look('U1', false)));
    await mirror.db.execute(
      sql`update ${mirror.t.userChanges} set transaction_id = '9000000000000000000'`,
    );
    expect(await changesSince(null, 10)).toEqual([]);

    await adoptRestoredFeed(mirror);
    await transaction(mirror, (tx) => apply(tx, look('U1', true), look('U2', true)));

    await consumer.readAll();
    await expectEverything(database, consumer);
  });

  it('hands over no more than asked for', async () => {
    await clear();
    await transaction(database.mirror, (tx) =>
      apply(tx, ...['U1', 'U2', 'U3'].map((userId) => look(userId, true))),
    );
    const first = await changesSince(null, 2);
    expect(first).toHaveLength(2);
    expect(await changesSince(first.at(-1)?.cursor ?? null, 2)).toHaveLength(1);
  });
});
