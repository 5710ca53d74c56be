import { sql } from 'drizzle-orm';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { Stopping } from '../../src/errors.ts';
import { pruneFeed } from '../../src/feed/prune.ts';
import { rows, transaction } from '../../src/mirror/database.ts';
import { adoptRestoredFeed } from '../../src/mirror/restored.ts';
import { createRandom } from '../../src/simulator/random.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import {
  clearFeed,
  Consumer,
  expectEverything,
  keepAllChanges,
  NamedConsumer,
  prune,
  TOO_OLD,
} from './feedReaders.ts';

import type { Observation } from '../../src/observation.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await keepAllChanges(database);
});
afterAll(() => database.drop());
beforeEach(() => clearFeed(database));

let looks = 0;
async function see(...users: (readonly [userId: string, isThere: boolean])[]): Promise<void> {
  const { mirror } = database;
  const seen = users.map(([userId, isThere]): Observation => {
    const observedAt = new Date(Date.UTC(2026, 0, 1) + ++looks).toISOString().replace('Z', '000Z');
    if (!isThere) return { kind: 'absent', userId, observedAt };
    const row = toUserRow({ userId, name: `look ${looks}` });
    if (!row) throw new Error('a user without an id');
    return { kind: 'present', userId, row, observedAt, by: 'load' };
  });
  await transaction(mirror, (tx) => applyObservations(tx, mirror.t, seen, 'manual'));
}

/** Cursors of what is read after one. */
async function read(after: string | null, most = 100): Promise<string[]> {
  const found = await rows<{ cursor: string }>(
    database.mirror.db,
    sql`select cursor from descope.changes_since(${after}, ${most})`,
  );
  return found.map(({ cursor }) => cursor);
}

async function ask<T>(query: ReturnType<typeof sql>): Promise<T | undefined> {
  const [row] = await rows<{ answer: T }>(database.mirror.db, query);
  return row?.answer;
}

const head = () => ask<string>(sql`select descope.feed_head() as answer`);
const confirm = (name: string, cursor: string) =>
  ask<string>(sql`select descope.confirm_changes(${name}, ${cursor}) as answer`);
const seqOf = (cursor = '') => Number(cursor.split('-')[1]);

interface Reader {
  read(statement: string): Promise<Record<string, unknown>[]>;
}

/** A connection as a role of its own, with what README grants readers, or with the schema's use alone. */
async function asReader(mayReadTables = true): Promise<Reader> {
  const { mirror } = database;
  const role = `reader_${randomBytes(6).toString('hex')}`;
  const client = await mirror.pool.connect();
  onTestFinished(async () => {
    await client.query(`reset role; drop owned by ${role}; drop role ${role}`);
    client.release();
  });
  await client.query(`create role ${role}; grant ${role} to current_user;
    grant usage on schema descope to ${role}`);
  if (mayReadTables) {
    await client.query(`grant select on descope.live_users, descope.user_changes to ${role}`);
  }
  await client.query(`set role ${role}`);
  return {
    async read(statement) {
      const found = await client.query<Record<string, unknown>>(statement);
      return found.rows;
    },
  };
}

const tooOld = {
  cause: { code: TOO_OLD, hint: expect.stringContaining('feed_head()') as unknown },
};
const notOfThis = {
  cause: { code: 'RC002', message: 'this cursor of changes_since() is not of this database' },
};

describe('a feed whose beginning was pruned', () => {
  it('refuses a cursor that missed something, and goes on from the very place', async () => {
    for (const userId of ['U1', 'U2', 'U3', 'U4']) await see([userId, true]);
    const cursors = await read(null);
    expect(await prune(database, seqOf(cursors[1]))).toBe(2);

    await expect(read(cursors[0] ?? '')).rejects.toMatchObject(tooOld);
    expect(await read(cursors[1] ?? '')).toEqual(cursors.slice(2));
    expect(await read(cursors[2] ?? '')).toEqual(cursors.slice(3));
  });

  it('cannot be read from the beginning any more, and says what to do instead', async () => {
    await see(['U1', true], ['U2', true]);
    await prune(database);

    for (const beginning of [null, '0-0']) {
      await expect(read(beginning)).rejects.toMatchObject({
        cause: {
          code: TOO_OLD,
          message: expect.stringContaining('no longer begins at the beginning') as unknown,
        },
      });
    }
    const start = await head();
    expect(await read(start ?? '')).toEqual([]);
    await see(['U3', true]);
    expect(await read(start ?? '')).toHaveLength(1);
  });

  it('still tells a cursor of another database from one that is too old', async () => {
    await see(['U1', true], ['U2', true]);
    const [first = '', second = ''] = await read(null);
    await prune(database, seqOf(first));

    await expect(read('9000000000000000000-1')).rejects.toMatchObject(notOfThis);
    await expect(read(`${second.split('-')[0] ?? ''}-900000`)).rejects.toMatchObject(notOfThis);
    await expect(read('1-1')).rejects.toMatchObject(tooOld);
  });

  it('keeps the young, however many are old, and those behind them in its order', async () => {
    for (const userId of ['U1', 'U2', 'U3']) await see([userId, true]);
    const cursors = await read(null);
    const { t } = database.mirror;
    const make = (cursor = '', days: number) =>
      database.mirror.db.execute(sql`
        update ${t.userChanges} set written_at = now() - make_interval(days => ${days})
        where seq = ${seqOf(cursor)}`);
    await make(cursors[0], 31);
    await make(cursors[1], 29);
    await make(cursors[2], 31);

    const { signal } = new AbortController();
    expect(await pruneFeed(database.mirror, { days: 30, steps: 10 }, signal)).toBe(1);
    expect(await read(cursors[0] ?? '')).toEqual(cursors.slice(1));
    expect(await ask(sql`select kept_days as answer from ${t.feedPruned}`)).toBe(30);
  });

  it('is pruned in steps, by two at once, until the process stops', async () => {
    const { mirror } = database;
    const many = sql`
      insert into ${mirror.t.userChanges} (user_id, kind, observed_at, witness, written_at)
      select n, 'created', now(), 'manual', now() - interval '40 days'
      from generate_series(1, 2500) as n`;
    await mirror.db.execute(many);
    const run = (steps: number, signal = new AbortController().signal) =>
      pruneFeed(mirror, { days: 30, steps }, signal);
    await expect(run(1, AbortSignal.abort())).rejects.toThrow(Stopping);
    expect(await run(2)).toBe(2_000);
    expect(await run(2)).toBe(500);

    await mirror.db.execute(many);
    await mirror.db.execute(many);
    const counts = await Promise.all([run(10), run(10)]);
    const rest = await run(10);
    expect(counts.reduce((sum, count) => sum + count, rest)).toBe(5_000);
    expect(await read((await head()) ?? '')).toEqual([]);
  });

  it('can be read by a role that was granted what readers were before', async () => {
    await see(['U1', true]);
    const [cursor = ''] = await read(null);
    await prune(database);
    const client = await asReader();

    await expect(client.read(`select * from descope.changes_since(null, 1)`)).rejects.toMatchObject(
      {
        code: TOO_OLD,
      },
    );
    expect(await client.read(`select * from descope.changes_since('${cursor}', 1)`)).toEqual([]);
    expect(await client.read('select descope.feed_head()')).toEqual([{ feed_head: cursor }]);
  });

  it('stays readable after a dump of it was restored into another server', async () => {
    const { db, t } = database.mirror;
    for (const userId of ['U1', 'U2', 'U3']) await see([userId, true]);
    const cursors = await read(null);
    await prune(database, seqOf(cursors[0]));
    // A server that has counted further: the place of the pruning is one of its numbers too.
    await db.execute(sql`update ${t.userChanges} set transaction_id = '9000000000000000000'`);
    await db.execute(sql`update ${t.feedPruned} set transaction_id = '8000000000000000000'`);

    await adoptRestoredFeed(database.mirror);

    await expect(read(null)).rejects.toMatchObject(tooOld);
    await expect(read(cursors[1] ?? '')).rejects.toMatchObject({ cause: { code: 'RC002' } });
    const start = (await head()) ?? '';
    await see(['U4', true]);
    expect(await read(start)).toHaveLength(1);

    // All of it pruned before the dump was made: only the place itself is of the future.
    await prune(database);
    await db.execute(sql`update ${t.feedPruned} set transaction_id = '8000000000000000000'`);
    await adoptRestoredFeed(database.mirror);
    await see(['U5', true]);
    await expect(read(null)).rejects.toMatchObject(tooOld);
    expect((await head())?.split('-')[1]).not.toBe('0');
  });

  it('gives everything or the error to readers while it is written and pruned', async () => {
    const consumer = new Consumer(database);
    const named = new NamedConsumer(database, 'search');
    let left = 3_000;
    const write = async (at: number) => {
      const next = createRandom(at + 1);
      while (left > 0) {
        left -= 10;
        const users = new Set(Array.from({ length: 10 }, () => Math.floor(next() * 300)));
        await see(...[...users].map((user) => [`U${user}`, next() < 0.7] as const));
      }
    };
    let pruned = 0;
    const pruning = async () => {
      // Half of what is there, again and again: whoever is slow is overtaken.
      while (left > 0) {
        const { t } = database.mirror;
        const half = await ask<number>(
          sql`select (max(seq) + min(seq))::float8 / 2 as answer from ${t.userChanges}`,
        );
        pruned += await prune(database, Math.floor(half ?? 0));
      }
    };
    const reading = async () => {
      while (left > 0) await consumer.read(50);
    };
    const readingNamed = async () => {
      for (let at = 0; left > 0; at++) await named.readAndConfirm(20, at % 2 === 0 ? 0.5 : 1);
    };
    const all = [write(0), write(1), pruning(), reading(), readingNamed()];
    try {
      await Promise.all(all);
    } finally {
      left = 0;
      await Promise.allSettled(all);
    }

    await consumer.readAll();
    await named.readAll();
    await expectEverything(database, consumer);
    await expectEverything(database, named);
    expect(pruned).toBeGreaterThan(1_000);
    expect(consumer.stretches.length + named.stretches.length).toBeGreaterThan(2);
  });
});

describe('feed_head()', () => {
  it('is accepted before anything was written, and after all of it was pruned', async () => {
    const before = (await head()) ?? '';
    expect(await read(before)).toEqual([]);
    await see(['U1', true]);
    expect(await read(before)).toHaveLength(1);
    const after = (await head()) ?? '';
    await prune(database);

    expect(await read(after)).toEqual([]);
    await expect(read(before)).rejects.toMatchObject(tooOld);
  });

  it('stays before what is written by transactions that are not done', async () => {
    const { mirror } = database;
    await see(['U0', true]);
    const settled = await head();
    await transaction(mirror, async (tx) => {
      await tx.execute(sql`select pg_current_xact_id()`);
      await see(['U1', true]);
      expect(await head()).toBe(settled);
    });
    expect(await head()).not.toBe(settled);
  });
});

describe('a named cursor', () => {
  const readAs = async (name: string, most = 100) => {
    const found = await rows<{ cursor: string }>(
      database.mirror.db,
      sql`select cursor from descope.read_changes(${name}, ${most})`,
    );
    return found.map(({ cursor }) => cursor);
  };

  it('moves when its consumer confirms, not when it reads, and never back', async () => {
    for (const userId of ['U1', 'U2', 'U3']) await see([userId, true]);
    const all = await readAs('search');
    expect(all).toHaveLength(3);
    expect(await readAs('search', 2)).toEqual(all.slice(0, 2));

    expect(await confirm('search', all[1] ?? '')).toBe(all[1]);
    expect(await readAs('search')).toEqual(all.slice(2));
    expect(await confirm('search', all[0] ?? '')).toBe(all[1]);
    expect(await readAs('search')).toEqual(all.slice(2));
    expect(await readAs('another')).toEqual(all);
  });

  it('is the furthest of what two readers of one name confirm at once, the first time too', async () => {
    await see(...Array.from({ length: 8 }, (_, at) => [`U${at}`, true] as const));
    const all = await readAs('search');
    await Promise.all(all.map((cursor) => confirm('search', cursor)));
    expect(await readAs('search')).toEqual([]);
  });

  it('takes no cursor that the feed cannot go on from', async () => {
    await see(['U1', true], ['U2', true]);
    const all = await readAs('search');
    await prune(database);
    await expect(readAs('search')).rejects.toMatchObject(tooOld);
    await expect(confirm('search', all[0] ?? '')).rejects.toMatchObject(tooOld);
    await expect(confirm('search', '7-9000000')).rejects.toMatchObject(tooOld);
    await expect(confirm('search', '9000000000000000000-1')).rejects.toMatchObject(notOfThis);
    for (const [name, cursor] of [
      ['search', 'no cursor'],
      ['', all[1] ?? ''],
    ] as const) {
      await expect(confirm(name, cursor)).rejects.toMatchObject({ cause: { code: '22023' } });
    }
    expect(await confirm('search', (await head()) ?? '')).toBe(all[1]);
    expect(await confirm('search', all[0] ?? '')).toBe(all[1]);
  });

  it('gives way, where it is of another database, to one of this', async () => {
    const { db, t } = database.mirror;
    await see(['U1', true]);
    await db.execute(
      sql`insert into ${t.feedCursors} (name, cursor) values ('search', '9000000000000000000-1')`,
    );
    await expect(readAs('search')).rejects.toMatchObject(notOfThis);

    const start = (await head()) ?? '';
    expect(await confirm('search', start)).toBe(start);
    expect(await readAs('search')).toEqual([]);
  });

  it('is kept in the transaction of its consumer', async () => {
    await see(['U1', true]);
    const [cursor = ''] = await readAs('search');
    const client = await database.mirror.pool.connect();
    await client.query('begin');
    await client.query(`select descope.confirm_changes('search', $1)`, [cursor]);
    await client.query('rollback');
    client.release();
    expect(await readAs('search')).toEqual([cursor]);
  });

  it('is for those who were granted the two functions, and they need nothing else', async () => {
    await see(['U1', true]);
    const client = await asReader(false);
    const reading = `select cursor from descope.read_changes('search', 10)`;
    await expect(client.read(reading)).rejects.toMatchObject({ code: '42501' });
    await database.mirror.db.execute(sql`
      grant execute on function descope.read_changes(text, integer), descope.confirm_changes(text, text)
      to public`);
    const [row] = await client.read(reading);
    await client.read(`select descope.confirm_changes('search', '${String(row?.['cursor'])}')`);
    expect(await client.read(reading)).toEqual([]);
    await expect(client.read('delete from descope.feed_cursors')).rejects.toMatchObject({
      code: '42501',
    });
  });
});
