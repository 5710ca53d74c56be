import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';

import { startAdminServer } from '../../src/http/admin.ts';
import { databaseNow } from '../../src/mirror/database.ts';
import { createWaitForUser, lookNow } from '../../src/readers/wait.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { look } from '../support/look.ts';

let database: TestDatabase;
let stop: AbortController;
beforeEach(async () => {
  database = await createTestDatabase();
  stop = new AbortController();
});
afterEach(async () => {
  stop.abort();
  await database.drop();
});

const execute = (statement: string) => database.mirror.pool.query(statement);
const now = () => databaseNow(database.mirror);
const patient = () => AbortSignal.timeout(20_000);

/** Both pulls and the sweep have proven everything up to `ago` before now. */
const prove = (ago: string) =>
  execute(`
    insert into descope.watermarks (pull, complete_to)
    select pull, clock_timestamp() - interval '${ago}'
    from unnest(array['sweep', 'modified', 'audit']) as pulls(pull)
    on conflict (pull) do update set complete_to = excluded.complete_to`);

/** The real routes over the real database. */
async function serve(mostWaiting?: number, onAsked?: () => void): Promise<string> {
  const { mirror } = database;
  const waitForUser = createWaitForUser(mirror, stop.signal, mostWaiting);
  const never = () => Promise.reject(new Error('not asked for'));
  const server = await startAdminServer({
    ...{ host: '127.0.0.1', port: 0, token: undefined },
    ...{ readStatus: never, readRecentChanges: never, metrics: never },
    waiting: {
      waitFor: (...asked) => {
        onAsked?.();
        return waitForUser(...asked);
      },
      lookNow: (userId, since) => lookNow(mirror, userId, since),
      now,
    },
  });
  onTestFinished(() => server.stop());
  return `http://127.0.0.1:${server.port}/api/wait`;
}

describe('waiting for a user', () => {
  test('400 at once are answered soon after the commit, by one query for all', async () => {
    let asked = 0;
    const url = await serve(undefined, () => (asked += 1));
    const { mirror } = database;
    const since = await now();
    const ids = Array.from({ length: 400 }, (_, n) => `U${n}`);
    const waiting = ids.map(async (id) => {
      const response = await fetch(`${url}?userId=${id}&since=${since}`);
      const { userId } = (await response.json()) as { userId: string };
      return { answer: `${response.status} ${userId}`, atMs: Date.now() };
    });
    await eventually(() => {
      expect(asked).toBe(ids.length);
    });
    const beganMs = Date.now();
    let statements = 0;
    mirror.pool.on('acquire', () => (statements += 1));
    await look(mirror, Object.fromEntries(ids.map((id) => [id, {}])));
    const committedMs = Date.now();
    const answers = await Promise.all(waiting);

    expect(answers.map(({ answer }) => answer)).toEqual(ids.map((id) => `200 ${id}`));
    // Some 25 ms as a rule (npm run bench -- wait), more where the machine is busy with 400 answers at once.
    expect(Math.max(...answers.map(({ atMs }) => atMs)) - committedMs).toBeLessThan(3_000);
    // A poll each would be 400 every 25 ms.
    expect(statements).toBeLessThan(10 + (Date.now() - beganMs) / 20);
  });

  test('sees a row that is touched, not only one that changed, and one that is gone', async () => {
    const wait = createWaitForUser(database.mirror, stop.signal);
    await look(database.mirror, { U1: {}, U2: {} });
    const since = await now();
    const waiting = [wait('U1', since, patient()), wait('U2', since, patient())];
    await look(database.mirror, { U1: {}, U2: null });

    expect(await Promise.all(waiting)).toMatchObject([
      { userId: 'U1', deleted: false },
      { userId: 'U2', deleted: true },
    ]);
  });

  test('is answered by watermarks where nobody looked again', async () => {
    const wait = createWaitForUser(database.mirror, stop.signal);
    await prove('1 hour');
    await look(database.mirror, { U1: {} });
    const since = await now();
    const waiting = wait('U1', since, patient());
    await prove('0 seconds');

    const seen = await waiting;
    if (seen === null || seen === 'full') throw new Error('not seen');
    expect(seen.observedAt < since).toBe(true);
    expect(seen.asOf >= since).toBe(true);
  });

  test('asks nothing more once everybody has left', async () => {
    const wait = createWaitForUser(database.mirror, stop.signal);
    const leave = new AbortController();
    const waiting = wait('U1', await now(), leave.signal);
    leave.abort();
    expect(await waiting).toBeNull();
    // The round under way still ends; a pool that is idle then has no loop asking it.
    let statements = 0;
    database.mirror.pool.on('acquire', () => (statements += 1));
    await execute('select pg_sleep(0.3)');
    expect(statements).toBeLessThan(4);
  });

  test('tells those who will not wait at all what is seen by now', async () => {
    const url = await serve();
    const ask = async (userId: string, since: string) => {
      const query = `userId=${userId}&since=${since}&timeoutMs=0`;
      return (await fetch(`${url}?${query}`)).status;
    };
    const before = await now();
    await look(database.mirror, { U1: {} });
    expect(await ask('U1', before)).toBe(200);
    expect(await ask('U1', await now())).toBe(504);
    expect(await ask('U2', before)).toBe(504);
  });

  test('above the cap is refused at once, and the others go on waiting', async () => {
    const url = await serve(2);
    const since = await now();
    const waiting = ['U1', 'U2'].map((id) => fetch(`${url}?userId=${id}&since=${since}`));
    let refused: Response;
    do {
      refused = await fetch(`${url}?userId=U3&since=${since}&timeoutMs=0`);
    } while (refused.status === 504);
    expect(refused.status).toBe(503);
    await look(database.mirror, { U1: {}, U2: {} });
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual([200, 200]);
  });

  test('ends when the process stops', async () => {
    const wait = createWaitForUser(database.mirror, stop.signal);
    const waiting = wait('U1', await now(), patient());
    stop.abort();
    expect(await waiting).toBeNull();
    expect(await wait('U1', await now(), patient())).toBeNull();
  });

  test('fails for all when the mirror cannot be read, and works again afterwards', async () => {
    const wait = createWaitForUser(database.mirror, stop.signal);
    const since = await now();
    await execute('alter table descope.users rename to elsewhere');
    const waiting = await Promise.allSettled(['U1', 'U2'].map((id) => wait(id, since, patient())));
    expect(waiting.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    await execute('alter table descope.elsewhere rename to users');
    await look(database.mirror, { U1: {} });
    expect(await wait('U1', since, patient())).toMatchObject({ userId: 'U1' });
  });
});

describe('why a user was not seen', () => {
  const why = async (userId: string) => lookNow(database.mirror, userId, await now());

  test('is nothing where it just was', async () => {
    const since = await now();
    await look(database.mirror, { U1: {} });
    expect(await lookNow(database.mirror, 'U1', since)).toMatchObject({
      userId: 'U1',
      deleted: false,
    });
  });

  test('names what is open about the user, and how far the pulls are', async () => {
    await look(database.mirror, { U1: {}, U2: {} });
    expect(await why('U9')).toMatchObject({
      ...{ observedAt: null, asOf: null },
      reason:
        'the mirror knows no such user; no sweep has completed yet, so nothing is proven of anyone',
    });
    await prove('40 seconds');
    await execute(`
      insert into descope.events (event_id, action, occurred_at, payload, user_ids, state)
      values ('e1', 'UserModified', clock_timestamp(), '{}', '{U1}', 'pending'),
             ('e2', 'UserModified', clock_timestamp(), '{}', '{U1}', 'parked'),
             ('e3', 'UserModified', clock_timestamp(), '{}', '{U1}', 'applied'),
             ('e4', 'UsersDeleted', clock_timestamp(), '{}', '{}', 'pending')`);
    await execute(`
      insert into descope.deletions (user_id, state, witness)
      values ('U1', 'rejected', 'sweep'), ('U1', 'held', 'sweep')`);
    await execute(`
      insert into descope.sync_windows (run_id, pull, from_time, state)
      values (1, 'audit', clock_timestamp(), 'gap')`);
    const told = await why('U1');
    expect(told).toMatchObject({ pendingEvents: 1, parkedEvents: 1, openDeletion: 'held' });
    expect('reason' in told && told.reason).toMatch(
      new RegExp(
        [
          'events of this user that are not applied yet: 1',
          'events of this user that were given up: 1 \\(.*\\)',
          'events not applied yet that name nobody, and may be about anybody: 1',
          'the deletion of this user is held for a person to decide \\(rollcall deletions list\\)',
          'the pulls prove the mirror up to 20\\S+Z, 4\\d s ago',
          'ranges of time that they could not prove: 1',
        ].join('; '),
      ),
    );
    expect(await why('U2')).toMatchObject({
      reason: expect.not.stringMatching(/of this user/) as string,
    });
  });

  test('tells a clock that is ahead', async () => {
    const told = await lookNow(database.mirror, 'U1', '2090-01-01T00:00:00Z');
    expect('reason' in told && told.reason).toMatch(
      /^that instant is \d+\.\d s ahead of the clock of Postgres/,
    );
  });
});
