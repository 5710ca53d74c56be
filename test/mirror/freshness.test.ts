import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { databaseNow } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { look } from '../support/look.ts';

import type { ClientBase } from 'pg';

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase();
});
afterEach(() => database.drop());

const execute = (statement: string) => database.mirror.pool.query(statement);

async function read<Row>(statement: string, client?: ClientBase): Promise<Row> {
  const { rows } = await (client ?? database.mirror.pool).query<Row & object>(statement);
  const [row] = rows;
  if (!row || rows.length > 1) throw new Error(`${rows.length} rows`);
  return row;
}

/** As of when a user is known, in minutes of 2090: long after any look of these tests. */
const asOf = async (userId: string) => {
  const { at } = await read<{ at: string }>(`
    select case when as_of is null then 'never'
      when as_of < '2090-01-01' then 'when it was looked at'
      else extract(minute from as_of)::int::text end as at
    from descope.user_as_of('${userId}') as as_of`);
  return at;
};

const watermark = (pull: string, minute: number) =>
  execute(
    `insert into descope.watermarks (pull, complete_to) values ('${pull}', '2090-01-01 00:${minute}Z')`,
  );

const event = (minute: number, state: string, userIds = '{}') =>
  execute(`
    insert into descope.events (event_id, action, occurred_at, payload, user_ids, state)
    values (gen_random_uuid()::text, 'UserModified', '2090-01-01 00:${minute}Z', '{}', '${userIds}', '${state}')`);

describe('user_as_of()', () => {
  test('is the last look where no sweep has completed, whatever the pulls say', async () => {
    await look(database.mirror, { U1: {} });
    await watermark('modified', 50);
    await watermark('audit', 50);
    expect(await asOf('U1')).toBe('when it was looked at');
    expect(await asOf('U2')).toBe('never');
  });

  test('is what the older of the two pulls proves, or a later sweep', async () => {
    await look(database.mirror, { U1: {}, U2: {} });
    await look(database.mirror, { U2: null });
    await watermark('sweep', 10);
    expect(await asOf('U1')).toBe('10');
    await watermark('modified', 40);
    await watermark('audit', 30);
    // Of one that is gone, and of one that is not there, just as well.
    expect([await asOf('U1'), await asOf('U2'), await asOf('U3')]).toEqual(['30', '30', '30']);
    await execute(
      `update descope.watermarks set complete_to = '2090-01-01 00:35Z' where pull = 'sweep'`,
    );
    expect(await asOf('U1')).toBe('35');
  });

  test('is held back by what is not applied and names the user, or nobody', async () => {
    await look(database.mirror, { U1: {}, U2: {} });
    await watermark('sweep', 10);
    await watermark('modified', 40);
    await watermark('audit', 40);
    await event(5, 'applied', '{U1}');
    await event(30, 'pending', '{U1}');
    await event(20, 'parked', '{U1,U7}');
    expect([await asOf('U1'), await asOf('U2'), await asOf('U7')]).toEqual(['20', '40', '20']);
    await event(15, 'pending');
    expect([await asOf('U1'), await asOf('U2')]).toEqual(['15', '15']);
    // A sweep that was planned later has shown all of them.
    await event(2, 'pending');
    expect([await asOf('U1'), await asOf('U2')]).toEqual(['10', '10']);
  });

  test('is the last look while a deletion of the user is open', async () => {
    await look(database.mirror, { U1: {} });
    await watermark('sweep', 10);
    await execute(
      `insert into descope.deletions (user_id, state, witness) values ('U1', 'held', 'sweep')`,
    );
    expect(await asOf('U1')).toBe('when it was looked at');
    await execute(`update descope.deletions set state = 'rejected'`);
    expect(await asOf('U1')).toBe('10');
  });

  test('reads no whole table', async () => {
    await execute(`
      insert into descope.events (event_id, action, occurred_at, payload, user_ids, state)
      select 'e' || n, 'UserModified', now(), '{}', array['X' || n],
             case when n % 10 = 0 then 'pending' else 'applied' end
      from generate_series(1, 20000) as n`);
    await execute(`
      insert into descope.users (user_id, observed_at, changed_at, witness)
      select 'X' || n, now(), now(), 'sweep' from generate_series(1, 20000) as n`);
    await execute('vacuum analyze descope.events, descope.users');
    const { body } = await read<{ body: string }>(
      `select prosrc as body from pg_proc where proname = 'user_freshness'`,
    );
    const { rows } = await execute(`explain ${body.replaceAll('of_user', `'X77'`)}`);
    const plan = rows.map((line: object) => Object.values(line).join()).join('\n');
    expect(plan).toMatch(/events_user_ids/);
    expect(plan).not.toMatch(/Seq Scan on (events|users|deletions)/);
  });
});

describe('wait_for()', () => {
  const since = async () => databaseNow(database.mirror);

  test('answers once another connection has committed, within one statement', async () => {
    const at = await since();
    const waiting = read(`select * from descope.wait_for('U1', '${at}', 20000)`);
    await look(database.mirror, { U1: {} });
    expect(await waiting).toMatchObject({ seen: true, deleted: false, reason: null });
  });

  test('also within a transaction, but not in one that sees nothing new', async () => {
    const client = await database.mirror.pool.connect();
    try {
      await client.query('begin');
      const at = await since();
      const waiting = read(`select seen from descope.wait_for('U1', '${at}', 20000)`, client);
      await look(database.mirror, { U1: {} });
      expect(await waiting).toEqual({ seen: true });
      await client.query('commit; begin isolation level repeatable read');
      await expect(client.query(`select descope.wait_for('U1', now())`)).rejects.toThrow(
        'wait_for() sees nothing new in a transaction that is repeatable read',
      );
    } finally {
      await client.query('rollback');
      client.release();
    }
  });

  test('gives up in time, and says why', async () => {
    const told = await read<{ seen: boolean; reason: string }>(
      `select * from descope.wait_for('U1', '${await since()}', 50)`,
    );
    expect(told.seen).toBe(false);
    expect(told.reason).toMatch(/^the mirror knows no such user; no sweep has completed yet/);
    await expect(read(`select * from descope.wait_for(null, now())`)).rejects.toThrow(
      'wait_for() needs a user id and an instant',
    );
  });
});
