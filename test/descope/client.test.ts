import { sql } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

import { createDescopeClient, type DescopeClientDeps } from '../../src/descope/client.ts';
import {
  DescopeRejected,
  DescopeThrottled,
  DescopeUnauthorised,
  DescopeUnavailable,
  Stopping,
} from '../../src/errors.ts';
import { databaseNow } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startScriptedServer, type Scripted, type ScriptedServer } from './server.ts';

import type { ServerResponse } from 'node:http';
import type { Budget } from '../../src/descope/budget.ts';
import type { RequestReport } from '../../src/descope/fetch.ts';
import type { Call } from '../../src/descope/types.ts';

let database: TestDatabase;
let server: ScriptedServer;
/** Everything the budgets were asked, in order. */
let asked: string[];
let reports: RequestReport[];

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

beforeEach(async () => {
  server = await startScriptedServer();
  asked = [];
  reports = [];
  await database.mirror.db.execute(sql`delete from descope.learnt`);
});
afterEach(() => server.stop());

const call: Call = { priority: 'pull', signal: new AbortController().signal };

function recorder(name: string): Budget {
  return {
    take(priority, signal) {
      asked.push(`${name} ${priority}`);
      return signal.aborted ? Promise.reject(new Stopping()) : databaseNow(database.mirror);
    },
    silence(ms) {
      asked.push(`${name} silent ${ms}`);
      return Promise.resolve();
    },
  };
}

function clientOf(more: Partial<DescopeClientDeps> = {}) {
  return createDescopeClient({
    projectId: 'P2test',
    managementKey: 'K2secret',
    baseUrl: server.url,
    mirror: database.mirror,
    budget: recorder('users'),
    auditBudget: recorder('audit'),
    timeUnit: 'ms',
    includeTestUsers: false,
    onRequest: (report) => reports.push(report),
    ...more,
  });
}

const users = (...ids: string[]) => ids.map((userId) => ({ userId }));
const page = (total: number, ...ids: string[]) => ({ body: { users: users(...ids), total } });
const many = (count: number) => Array.from({ length: count }, (_, index) => `U${index}`);
const NOT_FOUND = { errorCode: 'E112102', errorDescription: 'User not found' };
const search = (client = clientOf()) =>
  client.searchUsers({ field: 'createdTime', limit: 100 }, call);

describe('a user search', () => {
  it('asks for everybody, sorted by the field, and answers rows stamped before it was sent', async () => {
    const before = await databaseNow(database.mirror);
    server.answer(() => page(7, 'U1', 'U2'));
    const answer = await search();
    expect(server.seen[0]?.path).toBe('/v2/mgmt/user/search');
    expect(server.seen[0]?.body).toEqual({
      sort: [{ field: 'createdTime', desc: false }],
      page: 0,
      limit: 100,
      withTestUser: false,
    });
    expect(answer.users.map((user) => user.userId)).toEqual(['U1', 'U2']);
    expect(answer).toMatchObject({ total: 7, pageSize: 100 });
    expect(answer.observedAt >= before).toBe(true);
    expect(answer.observedAt <= (await databaseNow(database.mirror))).toBe(true);
  });

  it('sorts by id among users of one instant, and includes test users where told', async () => {
    server.answer(() => page(0));
    const query = { field: 'modifiedTime', limit: 50, page: 3, sortById: true } as const;
    await clientOf({ includeTestUsers: true }).searchUsers(query, call);
    expect(server.seen[0]?.body).toEqual({
      sort: [{ field: 'id', desc: false }],
      page: 3,
      limit: 50,
      withTestUser: true,
    });
  });

  it.each([
    ['ms', { fromModifiedTime: 1_700_000_000_499, toModifiedTime: 1_700_000_001_501 }],
    ['s', { fromModifiedTime: 1_699_999_999, toModifiedTime: 1_700_000_003 }],
  ] as const)('asks one unit beyond both bounds, in %s', async (timeUnit, bounds) => {
    server.answer(() => page(0));
    const query = { fromMs: 1_700_000_000_500, toMs: 1_700_000_001_500, limit: 100 };
    await clientOf({ timeUnit }).searchUsers({ field: 'modifiedTime', ...query }, call);
    expect(server.seen[0]?.body).toMatchObject(bounds);
  });

  it('leaves out a lower bound of 1970, which would mean "not set"', async () => {
    server.answer(() => page(0));
    const query = { field: 'createdTime', fromMs: 0, toMs: 5_000, limit: 100 } as const;
    await clientOf().searchUsers(query, call);
    expect(server.seen[0]?.body).not.toHaveProperty('fromCreatedTime');
    expect(server.seen[0]?.body).toHaveProperty('toCreatedTime', 5_001);
  });

  it('passes a total without rows on, for the reader of the window to judge', async () => {
    server.answer(() => page(5));
    expect(await search()).toMatchObject({ users: [], total: 5 });
  });

  it('keeps numbers past 2^53', async () => {
    const body =
      '{"users":[{"userId":"U1","customAttributes":{"n":12345678901234567890}}],"total":1}';
    server.answer(() => ({ body }));
    const { users: rows } = await search();
    expect(rows[0]?.customAttributes).toBe('{"n":12345678901234567890}');
  });

  it('learns a smaller page size once two answers agree, and tells every process', async () => {
    const client = clientOf();
    server.answer(() => page(80, ...many(40)));
    expect((await search(client)).pageSize).toBe(100);
    server.answer(() => page(80, ...many(30)));
    expect((await search(client)).pageSize).toBe(100);
    server.answer(() => page(80, ...many(50)));
    expect((await search(client)).pageSize).toBe(100);
    expect((await search(client)).pageSize).toBe(50);
    expect((await search()).pageSize).toBe(50);
    await client.searchUsers({ field: 'createdTime', limit: 100, page: 1 }, call);
    expect(server.seen.at(-1)?.body).toMatchObject({ limit: 50, page: 1 });
    server.answer(() => page(80, ...many(60)));
    expect((await search(client)).pageSize).toBe(100);
  });
});

const HTML = '<html>Bad gateway</html>';
const unavailable: Record<string, Scripted> = {
  'an empty object': { body: {} },
  'an empty body': { body: '' },
  'HTML with 200': { body: HTML },
  'HTML with 502': { status: 502, body: HTML },
  'HTML with 404': { status: 404, body: HTML },
  'an error 500': { status: 500, body: { errorCode: 'E1' } },
  'truncated JSON': { body: '{"users":[{"userId":"U1"}],"tot' },
  null: { body: 'null' },
  'a list': { body: '[]' },
  'users that are no list': { body: { users: {}, total: 1 } },
  'users null': { body: { users: null, total: 1 } },
  'no users': { body: { total: 3 } },
  'a user without an id': { body: { users: [{ name: 'A' }], total: 1 } },
  'a user null': { body: { users: [null], total: 1 } },
  'no total': { body: { users: users('U1') } },
  'a total that is no count': { body: { users: users('U1'), total: 'many' } },
  'a negative total': { body: { users: [], total: -1 } },
  'a redirect': { status: 302, headers: { location: '/elsewhere' }, body: '' },
  'no content': { raw: (response) => response.writeHead(204).end() },
  'a connection closed at once': { raw: (response) => response.destroy() },
  'a connection closed half-way': {
    raw(response) {
      response.writeHead(200, { 'content-length': '1000' });
      response.write('{"users":[', () => response.destroy());
    },
  },
};

describe('what is no answer', () => {
  it.each(Object.entries(unavailable))(
    'G4: %s is unavailable, never nobody',
    async (_, scripted) => {
      server.answer(() => scripted);
      await expect(search()).rejects.toThrow(DescopeUnavailable);
      expect(server.seen).toHaveLength(1);
    },
  );

  it('nor is a server that is not there', async () => {
    await expect(search(clientOf({ baseUrl: 'http://127.0.0.1:9' }))).rejects.toThrow(
      DescopeUnavailable,
    );
    expect(reports.filter((report) => report.resource === 'user search')).toMatchObject([
      { status: 'error' },
    ]);
  });

  it.each([
    ['headers', () => undefined],
    [
      'the rest of a body',
      (response: { write(text: string): void }) => {
        response.write('{"users":[],');
      },
    ],
  ])('nor is waiting for %s beyond the deadline', async (_, begin) => {
    server.answer(() => ({ raw: begin }));
    await expect(search(clientOf({ requestTimeoutMs: 100 }))).rejects.toThrow(/within 0.1 s/);
  });

  it('nor does any of it, or a key that no header can hold, end up in an error', async () => {
    server.answer(() => ({ body: '{"users":[{"email":"ada@example.com"' }));
    for (const managementKey of ['K2secret', 'K2sec\nret']) {
      const error: unknown = await clientOf({ managementKey })
        .loadUserByLoginId('ada@example.com', call)
        .catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(DescopeUnavailable);
      const { message, stack, cause } = error as Error;
      expect(`${message} ${stack ?? ''} ${String(cause)}`).not.toMatch(/ada|K2sec/);
    }
  });
});

describe('a refusal', () => {
  it("of the request is rejected, with Descope's code", async () => {
    server.answer(() => ({ status: 400, body: { errorCode: 'E011003' } }));
    const error: unknown = await search().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(DescopeRejected);
    expect(error).toMatchObject({ status: 400, errorCode: 'E011003' });
  });

  it.each([401, 403])('of the key (%i) is unauthorised', async (status) => {
    server.answer(() => ({ status, body: HTML }));
    await expect(search()).rejects.toThrow(DescopeUnauthorised);
  });

  it.each([
    ['7', 7_000],
    ['0', 1_000],
    [undefined, 60_000],
    ['soon', 60_000],
    ['-5', 60_000],
    ['999999', 900_000],
    ['Sun, 01 Mar 2026 00:00:30 GMT', 30_000],
    ['Sat, 28 Feb 2026 00:00:00 GMT', 1_000],
  ])('to go on now (429, Retry-After %s) silences everybody for %i ms', async (after, ms) => {
    const headers: Record<string, string> = { date: 'Sun, 01 Mar 2026 00:00:00 GMT' };
    if (after !== undefined) headers['retry-after'] = after;
    server.answer(() => ({ status: 429, headers, body: HTML }));
    const error: unknown = await search().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(DescopeThrottled);
    expect(error).toMatchObject({ retryAfterMs: ms });
    expect(asked).toContain(`users silent ${ms}`);
    expect(server.seen).toHaveLength(1);
  });
});

it('a throttle is heard although its body never comes', async () => {
  const raw = (response: ServerResponse) => {
    response.writeHead(429, { 'content-length': '9', 'retry-after': '7' });
    response.write('{', () => response.destroy());
  };
  server.answer(() => ({ raw }));
  await expect(search()).rejects.toThrow(DescopeThrottled);
  expect(asked).toContain('users silent 7000');
});

describe('on the wire', () => {
  it("every attempt takes the budget and is counted, the SDK's own retries too", async () => {
    let failures = 1;
    server.answer(() => (failures-- > 0 ? { status: 503, body: HTML } : page(1, 'U1')));
    expect((await search()).total).toBe(1);
    expect(asked.filter((line) => line === 'users pull')).toHaveLength(2);
    const statuses = reports.filter((report) => report.resource === 'user search');
    expect(statuses.map((report) => report.status)).toEqual([503, 200]);
  });

  it('an aborted call does not wait for those retries', async () => {
    const stop = new AbortController();
    server.answer(() => {
      // The second 503 has the SDK sleep for five seconds.
      if (server.seen.length === 2)
        setImmediate(() => {
          stop.abort();
        });
      return { status: 503, body: '' };
    });
    const startMs = performance.now();
    const searching = clientOf().searchUsers(
      { field: 'createdTime', limit: 100 },
      { priority: 'event', signal: stop.signal },
    );
    await expect(searching).rejects.toThrow(Stopping);
    expect(performance.now() - startMs).toBeLessThan(2_000);
  });

  it('an aborted call ends a request under way, and one not begun is never sent', async () => {
    const stop = new AbortController();
    server.answer(() => ({
      raw: () => {
        stop.abort();
      },
    }));
    const client = clientOf();
    await expect(client.loadUser('U1', { ...call, signal: stop.signal })).rejects.toThrow(Stopping);
    server.answer(() => page(0));
    await expect(client.loadUser('U1', { ...call, signal: stop.signal })).rejects.toThrow(Stopping);
    expect(server.seen).toHaveLength(0);
  });

  it.each<[string, Scripted]>([
    ['503', { status: 503, body: '' }],
    ['HTML', { body: HTML }],
    ['429', { status: 429, body: '' }],
    ['nothing', { raw: (response) => response.destroy() }],
  ])('a licence request answered with %s harms nobody and prints nothing', async (_, licence) => {
    server.answerLicence(() => licence);
    server.answer(() => page(1, 'U1'));
    const print = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write'));
    const client = clientOf();
    for (let asking = 0; asking < 5; asking++) expect((await search(client)).total).toBe(1);
    // On a connection of its own, it may arrive after the searches.
    await eventually(() => {
      expect(server.licences).toHaveLength(1);
    });
    const printed = print.flatMap((spy) => spy.mock.calls.map(([text]) => String(text))).join('');
    vi.restoreAllMocks();
    expect(printed).not.toMatch(/K2secret|userId|[Ll]icense|mgmt/);
    expect(asked).toContain('users event');
  });

  it('the licence tier goes with later requests, and credentials with all', async () => {
    server.answer(() => page(1, 'U1'));
    const client = clientOf();
    for (let asking = 0; asking < 5; asking++) await search(client);
    expect(server.seen.at(-1)?.headers).toMatchObject({
      authorization: 'Bearer P2test:K2secret',
      'x-descope-license': 'tier3',
    });
  });

  it('a mirror that fails is not mistaken for Descope', async () => {
    const budget = { ...recorder('users'), take: () => Promise.reject(new Error('no database')) };
    await expect(search(clientOf({ budget }))).rejects.toThrow('no database');
  });

  it('the clocks are compared by the dates of the answers', async () => {
    const client = clientOf();
    expect(client.clockOffsetMs()).toBe(0);
    const date = new Date(Date.now() + 3_600_000).toUTCString();
    server.answer(() => ({ ...page(0), headers: { date } }));
    await search(client);
    server.answer(() => ({ ...page(0), headers: { date: 'yesterday' } }));
    await search(client);
    expect(Math.abs(client.clockOffsetMs() - 3_600_000)).toBeLessThan(2_000);
  });
});

describe('a load of one user', () => {
  it('answers the user', async () => {
    server.answer(() => ({ body: { user: { userId: 'U1' } } }));
    expect((await clientOf().loadUser('U1', call)).user?.userId).toBe('U1');
    expect(server.seen[0]?.path).toBe('/v1/mgmt/user?userId=U1');
    await clientOf().loadUserByLoginId('a+b@example.com', call);
    expect(server.seen[1]?.path).toBe('/v1/mgmt/user?loginId=a%2Bb%40example.com');
  });

  it.each([200, 400, 404, 500])('G4: is null for E112102, with HTTP %i', async (status) => {
    server.answer(() => ({ status, body: NOT_FOUND }));
    const answer = await clientOf().loadUser('U1', call);
    expect(answer.user).toBeNull();
    expect(answer.observedAt).not.toBe('');
  });

  it.each<[string, Scripted, unknown]>([
    ['a 404 without the code', { status: 404, body: {} }, DescopeRejected],
    ['another code', { status: 404, body: { errorCode: 'E062108' } }, DescopeRejected],
    ['a 404 page', { status: 404, body: HTML }, DescopeUnavailable],
    ['an empty user', { body: { user: {} } }, DescopeUnavailable],
    ['a null user', { body: { user: null } }, DescopeUnavailable],
    ['an empty body', { body: {} }, DescopeUnavailable],
    ['another user', { body: { user: { userId: 'U2' } } }, DescopeUnavailable],
  ])('G4: is never null for %s', async (_, scripted, error) => {
    server.answer(() => scripted);
    await expect(clientOf().loadUser('U1', call)).rejects.toBeInstanceOf(error);
  });
});

describe('a load of several users', () => {
  it('tells who is missing, and ignores who was not asked for', async () => {
    server.answer(() => ({ body: { users: users('U3', 'U1', 'U9', 'U1'), total: 4 } }));
    const answer = await clientOf().loadUsers(['U1', 'U2', 'U3', 'U1'], call);
    expect(server.seen[0]?.body).toEqual({
      userIds: ['U1', 'U2', 'U3'],
      includeInvalidUsers: true,
    });
    expect(answer.users.map((user) => user.userId)).toEqual(['U1', 'U3']);
    expect(answer.missing).toEqual(['U2']);
  });

  it.each([[[]], [many(101)]])('takes 1 to 100 ids', async (ids: string[]) => {
    await expect(clientOf().loadUsers(ids, call)).rejects.toThrow(RangeError);
  });

  it('G4: without a list of users is unavailable, not a list of the missing', async () => {
    for (const body of [{}, { users: null }, { users: [{}] }, HTML]) {
      server.answer(() => ({ body }));
      await expect(clientOf().loadUsers(['U1'], call)).rejects.toThrow(DescopeUnavailable);
    }
  });

  it('finds the unknown ids that fail a batch by halving it', async () => {
    const unknown = new Set(['U13', 'U70']);
    const refused = { status: 400, body: NOT_FOUND };
    server.answer(({ path, body }) => {
      const single = /userId=(.*)$/.exec(path)?.[1];
      if (single !== undefined) {
        return unknown.has(single) ? refused : { body: { user: { userId: single } } };
      }
      const ids = body['userIds'] as string[];
      return ids.some((id) => unknown.has(id)) ? refused : { body: { users: users(...ids) } };
    });
    const client = clientOf();
    expect(await client.refusesUnknownIds()).toBe(false);
    const answer = await client.loadUsers(many(100), call);
    expect(answer.missing).toEqual(['U13', 'U70']);
    expect(answer.users).toHaveLength(98);
    expect(server.seen.length).toBeLessThan(32);
    // For the next process too.
    expect([await client.refusesUnknownIds(), await clientOf().refusesUnknownIds()]).toEqual([
      true,
      true,
    ]);
    server.answer(() => ({ body: { users: users('U1') } }));
    await client.loadUsers(['U1', 'U2'], call);
    expect(await clientOf().refusesUnknownIds()).toBe(false);
  });

  it('gives up at once where single loads are refused too', async () => {
    server.answer(() => ({ status: 400, body: { errorCode: 'E011003' } }));
    await expect(clientOf().loadUsers(many(100), call)).rejects.toThrow(DescopeRejected);
    expect(server.seen.length).toBeLessThan(10);
  });

  it.each([401, 403, 429])('does not halve what is refused with %i', async (status) => {
    server.answer(() => ({ status, body: {} }));
    await expect(clientOf().loadUsers(many(100), call)).rejects.toThrow();
    expect(server.seen).toHaveLength(1);
  });
});

describe('an audit search', () => {
  const query = { fromMs: 1, toMs: 2, page: 3, actions: ['UserCreated'] };

  it('takes its own budget and answers records as they came', async () => {
    const record = { ID: 'E1', occurred: '1780949905871', externalIds: ['a'], tenants: null };
    server.answer(() => ({ body: { audits: [record], total: 9 } }));
    const answer = await clientOf().searchAudit(query, call);
    expect(answer).toMatchObject({ records: [record], total: 9 });
    expect(server.seen[0]?.path).toBe('/v1/mgmt/audit/search');
    expect(server.seen[0]?.body).toEqual({
      from: 1,
      to: 2,
      size: 1000,
      page: 3,
      oldestFirst: true,
      actions: ['UserCreated'],
    });
    expect(asked).toContain('audit pull');
    expect(asked).not.toContain('users pull');
  });

  it('without a list of records is unavailable', async () => {
    for (const body of [{}, { audits: null, total: 0 }, { audits: [] }, HTML]) {
      server.answer(() => ({ body }));
      await expect(clientOf().searchAudit({ ...query, actions: [] }, call)).rejects.toThrow(
        DescopeUnavailable,
      );
    }
  });
});
