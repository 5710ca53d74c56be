import { createServer } from 'node:http';

import { sql } from 'drizzle-orm';
import express from 'express';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import { startAdminServer } from '../../src/http/admin.ts';
import { createEventRouter } from '../../src/http/eventRoutes.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { searchEvents, type TrailEvent, type TrailPage } from '../../src/readers/trail.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { listenLocally } from '../support/listenLocally.ts';
import { createWorld } from '../support/world.ts';

import type { EventRouterDeps } from '../../src/http/eventRoutes.ts';
import type { DirectoryEvent } from '../../src/inbox/event.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
afterEach(() => database.mirror.db.execute(sql`truncate ${database.mirror.t.events}`));

const BASE_MS = Date.UTC(2026, 10, 21, 8);

async function tell(count: number): Promise<void> {
  const { db, t } = database.mirror;
  const events = Array.from({ length: count }, (_, nth) =>
    parseRecord(
      {
        ...{
          action: 'UserModified',
          userId: `U${nth % 2}`,
          actorId: 'K2',
          occurred: BASE_MS + nth,
        },
        ...{ externalIds: ['ada@example.com'], data: { Change: { name: 'Ada' } } },
      },
      BASE_MS,
    ),
  ).filter((event): event is DirectoryEvent => event !== null);
  await recordEvents(db, t, events, 'webhook', { archiveAll: false });
}

/** The router alone, over the test's database unless told otherwise. */
async function start(deps: Partial<EventRouterDeps> = {}): Promise<string> {
  const app = express();
  app.use(
    createEventRouter({
      searchEvents: (filter, signal) => searchEvents(database.mirror, filter, { signal }),
      ...deps,
    }),
  );
  const server = await listenLocally(createServer(app));
  onTestFinished(() => server.stop());
  return server.url;
}

function post(url: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-rollcall': '1' },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
}

describe('POST /api/events/search', () => {
  it('answers a page, and goes on from there', async () => {
    await tell(7);
    const url = `${await start()}/api/events/search`;
    const first = (await (await post(url, { limit: 4 })).json()) as TrailPage;
    expect(first.events[0]).toMatchObject({
      ...{ action: 'UserModified', userIds: ['U0'], loginIds: ['ada@example.com'], actorId: 'K2' },
      ...{ occurredAt: '2026-11-21T08:00:00.006000Z', changed: ['name'], state: 'pending' },
    });
    const second = (await (await post(url, { before: first.next })).json()) as TrailPage;
    expect(second.next).toBeNull();
    const ids = [...first.events, ...second.events].map(({ eventId }) => eventId);
    expect(new Set(ids).size).toBe(7);
  });

  it('takes every filter, and an empty field of a form for none', async () => {
    await tell(7);
    const url = `${await start()}/api/events/search`;
    const found = async (body: object) =>
      ((await (await post(url, body)).json()) as TrailPage).events.length;
    expect(await found({})).toBe(7);
    expect(await found({ user: '', action: ' ', tenant: '', since: '', before: '' })).toBe(7);
    expect(await found({ user: 'U1' })).toBe(3);
    expect(await found({ actor: 'K3' })).toBe(0);
    expect(await found({ action: 'User*', changed: 'name=Ada' })).toBe(7);
    expect(await found({ since: '2026-11-21T08:00:00.005', until: '2026-11-22' })).toBe(2);
  });

  it.each<[unknown, string]>([
    [{ limit: 0 }, 'limit: '],
    [{ limit: 1_001 }, 'limit: '],
    [{ limit: '5' }, 'limit: '],
    [{ since: 'yesterday' }, 'since: must be an instant such as'],
    [{ action: 'a*b' }, 'action: must be a name'],
    [{ changed: '=x' }, 'changed: must be a field'],
    [{ before: 'x' }, 'before: must be what a page had as next'],
    [{ user: 'x'.repeat(513) }, 'user: '],
    [{ login: 'x' }, 'Unrecognized key'],
    [{ format: 'csv' }, 'Unrecognized key'],
    [[], 'Invalid input'],
  ])('refuses %j in one line', async (body, message) => {
    const response = await post(`${await start()}/api/events/search`, body);
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: string };
    expect(error).toContain(message);
    expect(error).not.toContain('\n');
  });

  it('refuses a body that is not JSON, or not said to be', async () => {
    const url = `${await start()}/api/events/search`;
    const send = async (type: string, body: string) =>
      (await fetch(url, { method: 'POST', headers: { 'content-type': type }, body })).status;
    expect(await send('application/json', '{')).toBe(400);
    // What another web site could send without being asked.
    expect(await send('text/plain', '{}')).toBe(400);
  });

  it('ends the search of a client that has gone', async () => {
    const leave = new AbortController();
    const ended = new Promise<void>((resolve) => {
      void start({
        searchEvents: (_filter, signal) =>
          new Promise((_found, reject) => {
            signal.addEventListener('abort', () => {
              reject(new Error('stopped'));
              resolve();
            });
            leave.abort();
          }),
      }).then((url) => post(`${url}/api/events/search`, {}, leave.signal).catch(() => null));
    });
    await ended;
  });
});

describe('POST /api/events/export', () => {
  it('streams all of it as JSON lines', async () => {
    await tell(1_203);
    const response = await post(`${await start()}/api/events/export`, { format: 'jsonl' });
    expect(response.headers.get('content-type')).toContain('application/x-ndjson');
    expect(response.headers.get('content-disposition')).toContain('rollcall-events.jsonl');
    const lines = (await response.text()).trimEnd().split('\n');
    const ids = lines.map((line) => (JSON.parse(line) as TrailEvent).eventId);
    expect([lines.length, new Set(ids).size]).toEqual([1_203, 1_203]);
  });

  it('streams what is asked for as CSV, with one heading', async () => {
    await tell(1_203);
    const response = await post(`${await start()}/api/events/export`, {
      format: 'csv',
      user: 'U1',
    });
    expect(response.headers.get('content-type')).toContain('text/csv');
    const lines = (await response.text()).trimEnd().split('\n');
    expect(lines).toHaveLength(1 + 601);
    expect(lines.filter((line) => line.startsWith('occurredAt,action,actorId,'))).toHaveLength(1);
  });

  it('keeps to a limit', async () => {
    await tell(20);
    const url = `${await start()}/api/events/export`;
    const response = await post(url, { format: 'jsonl', limit: 3 });
    expect((await response.text()).trimEnd().split('\n')).toHaveLength(3);
  });

  it.each([{}, { format: 'xml' }, { format: 'csv', limit: -1 }])('refuses %j', async (body) => {
    expect((await post(`${await start()}/api/events/export`, body)).status).toBe(400);
  });

  it('reads on only as far as the client does, and stops when it goes away (G8)', async () => {
    const event = { eventId: 'x', changed: [], userIds: [], loginIds: [], tenantIds: [] };
    const outcome = 'x'.repeat(8_000);
    const page = {
      events: Array.from({ length: 100 }, () => ({ ...event, outcome })),
      next: 'more',
    };
    let pages = 0;
    let ended = false;
    const server = await start({
      searchEvents: (_filter, signal) => {
        pages++;
        signal.addEventListener('abort', () => {
          ended = true;
        });
        return Promise.resolve(page as unknown as TrailPage);
      },
    });
    const leave = new AbortController();
    const response = await post(`${server}/api/events/export`, { format: 'jsonl' }, leave.signal);
    await response.body?.getReader().read();
    // Answered by the same loop of events, after whatever the export could do. A page is 800 kB.
    await (await post(`${server}/api/events/search`, {})).text();
    expect(pages).toBeLessThan(60);
    ended = false;
    leave.abort();
    await eventually(() => {
      expect(ended).toBe(true);
    });
    const before = pages;
    await (await post(`${server}/api/events/search`, {})).text();
    expect(pages).toBe(before + 1);
  });

  it('answers with an error what fails at once, and breaks off what fails later', async () => {
    const errors: unknown[] = [];
    const failing = (after: number) => {
      let pages = 0;
      return createEventRouter({
        searchEvents: () =>
          pages++ < after
            ? Promise.resolve({ events: [], next: 'more', lookedBackTo: null })
            : Promise.reject(new Error('Postgres is away')),
      });
    };
    const ask = async (after: number) => {
      const server = await startAdminServer({
        host: '127.0.0.1',
        port: 0,
        token: undefined,
        readStatus: () => Promise.reject(new Error('unused')),
        readRecentChanges: () => Promise.resolve([]),
        metrics: () => Promise.resolve(''),
        eventRouter: failing(after),
        onError: (error) => errors.push(error),
      });
      onTestFinished(() => server.stop());
      return post(`http://127.0.0.1:${server.port}/api/events/export`, { format: 'csv' });
    };
    const atOnce = await ask(0);
    expect([atOnce.status, await atOnce.json()]).toEqual([500, { error: 'internal error' }]);
    const later = await ask(2);
    await expect(later.text()).rejects.toThrow();
    expect(errors).toEqual([new Error('Postgres is away'), new Error('Postgres is away')]);
  });
});

describe('the admin port', () => {
  it('has the audit trail behind its token, and nothing personal of it in the log (G9, G10)', async () => {
    const world = await createWorld({
      simulator: { users: 5 },
      env: { ADMIN_TOKEN: 'a long token' },
    });
    onTestFinished(() => world.stop());
    await world.untilFilled();
    world.deliver();
    const [user] = [...world.simulator.directory.users()].filter(({ test }) => !test);
    world.simulator.directory.modifyUser(user?.userId ?? '', { givenName: 'Augusta Ada' });
    await world.simulator.delivery.idle();
    const url = `http://127.0.0.1:${world.service.adminPort}/api/events`;
    const body = { user: user?.loginIds[0], changed: 'givenName=Augusta Ada' };
    const ask = (path: string, asked: object, headers: Record<string, string>) =>
      fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-rollcall': '1', ...headers },
        body: JSON.stringify(asked),
      });
    for (const path of ['/search', '/export']) {
      expect((await ask(path, { ...body, format: 'csv' }, {})).status).toBe(401);
    }
    const token = { authorization: 'Bearer a long token' };
    const page = (await (await ask('/search', body, token)).json()) as TrailPage;
    expect(page.events).toMatchObject([{ action: 'UserModified', userIds: [user?.userId] }]);
    const text = await (await ask('/export', { ...body, format: 'csv' }, token)).text();
    expect(text).toContain(user?.userId);
    await world.assertPrivate();
  });
});
