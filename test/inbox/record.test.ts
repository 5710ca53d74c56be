import { sql } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { createInbox, InboxUnavailable, recordEvents } from '../../src/inbox/record.ts';
import { openMirror, rows, transaction, type Mirror } from '../../src/mirror/database.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

import type { DirectoryEvent } from '../../src/inbox/event.ts';

let database: TestDatabase;
let mirror: Mirror;

beforeAll(async () => {
  database = await createTestDatabase();
  mirror = database.mirror;
});
afterAll(() => database.drop());
afterEach(() => mirror.db.execute(sql`truncate ${mirror.t.events}`));

const usersOnly = { archiveAll: false };

function event(userId: string, overrides: Record<string, unknown> = {}): DirectoryEvent {
  const record = { action: 'UserModified', userId, occurred: 1780949905871, ...overrides };
  const parsed = parseRecord(record, 1780949999999);
  if (parsed === null) throw new Error('no event');
  return parsed;
}

const record = (
  events: readonly DirectoryEvent[],
  witness: 'webhook' | 'audit' | 'archive' = 'webhook',
  options = usersOnly,
) => recordEvents(mirror.db, mirror.t, events, witness, options);

const stored = () =>
  rows<Record<string, unknown>>(mirror.db, sql`select * from ${mirror.t.events} order by seq`);

describe('recordEvents', () => {
  test('stores an event with everything it tells', async () => {
    const given = event('U1', {
      actorId: 'K"1',
      externalIds: ['a@example.com', '{,"\\}'],
      tenants: ['T1'],
      data: { text: 'NUL \u0000 and \ud800' },
    });

    const recorded = await record([given]);

    expect(recorded).toEqual({
      accepted: [given.eventId],
      archived: 0,
      duplicates: 0,
      ignored: 0,
    });
    expect(await stored()).toMatchObject([
      {
        event_id: given.eventId,
        action: 'UserModified',
        user_ids: ['U1'],
        login_ids: ['a@example.com', '{,"\\}'],
        actor_id: 'K"1',
        tenant_ids: ['T1'],
        state: 'pending',
        audit_at: null,
        archive_at: null,
        payload: JSON.parse(given.payload) as unknown,
      },
    ]);
    const [times] = await rows(
      mirror.db,
      sql`select extract(epoch from occurred_at) * 1000 = ${given.occurredMs} as exact,
        webhook_at is not null as witnessed from ${mirror.t.events}`,
    );
    expect(times).toEqual({ exact: true, witnessed: true });
  });

  test('counts an event given twice once', async () => {
    const recorded = await record([event('U1'), event('U1'), event('U2')]);
    expect(recorded.accepted).toHaveLength(2);
    expect(recorded.duplicates).toBe(1);
    expect(await stored()).toHaveLength(2);
  });

  test('writes nothing for an event the same witness told before', async () => {
    await record([event('U1')]);
    const [before] = await rows(mirror.db, sql`select xmin::text, * from ${mirror.t.events}`);

    const recorded = await record([event('U1', { data: { late: true } })]);

    expect(recorded).toMatchObject({ accepted: [], duplicates: 1 });
    const [after] = await rows(mirror.db, sql`select xmin::text, * from ${mirror.t.events}`);
    expect(after).toEqual(before);
  });

  test('adds only the time of a second witness, and accepts the event once', async () => {
    await record([event('U1')]);
    await mirror.db.execute(sql`update ${mirror.t.events} set state = 'applied', looks = 3`);
    const [before] = await stored();

    const recorded = await record([event('U1')], 'audit');

    expect(recorded).toMatchObject({ accepted: [], duplicates: 1 });
    const [after] = await stored();
    expect(after).toEqual({ ...before, audit_at: expect.any(String) as string });
  });

  test('drops events that are not about users', async () => {
    const recorded = await record([event('U1', { action: 'LoginSucceed' })]);
    expect(recorded).toEqual({ accepted: [], archived: 0, duplicates: 0, ignored: 1 });
    expect(await stored()).toEqual([]);
  });

  test('keeps them, never to be acted on, where everything is archived', async () => {
    const given = [event('U1', { action: 'LoginSucceed' }), event('U2')];

    const recorded = await record(given, 'archive', { archiveAll: true });

    expect(recorded).toMatchObject({ archived: 1, duplicates: 0, ignored: 0 });
    expect(recorded.accepted).toEqual([given[1]?.eventId]);
    const states = (await stored()).map((row) => [row['action'], row['state']]);
    expect(Object.fromEntries(states)).toEqual({
      LoginSucceed: 'archived',
      UserModified: 'pending',
    });
  });

  test.each([1e300, -1e300, Number.NaN, Infinity])(
    'stores an event of the absurd moment %d',
    async (occurredMs) => {
      const recorded = await record([{ ...event('U1'), occurredMs }, event('U2')]);
      expect(recorded.accepted).toHaveLength(2);
    },
  );

  test('stores as many user ids as an event names', async () => {
    const userIds = Array.from({ length: 5000 }, (_, index) => `U${index}`);
    await record([event('', { userIds })]);
    expect(await stored()).toMatchObject([{ user_ids: [...userIds].sort() }]);
  });

  test('is part of the transaction it is given', async () => {
    const broken = transaction(mirror, async (tx) => {
      await recordEvents(tx, mirror.t, [event('U1')], 'audit', usersOnly);
      throw new Error('undo');
    });
    await expect(broken).rejects.toThrow('undo');
    expect(await stored()).toEqual([]);
  });

  test('lets only one of many writers accept an event', async () => {
    const events = Array.from({ length: 50 }, (_, index) => event(`U${index}`));
    const writers = Array.from({ length: 8 }, (_, index) =>
      record(index % 2 ? [...events].reverse() : events),
    );

    const recorded = await Promise.all(writers);

    const accepted = recorded.flatMap((each) => each.accepted);
    expect(accepted).toHaveLength(50);
    expect(new Set(accepted).size).toBe(50);
  });
});

/** How many events each transaction wrote, in their order. */
async function commitSizes(): Promise<number[]> {
  const found = await rows<{ events: number }>(
    mirror.db,
    sql`select count(*)::int as events from ${mirror.t.events} group by xmin order by min(seq)`,
  );
  return found.map(({ events }) => events);
}

describe('the inbox', () => {
  test('writes deliveries that arrive together in few commits, each with its own counts', async () => {
    const inbox = createInbox({ mirror, archiveAll: false });
    const deliveries = Array.from({ length: 100 }, (_, index) => [
      event(`U${index}`),
      event(`U${index}`, { action: 'LoginSucceed' }),
    ]);

    const recorded = await Promise.all(deliveries.map((events) => inbox.record(events)));

    expect(recorded.map((each) => each.accepted.length)).toEqual(deliveries.map(() => 1));
    expect(recorded.map((each) => each.ignored)).toEqual(deliveries.map(() => 1));
    expect(await commitSizes()).toEqual([1, 99]);
    expect(await stored()).toHaveLength(100);
  });

  test('accepts an event in one delivery only, also within one commit', async () => {
    const inbox = createInbox({ mirror, archiveAll: false });
    const [, second, third] = await Promise.all([
      inbox.record([event('U1')]),
      inbox.record([event('U2')]),
      inbox.record([event('U2'), event('U3'), event('U1')]),
    ]);
    expect(second).toMatchObject({ accepted: [event('U2').eventId], duplicates: 0 });
    expect(third).toMatchObject({ accepted: [event('U3').eventId], duplicates: 2 });
  });

  test('bounds a statement, and takes a large delivery alone', async () => {
    const inbox = createInbox({ mirror, archiveAll: false });
    const many = (prefix: string, length: number) =>
      Array.from({ length }, (_, index) => event(`${prefix}${index}`));

    await Promise.all(
      [many('A', 1), many('B', 300), many('C', 300), many('D', 900), many('E', 2)].map((events) =>
        inbox.record(events),
      ),
    );

    expect(await commitSizes()).toEqual([1, 300, 300, 900, 2]);
  });

  test('needs no database for a delivery without users', async () => {
    const unreachable = openUnreachable();
    const inbox = createInbox({ mirror: unreachable, archiveAll: false });
    const recorded = await inbox.record([event('U1', { action: 'LoginSucceed' })]);
    expect(recorded).toEqual({ accepted: [], archived: 0, duplicates: 0, ignored: 1 });
    await unreachable.pool.end();
  });

  test('tells every waiting delivery that Postgres is away, without quoting it, and works again after', async () => {
    const unreachable = openUnreachable();
    const inbox = createInbox({ mirror: unreachable, archiveAll: false });

    const outcomes = await Promise.allSettled([
      inbox.record([event('U1', { externalIds: ['ada@example.com'] })]),
      inbox.record([event('U2')]),
    ]);

    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ECONNREFUSED' } });
      expect(JSON.stringify(outcome) + String(Object.values(outcome)[1])).not.toContain('ada@');
    }
    await expect(inbox.record([event('U3')])).rejects.toBeInstanceOf(InboxUnavailable);
    await unreachable.pool.end();
  });

  test('gives up a delivery that Postgres does not commit in time, and takes later ones', async () => {
    const inbox = createInbox({ mirror, archiveAll: false, deadlineMs: 100 });
    const locker = await mirror.pool.connect();
    await locker.query('begin');
    await locker.query('lock table descope.events in exclusive mode');

    const stuck = await Promise.allSettled([
      inbox.record([event('U1')]),
      inbox.record([event('U2')]),
    ]);
    await locker.query('rollback');
    locker.release();

    expect(stuck.map((outcome) => outcome.status)).toEqual(['rejected', 'rejected']);
    expect((await inbox.record([event('U3')])).accepted).toHaveLength(1);
  });
});

function openUnreachable(): Mirror {
  return openMirror({
    // Port 1 is nobody's.
    databaseUrl: 'postgres://nobody@127.0.0.1:1/none',
    schema: 'descope',
    maxConnections: 1,
    onError: () => undefined,
  });
}
