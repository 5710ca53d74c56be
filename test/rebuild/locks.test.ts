import { sql } from 'drizzle-orm';
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { databaseNow, rows, transaction, type Executor } from '../../src/mirror/database.ts';
import { mirrorTables } from '../../src/mirror/schema.ts';
import { toPresent } from '../../src/observation.ts';
import { now } from '../../src/rebuild/batches.ts';
import { swap } from '../../src/rebuild/swap.ts';
import { eventually } from '../support/eventually.ts';
import { filled, runRebuild, tables } from './rebuildScene.ts';
import { atLeast, startReader } from './readers.ts';

import type { Scene } from '../support/world.ts';

/* Who reads and writes while the tables are swapped: nobody fails, nobody finds the half. */

async function connect(s: Scene): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: s.database.url });
  client.on('error', () => undefined);
  await client.connect();
  onTestFinished(() => client.end());
  return client;
}

/** Waits until somebody waits for a lock of this mode. */
async function untilAsked(s: Scene, mode: string): Promise<void> {
  await eventually(async () => {
    const waiting = await s.query(sql`select from pg_locks where mode = ${mode} and not granted`);
    expect(waiting.length).toBeGreaterThan(0);
  });
}

const isSwapped = async (s: Scene) => (await tables(s)).includes('users_previous');

describe('the swap', () => {
  it('waits for a transaction that reads, and holds up neither other readers nor writers for long', async () => {
    const s = await filled();
    const { mirror } = s.database;
    const [{ n: users } = { n: -1 }] = await s.query<{ n: number }>(
      sql`select count(*)::int as n from descope.live_users`,
    );
    const long = await connect(s);
    await long.query('begin');
    await long.query('select count(*) from descope.users');
    const reader = await startReader(
      s.database.url,
      atLeast(users, 'select count(*)::int as n from descope.live_users'),
      20,
    );
    const rebuilding = runRebuild(s);
    await untilAsked(s, 'AccessExclusiveLock');
    const before = reader.reads;
    const writes: number[] = [];
    for (let at = 0; at < 3; at++) {
      const startedMs = performance.now();
      await transaction(mirror, (tx) => tx.execute(sql`select 1`));
      writes.push(performance.now() - startedMs);
    }
    await eventually(() => {
      expect(reader.reads).toBeGreaterThan(before + 5);
    });
    expect(await isSwapped(s)).toBe(false);
    // Far from any limit of a statement, however busy the machine.
    expect(Math.max(...writes)).toBeLessThan(30_000);
    await long.query('commit');
    expect((await rebuilding).exitCode).toBe(0);
    expect(await isSwapped(s)).toBe(true);
    await reader.stop();
    expect(reader.complaints).toEqual([]);
  });

  it('never lets a reader fail who asks for the tables in another order', async () => {
    const s = await filled();
    const [{ n: users } = { n: -1 }] = await s.query<{ n: number }>(
      sql`select count(distinct user_id)::int as n from descope.live_users join descope.user_tenants using (user_id)`,
    );
    // Each holds what it asked for first for a while before it asks for the next.
    const inTurn = (first: string, second: string) =>
      startReader(
        s.database.url,
        async (client) => {
          await client.query('begin');
          await client.query(`select from ${first} limit 1`);
          await client.query('select pg_sleep(0.03)');
          await client.query(`select from ${second} limit 1`);
          await client.query('commit');
        },
        5,
      );
    const readers = await Promise.all([
      inTurn('descope.user_tenants', 'descope.live_users'),
      inTurn('descope.users', 'descope.user_tenants'),
      startReader(
        s.database.url,
        atLeast(
          users,
          `select count(distinct l.user_id)::int as n
           from descope.user_tenants t join descope.live_users l using (user_id)`,
        ),
        5,
      ),
    ]);
    for (let turn = 0; turn < 3; turn++) expect((await runRebuild(s)).exitCode).toBe(0);
    for (const reader of readers) {
      await reader.stop();
      expect(reader.complaints).toEqual([]);
      expect(reader.reads).toBeGreaterThan(10);
    }
  });

  it('locks a view, and nothing else that the view reads', async () => {
    const s = await filled({ simulator: { users: 30 } });
    const shop = await connect(s);
    await shop.query(`create schema app; create table app.orders (user_id text);
      create view app.buyers as select user_id from descope.users join app.orders using (user_id)`);
    await shop.query('begin; lock table app.orders in access share mode');
    expect((await runRebuild(s)).exitCode).toBe(0);
    await shop.query('commit');
    expect(await isSwapped(s)).toBe(true);
  });

  it('is ended by Postgres where its client has fallen silent in the midst of it', async () => {
    const s = await filled({ simulator: { users: 30 } });
    const { mirror } = s.database;
    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    const limits: unknown[] = [];
    const swapping = {
      incoming: '_next',
      carrying: { from: mirror.t, to: mirrorTables(mirror.schema, '_next'), rule: sql`true` },
      differing: new Set<string>(),
      since: await now(mirror.db),
      assertSettled: () => Promise.resolve(),
      along: async (tx: Executor) => {
        const show = sql`show idle_in_transaction_session_timeout`;
        limits.push(...(await rows(tx, show)));
        throw new Error('seen');
      },
    } as const;
    const { signal } = new AbortController();
    await expect(swap(mirror, swapping, { signal, patienceMs: 0 })).rejects.toThrow('seen');
    expect(limits).toEqual([{ idle_in_transaction_session_timeout: '15s' }]);
  });

  it('waits for a transaction that still sees the database as it was before everyone was read', async () => {
    const s = await filled();
    const old = await connect(s);
    await old.query('begin isolation level repeatable read');
    await old.query('select 1');
    const rebuilding = runRebuild(s);
    const { t } = s.database.mirror;
    await eventually(async () => {
      const [run] = await s.query<{ isRead: boolean }>(
        sql`select bool_and(state = 'proven') as "isRead" from ${t.syncWindows} where pull = 'rebuild'`,
      );
      expect(run?.isRead).toBe(true);
    });
    const { rows: seen } = await old.query<{ n: number }>(
      'select count(*)::int as n from descope.users',
    );
    const [now] = await s.query<{ n: number }>(sql`select count(*)::int as n from descope.users`);
    expect(seen).toEqual([now]);
    expect(await isSwapped(s)).toBe(false);
    await old.query('commit');
    expect((await rebuilding).exitCode).toBe(0);
  });

  it('loses nothing of a writer that was at work, or that came while it happened', async () => {
    const s = await filled();
    const { mirror } = s.database;
    const write = async (userId: string, gate: Promise<unknown>) => {
      const observedAt = await databaseNow(mirror);
      const row = toUserRow({ userId, loginIds: [userId], createdTime: 1_700_000_000 });
      if (!row) throw new Error('not a user');
      await transaction(mirror, async (tx) => {
        await applyObservations(tx, mirror.t, [toPresent(row, observedAt, 'load')], 'webhook');
        // A statement with parameters holds its snapshot until the next one: that would be waited for first.
        await tx.execute(sql`select 1`);
        await gate;
      });
    };
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    // Everyone is read: what follows is the swap.
    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    const early = write('UearlyWriter', gate);
    const rebuilding = runRebuild(s);
    await untilAsked(s, 'ShareRowExclusiveLock');
    const late = write('UlateWriter', Promise.resolve());
    await untilAsked(s, 'RowExclusiveLock');
    open();
    await Promise.all([early, late]);
    // Neither of them exists at Descope; both were seen there after everyone had been read.
    expect((await rebuilding).json()).toMatchObject({ outcome: 'swapped' });
    expect(
      await s.query(
        sql`select user_id from descope.live_users where user_id like 'U%Writer' order by 1`,
      ),
    ).toEqual([{ user_id: 'UearlyWriter' }, { user_id: 'UlateWriter' }]);
    expect(
      await s.query(
        sql`select user_id from descope.user_changes where user_id like 'U%Writer' order by 1`,
      ),
    ).toHaveLength(2);
  });
});
