import { sql } from 'drizzle-orm';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { Stopping, UsageError } from '../../src/errors.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { rows, type Mirror } from '../../src/mirror/database.ts';
import { readPages, searchEvents, type TrailEvent } from '../../src/readers/trail.ts';
import { readCursor, type TrailFilter } from '../../src/readers/trailFilter.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { explaining } from '../support/explaining.ts';

import type { DirectoryEvent } from '../../src/inbox/event.ts';

let database: TestDatabase;
let mirror: Mirror;
beforeAll(async () => {
  database = await createTestDatabase();
  mirror = database.mirror;
});
afterAll(() => database.drop());
afterEach(() => mirror.db.execute(sql`truncate ${mirror.t.events}, ${mirror.t.users}`));

const BASE_MS = Date.UTC(2026, 10, 1);
const MINUTE = 60_000;
const atMinute = (minute: number) => new Date(BASE_MS + minute * MINUTE).toISOString();

/** Events of an hour, one a minute from the first. */
async function tell(
  records: readonly object[],
  witness: 'webhook' | 'audit' | 'archive' = 'webhook',
): Promise<void> {
  const events = records
    .map((record, minute) =>
      parseRecord({ occurred: BASE_MS + minute * MINUTE, ...record }, BASE_MS),
    )
    .filter((event): event is DirectoryEvent => event !== null);
  expect(events).toHaveLength(records.length);
  await recordEvents(mirror.db, mirror.t, events, witness, { archiveAll: true });
}

/** Minutes of the events found. */
async function minutesOf(filter: TrailFilter): Promise<number[]> {
  const { events } = await searchEvents(mirror, filter);
  return events.map(({ occurredAt }) => (Date.parse(occurredAt) - BASE_MS) / MINUTE);
}

const ada = { userId: 'U2ada', externalIds: ['ada@example.com'] };

describe('searchEvents', () => {
  test('tells of an event who did what to whom, when, what was changed, and what became of it', async () => {
    const data = { Change: { given_name: 'Ada', added_roles: ['admin'] }, correlation_id: 'x' };
    await tell(
      [{ ...ada, action: 'UserModified', actorId: 'K2', tenants: ['T2acme'], data }],
      'audit',
    );
    await tell([{ ...ada, action: 'UserModified', actorId: 'K2', tenants: ['T2acme'], data }]);
    await mirror.db.execute(sql`update ${mirror.t.events} set state = 'applied', outcome = 'done'`);
    const { events, next } = await searchEvents(mirror, {});
    expect(next).toBeNull();
    expect(events).toEqual([
      {
        eventId: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
        action: 'UserModified',
        occurredAt: '2026-11-01T00:00:00.000000Z',
        receivedAt: expect.stringMatching(/^2.*Z$/) as string,
        userIds: ['U2ada'],
        loginIds: ['ada@example.com'],
        actorId: 'K2',
        tenantIds: ['T2acme'],
        state: 'applied',
        outcome: 'done',
        changed: ['added_roles', 'given_name'],
        change: { given_name: 'Ada', added_roles: ['admin'] },
        firstWitness: 'audit',
      } satisfies TrailEvent,
    ]);
  });

  const trail = [
    { action: 'UserCreated', ...ada, actorId: 'K2' },
    { action: 'LoginSucceed', ...ada, actorId: 'U2ada', tenants: ['T2acme'] },
    {
      action: 'UserModified',
      ...ada,
      actorId: 'U2bob',
      data: { Change: { added_roles: ['admin'] } },
    },
    { action: 'UserModified', externalIds: ['ada@example.com'], actorId: 'U2bob' },
    { action: 'UsersDeleted', actorId: 'K2', data: { userIds: ['U2bob', 'U2eve'] } },
    { action: 'FlowUpdated', actorId: 'U2bob', data: { Change: { status: 'enabled' } } },
    { action: 'UserModified', userId: 'U2eve', actorId: 'K2', data: { Change: { phone: '+1' } } },
    { action: 'LoginSucceed', userId: 'U2eve', externalIds: ['eve'], tenants: ['T2x', 'T2acme'] },
  ];

  test.each<[string, TrailFilter, number[]]>([
    ['everything, newest first', {}, [7, 6, 5, 4, 3, 2, 1, 0]],
    ['an actor', { actor: 'U2bob' }, [5, 3, 2]],
    ['an action', { action: 'UserModified' }, [6, 3, 2]],
    ['an action as a person writes it', { action: 'user modified ' }, [6, 3, 2]],
    ['the beginning of actions', { action: 'User*' }, [6, 4, 3, 2, 0]],
    ['the beginning of all actions', { action: '*' }, [7, 6, 5, 4, 3, 2, 1, 0]],
    ['no action', { action: 'Users' }, []],
    ['a tenant', { tenant: 'T2acme' }, [7, 1]],
    ['from a moment on', { since: atMinute(6) }, [7, 6]],
    ['before a moment', { until: atMinute(2) }, [1, 0]],
    ['between two', { since: atMinute(3), until: atMinute(5) }, [4, 3]],
    ['a user by id', { user: 'U2ada' }, [2, 1, 0]],
    ['a user among several', { user: 'U2bob' }, [4]],
    ['a login id that no user of the mirror has', { user: 'ada@example.com' }, [3]],
    ['nobody', { user: 'U2nobody' }, []],
    ['a changed field', { changed: 'roleNames' }, [2]],
    ['a changed field with a value', { changed: 'status=enabled' }, [5]],
    ['with another value', { changed: 'status=disabled' }, []],
    ['several at once', { actor: 'U2bob', action: 'User*', user: 'U2ada' }, [2]],
    ['an actor and a field', { actor: 'K2', changed: 'phone' }, [6]],
    ['a user and a field', { user: 'U2eve', changed: 'phone' }, [6]],
    ['a user and a moment', { user: 'U2ada', since: atMinute(1), until: atMinute(2) }, [1]],
    ['text that Postgres cannot store', { user: 'a\0', actor: '\0', tenant: '\ud800' }, []],
  ])('finds %s', async (_what, filter, minutes) => {
    await tell(trail);
    expect(await minutesOf(filter)).toEqual(minutes);
  });

  test('finds all who have or had a login id, and what names them by it alone', async () => {
    await tell([...trail, { action: 'UserModified', userId: 'U2old', actorId: 'K2' }]);
    await mirror.db.execute(sql`
      insert into ${mirror.t.users} (user_id, login_ids, observed_at, changed_at, deleted_at, witness)
      values ('U2ada', '{ada@example.com}', now(), now(), null, 'sweep'),
             ('U2old', '{ada@example.com}', now(), now(), now(), 'sweep')`);
    expect(await minutesOf({ user: 'ada@example.com' })).toEqual([8, 3, 2, 1, 0]);
    expect(await minutesOf({ user: 'U2ada' })).toEqual([3, 2, 1, 0]);
  });

  test('finds a change in a record that has its data as text', async () => {
    await tell([
      { action: 'UserModified', userId: 'U1', Data: '{"Change":{"given_name":"Ada"}}' },
      { action: 'UserModified', userId: 'U1', Data: '{"Change":{"family_name":"Ada"}}' },
      { action: 'UserModified', userId: 'U1', data: 'nonsense' },
    ]);
    expect(await minutesOf({ changed: 'givenName' })).toEqual([0]);
    expect(await minutesOf({ changed: 'givenName', limit: 1 })).toEqual([0]);
  });

  test.each<TrailFilter>([
    { action: 'User*d' },
    { action: '' },
    { changed: '=admin' },
    { before: 'x' },
    { before: Buffer.from('2026-02-30T00:00:00.000000Z x').toString('base64url') },
    { before: Buffer.from('2026-02-20T00:00:00.000000Z ').toString('base64url') },
  ])('refuses %j', async (filter) => {
    await expect(searchEvents(mirror, filter)).rejects.toThrow(UsageError);
  });

  test('ends with its signal', async () => {
    const stopped = { signal: AbortSignal.abort() };
    await expect(searchEvents(mirror, {}, stopped)).rejects.toThrow(Stopping);
  });

  test('takes no more than a thousand at once, fifty where nobody says', async () => {
    await generate(1_100);
    expect((await searchEvents(mirror, {})).events).toHaveLength(50);
    expect((await searchEvents(mirror, { limit: 5_000 })).events).toHaveLength(1_000);
  });

  test('readPages reads to the end, or as many as are wanted', async () => {
    await generate(1_100);
    const search = (filter: TrailFilter) => searchEvents(mirror, filter);
    const sizes = async (filter: TrailFilter) => {
      const found: number[] = [];
      for await (const events of readPages(search, filter)) found.push(events.length);
      return found;
    };
    expect(await sizes({})).toEqual([500, 500, 100]);
    expect(await sizes({ limit: 600 })).toEqual([500, 100]);
    expect(await sizes({ limit: 500 })).toEqual([500]);
    expect(await sizes({ action: 'None' })).toEqual([0]);
  });
});

describe('pages', () => {
  interface Told {
    readonly minute: number;
    readonly action: string;
    readonly user: string;
    readonly actor: string;
  }
  const told = fc.record<Told>({
    minute: fc.integer({ min: 0, max: 12 }),
    action: fc.constantFrom('UserModified', 'LoginSucceed'),
    user: fc.constantFrom('U1', 'U2'),
    actor: fc.constantFrom('K1', 'K2'),
  });
  const filters: [TrailFilter, (one: Told) => boolean][] = [
    [{}, () => true],
    [{ action: 'User*' }, ({ action }) => action === 'UserModified'],
    [{ user: 'U1' }, ({ user }) => user === 'U1'],
    [{ actor: 'K1' }, ({ actor }) => actor === 'K1'],
    [{ actor: 'K1', changed: 'email' }, (one) => one.actor === 'K1' && one.user === 'U2'],
    [{ user: 'U1', action: 'LoginSucceed' }, (o) => o.user === 'U1' && o.action !== 'UserModified'],
    [{ since: atMinute(3), until: atMinute(9) }, ({ minute }) => minute >= 3 && minute < 9],
    [
      { since: atMinute(3), until: atMinute(9), action: 'LoginSucceed' },
      ({ minute, action }) => minute >= 3 && minute < 9 && action === 'LoginSucceed',
    ],
  ];

  /** Returns their ids; the ids' order is none. */
  async function insert(events: readonly Told[], from: number): Promise<string[]> {
    const found = await rows<{ id: string }>(
      mirror.db,
      sql`insert into ${mirror.t.events}
            (event_id, action, occurred_at, user_ids, actor_id, payload, state, webhook_at)
          select md5((${from} + nth)::text), told ->> 'action',
                 ${atMinute(0)}::timestamptz + make_interval(mins => (told ->> 'minute')::int),
                 array[told ->> 'user'], told ->> 'actor',
                 case told ->> 'user' when 'U2' then '{"data":{"Change":{"email":"x"}}}' else '{}' end::jsonb,
                 'applied', clock_timestamp()
          from jsonb_array_elements(${JSON.stringify(events)}::jsonb) with ordinality as e (told, nth)
          returning event_id as id`,
    );
    return found.map(({ id }) => id);
  }

  test('skip nothing and repeat nothing, whatever arrives between them', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(told, { maxLength: 30 }),
        fc.array(fc.array(told, { maxLength: 3 }), { minLength: 1, maxLength: 4 }),
        fc.constantFrom(...filters),
        fc.record({
          limit: fc.integer({ min: 1, max: 6 }),
          stretch: fc.integer({ min: 1, max: 9 }),
          // Without any patience each stretch is a page.
          patienceMs: fc.constantFrom(undefined, 0),
        }),
        async (initial, arrivals, [filter, matches], { limit, ...options }) => {
          await mirror.db.execute(sql`truncate ${mirror.t.events}`);
          const ids = await insert(initial, 0);
          const expected = ids.filter((_, at) => matches(initial[at] as Told));
          const seen: TrailEvent[] = [];
          let before: string | undefined;
          for (let page = 0; ; page++) {
            const found = await searchEvents(mirror, { ...filter, limit, before }, options);
            expect(found.events.length).toBeLessThanOrEqual(limit);
            seen.push(...found.events);
            if (found.next === null) break;
            if (found.lookedBackTo === null) expect(found.events).toHaveLength(limit);
            before = found.next;
            // Some newer than the page, some older, some of the very moments at its edge.
            await insert(arrivals[page] ?? [], 1_000 * (page + 1));
          }
          const places = seen.map(({ occurredAt, eventId }) => `${occurredAt} ${eventId}`);
          expect(places).toEqual([...new Set(places)].sort().reverse());
          const seenIds = new Set(seen.map(({ eventId }) => eventId));
          expect(expected.filter((id) => !seenIds.has(id))).toEqual([]);
          expect(seen.filter((event) => !matches(toTold(event)))).toEqual([]);
        },
      ),
      { numRuns: 60 },
    );
  });

  function toTold({ occurredAt, action, userIds, actorId }: TrailEvent): Told {
    const minute = (Date.parse(occurredAt) - BASE_MS) / MINUTE;
    return { minute, action, user: userIds[0] ?? '', actor: actorId ?? '' };
  }

  test('tell by a text that holds a moment and an id', async () => {
    await generate(3);
    const { events, next } = await searchEvents(mirror, { limit: 2 });
    const last = events.at(-1);
    expect(readCursor(next ?? '')).toEqual({
      occurredAt: last?.occurredAt,
      eventId: last?.eventId,
    });
  });
});

/** Events a second apart up to BASE_MS, of 5,000 users and 8 actors; one in 20,000 is of a rare kind. */
async function generate(count: number): Promise<void> {
  await mirror.db.execute(sql`
    insert into ${mirror.t.events} (event_id, action, occurred_at, received_at, user_ids, login_ids,
                                    actor_id, tenant_ids, payload, state, webhook_at, applied_at)
    select md5(n::text),
           case when n % 20000 = 19999 then 'RareAction' when n % 4 = 0 then 'LoginSucceed' else 'UserModified' end,
           at, at, case when n % 100 = 99 then '{}'::text[] else array['U' || n % 5000] end,
           array['login' || n % 5000 || '@example.com'],
           case when n % 20000 = 19999 then 'Krare' else 'K' || n % 8 end, array['T' || n % 50],
           jsonb_build_object('action', 'UserModified', 'filler', repeat(md5(n::text), 10), 'data',
             jsonb_build_object('correlation_id', n, 'Change',
               case when n % 20000 = 19999 then '{"removed_roles": ["admin"]}' else '{"given_name": "Ada"}' end::jsonb)),
           'applied', at, at
    from generate_series(0, ${count - 1}::int) as n,
         lateral (select ${atMinute(0)}::timestamptz - n * interval '1 second' as at) as moment`);
}

describe('with 200,000 events', () => {
  const EVENTS = 200_000;

  test('no search reads the whole table, and each uses its index', async () => {
    await generate(EVENTS);
    await mirror.db.execute(sql`analyze ${mirror.t.events}`);
    const middle = new Date(BASE_MS - (EVENTS / 2) * 1_000).toISOString();
    const searches: [filter: TrailFilter, index: string, found: number][] = [
      [{}, 'events_occurred', 1_000],
      [{ since: middle, until: atMinute(-1_000) }, 'events_occurred', 1_000],
      [{ user: 'U1' }, 'events_user_ids', 40],
      [{ user: 'login99@example.com' }, 'events_login_ids', 40],
      [{ user: 'U1', action: 'Login*' }, 'events_user_ids', 0],
      [{ user: 'U1', changed: 'givenName' }, 'events_user_ids', 40],
      [{ actor: 'Krare' }, 'events_actor', 10],
      [{ actor: 'Krare', tenant: 'T49', until: middle }, 'events_actor', 5],
      [{ actor: 'K1' }, 'events_', 1_000],
      [{ actor: 'K1', action: 'UserModified' }, 'events_', 1_000],
      [{ action: 'RareAction' }, 'events_occurred', 10],
      [{ action: 'Rare*', since: middle }, 'events_occurred', 5],
      [{ tenant: 'T49' }, 'events_occurred', 1_000],
      [{ tenant: 'T49', action: 'RareAction' }, 'events_occurred', 10],
      [{ changed: 'roleNames=admin' }, 'events_occurred', 10],
      [{ changed: 'givenName' }, 'events_occurred', 1_000],
    ];
    for (const [filter, index, count] of searches) {
      const asked = explaining(mirror);
      const { events } = await searchEvents(asked.mirror, { ...filter, limit: 1_000 });
      expect({ filter, found: events.length, whole: asked.readWhole() }).toEqual({
        ...{ filter, found: count },
        // Of users there are none.
        whole: filter.user === undefined ? [] : ['users'],
      });
      expect({ filter, indexes: asked.indexes() }).toEqual({
        filter,
        indexes: expect.arrayContaining([expect.stringContaining(index)]) as string[],
      });
      // In stretches that grow, two statements each.
      expect(asked.count()).toBeLessThan(40);
    }
  });
});
