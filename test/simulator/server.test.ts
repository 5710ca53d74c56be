import { afterEach, describe, expect, test } from 'vitest';

import { applyBehaviour, defaultBehaviour } from '../../src/simulator/behaviour.ts';
import { RateLimits } from '../../src/simulator/limits.ts';
import { createRandom } from '../../src/simulator/random.ts';
import { startAsked } from './client.ts';

import type { Asked } from './client.ts';
import type { SimulatorOptions } from '../../src/simulator/server.ts';

const running: Asked[] = [];

async function start(options: SimulatorOptions = {}): Promise<Asked> {
  const asked = await startAsked(options);
  running.push(asked);
  return asked;
}

afterEach(async () => {
  await Promise.all(running.splice(0).map((asked) => asked.simulator.stop()));
});

const SEARCH = '/v2/mgmt/user/search';

const rawSearch = ({ simulator }: Asked, signal?: AbortSignal): Promise<Response> =>
  fetch(simulator.url + SEARCH, {
    method: 'POST',
    body: '{}',
    headers: { authorization: `Bearer ${simulator.projectId}:${simulator.managementKey}` },
    ...(signal ? { signal } : {}),
  });

describe('rate limits', () => {
  const limitsOf = (users: number, penaltyMs: number) => {
    const behaviour = defaultBehaviour();
    applyBehaviour(behaviour, { penaltyMs, limits: { users } });
    return new RateLimits(behaviour);
  };

  test('search, load and get share one limit; the audit search has its own', () => {
    const limits = limitsOf(2, 60_000);
    expect(limits.take('userSearch', 0)).toBe(0);
    expect(limits.take('userGet', 1)).toBe(0);
    expect(limits.take('userLoad', 2)).toBe(60_000);
    for (let count = 0; count < 10; count++) expect(limits.take('audit', 3)).toBe(0);
    expect(limits.take('audit', 3)).toBe(60_000);
    expect(limits.take('license', 3)).toBe(0);
  });

  test('asking during the penalty starts it again; only silence ends it', () => {
    const limits = limitsOf(1, 30_000);
    expect(limits.take('userSearch', 0)).toBe(0);
    expect(limits.take('userSearch', 1000)).toBe(30_000);
    expect(limits.take('userSearch', 30_000)).toBe(30_000);
    expect(limits.take('userSearch', 59_999)).toBe(30_000);
    expect(limits.take('userSearch', 89_999)).toBe(0);
  });

  test('without a penalty the block ends with the minute', () => {
    const limits = limitsOf(1, 0);
    expect(limits.take('userSearch', 5000)).toBe(0);
    expect(limits.take('userSearch', 15_000)).toBe(50_000);
    expect(limits.take('userSearch', 64_999)).toBe(1);
    expect(limits.take('userSearch', 65_000)).toBe(0);
  });

  test('a 429 says when to come back, or does not', async () => {
    const asked = await start({ behaviour: { limits: { users: 1 } } });
    expect((await asked.post(SEARCH, {})).status).toBe(200);
    const refused = await asked.post(SEARCH, {});
    expect(refused.status).toBe(429);
    expect(refused.body).toMatchObject({ errorCode: 'E130429' });
    expect(refused.headers.get('retry-after')).toBe('60');
    asked.simulator.behaviour.retryAfterHeader = false;
    expect((await asked.post(SEARCH, {})).headers.get('retry-after')).toBeNull();
    expect(asked.simulator.requests.tooMany).toBe(2);
    expect(asked.simulator.requests.countOf('userSearch')).toBe(3);
    expect(asked.simulator.requests.countOf('userSearch', 200)).toBe(1);
  });
});

describe('faults', () => {
  test('strike as often as ordered, and only where ordered', async () => {
    const asked = await start({ users: 30 });
    const { faults } = asked.simulator;
    faults.next('status500', { path: 'search', times: 2 });
    faults.next('status403', { path: 'audit' });
    expect((await asked.post('/v1/mgmt/users/load', { userIds: ['U0'] })).status).toBe(200);
    expect((await asked.post(SEARCH, {})).status).toBe(500);
    expect((await asked.post('/v1/mgmt/audit/search', {})).status).toBe(403);
    expect((await asked.post(SEARCH, {})).status).toBe(500);
    expect((await asked.post(SEARCH, {})).status).toBe(200);
    expect(faults.count).toBe(3);
  });

  test('wrong answers with a 200', async () => {
    const asked = await start({ users: 60 });
    const { faults, directory } = asked.simulator;
    const total = directory.realSize;
    faults.next('emptyObject');
    expect((await asked.post(SEARCH, {})).body).toEqual({});
    faults.next('emptyPage');
    expect((await asked.post(SEARCH, {})).body).toEqual({ users: [], total });
    faults.next('zeroTotal');
    expect((await asked.post(SEARCH, {})).body).toEqual({ users: [], total: 0 });
    faults.next('partialPage');
    const partial = await asked.search({});
    expect(partial.total).toBe(total);
    expect(partial.users.length).toBeLessThan(total);
    expect(partial.users.length).toBeGreaterThan(0);
  });

  test('bodies that are not JSON, and connections that break', async () => {
    const asked = await start({ users: 20 });
    const { faults, requests } = asked.simulator;
    faults.next('status502html');
    const page = await rawSearch(asked);
    expect(page.status).toBe(502);
    expect(page.headers.get('content-type')).toBe('text/html');
    expect(await page.text()).toContain('<html>');
    faults.next('truncated');
    await expect(rawSearch(asked).then((response) => response.text())).rejects.toThrow();
    faults.next('reset');
    await expect(rawSearch(asked)).rejects.toThrow();
    faults.next('hang');
    await expect(rawSearch(asked, AbortSignal.timeout(150))).rejects.toThrow();
    expect(requests.list.map(({ status }) => status)).toEqual([502, 200, 0, 0]);
  });

  test('slow answers show what was true when they were asked for', async () => {
    const asked = await start({ users: 20 });
    const { faults, directory } = asked.simulator;
    const total = directory.realSize;
    faults.next('slow', { delayMs: 100 });
    const answer = asked.search({});
    while (asked.simulator.requests.countOf('userSearch') === 0) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    directory.createUser({ test: false });
    expect((await answer).total).toBe(total);
    expect((await asked.search({})).total).toBe(total + 1);
  });

  test('a stale answer still shows a user who is gone', async () => {
    const clock = { ms: 1_800_000_000_000 };
    const asked = await start({ users: 20, now: () => clock.ms });
    const { faults, directory } = asked.simulator;
    const [user] = (await asked.search({})).users;
    if (!user) throw new Error('no user');
    directory.deleteUser(user.userId);
    clock.ms += 5000;
    const loginId = encodeURIComponent(user.loginIds[0] ?? '');
    faults.next('stale', { times: 3 });
    expect((await asked.search({})).users).toContainEqual(user);
    expect((await asked.get(`/v1/mgmt/user?userId=${user.userId}`)).body).toEqual({ user });
    expect((await asked.get(`/v1/mgmt/user?loginId=${loginId}`)).body).toEqual({ user });
    expect((await asked.get(`/v1/mgmt/user?loginId=${loginId}`)).body).toMatchObject({
      errorCode: 'E112102',
    });
    expect((await asked.search({})).users).not.toContainEqual(user);
  });

  test('faults by chance are the same for the same random numbers', async () => {
    const asked = await start({ users: 5 });
    const statuses = async (): Promise<number[]> => {
      asked.simulator.faults.random(0.5, ['status500', 'status403'], createRandom(4));
      const seen = [];
      for (let count = 0; count < 12; count++) seen.push((await asked.post(SEARCH, {})).status);
      return seen;
    };
    const first = await statuses();
    expect(new Set(first)).toEqual(new Set([200, 500, 403]));
    expect(await statuses()).toEqual(first);
    asked.simulator.faults.clear();
    expect((await asked.post(SEARCH, {})).status).toBe(200);
  });
});

describe('loads', () => {
  test('an unknown id is skipped, or fails the call', async () => {
    const { simulator, post } = await start({ users: 5 });
    const [user] = simulator.directory.users();
    const userIds = [user?.userId, 'U0'];
    const body = { userIds, includeInvalidUsers: true };
    expect((await post('/v1/mgmt/users/load', body)).body['users']).toEqual([user]);
    simulator.behaviour.unknownIds = 'fail';
    const refused = await post('/v1/mgmt/users/load', body);
    expect(refused).toMatchObject({ status: 400, body: { errorCode: 'E112102' } });
  });

  test('disabled users come only when invalid ones are asked for', async () => {
    const { simulator, post } = await start();
    const { userId } = simulator.directory.createUser({ status: 'disabled' });
    const valid = await post('/v1/mgmt/users/load', { userIds: [userId] });
    expect(valid.body).toEqual({ users: [], total: 0 });
  });

  test('more ids than allowed are refused', async () => {
    const { post } = await start({ behaviour: { maxLoadIds: 3 } });
    const refused = await post('/v1/mgmt/users/load', { userIds: ['1', '2', '3', '4'] });
    expect(refused.status).toBe(400);
  });
});

describe('the audit search', () => {
  const AUDIT = '/v1/mgmt/audit/search';

  test('pages oldest first, within bounds, lag and retention', async () => {
    const clock = { ms: 1_800_000_000_000 };
    const startMs = clock.ms;
    const asked = await start({ now: () => clock.ms });
    const { directory, behaviour } = asked.simulator;
    for (let count = 0; count < 25; count++, clock.ms += 1000) directory.createUser();
    const pageOf = async (body: object): Promise<{ times: number[]; total: number }> => {
      const answer = await asked.post(AUDIT, { oldestFirst: true, ...body });
      const audits = answer.body['audits'] as { occurred: string }[];
      return {
        times: audits.map((audit) => (Number(audit.occurred) - startMs) / 1000),
        total: Number(answer.body['total']),
      };
    };
    expect(await pageOf({ size: 3, page: 1 })).toEqual({ times: [3, 4, 5], total: 25 });
    expect(await pageOf({ size: 2, oldestFirst: false })).toEqual({ times: [24, 23], total: 25 });
    const window = { from: startMs + 2000, to: String(startMs + 4000) };
    expect((await pageOf(window)).times).toEqual([2, 3, 4]);
    behaviour.auditBounds = 'exclusive';
    expect((await pageOf(window)).times).toEqual([3]);
    behaviour.auditLagMs = 20_000;
    expect((await pageOf({})).times).toEqual([0, 1, 2, 3, 4, 5]);
    behaviour.auditLagMs = 0;
    clock.ms += 30 * 86_400_000 - 15_000;
    expect((await pageOf({ from: 1 })).total).toBe(15);
    expect((await asked.post(AUDIT, { size: 1001 })).status).toBe(400);
  });

  test('filters by action, user and login id', async () => {
    const { simulator, post } = await start();
    const { directory } = simulator;
    const [one, two] = directory.createMany(2);
    if (!one || !two) throw new Error('no users');
    directory.deleteUser(one.userId);
    directory.createBatch(3, { event: false });
    directory.modifyBatch([two.userId], { name: 'x' });
    const actionsOf = async (body: object): Promise<unknown[]> =>
      (
        (await post(AUDIT, { oldestFirst: true, ...body })).body['audits'] as { action: string }[]
      ).map(({ action }) => action);
    expect(await actionsOf({ userIds: [one.userId] })).toEqual(['UserCreated', 'UserDeleted']);
    expect(await actionsOf({ userIds: [two.userId] })).toEqual(['UserCreated', 'UsersModified']);
    expect(await actionsOf({ actions: ['UserDeleted'] })).toEqual(['UserDeleted']);
    const logins = directory.content(two).loginIds;
    expect(await actionsOf({ externalIds: logins })).toEqual(['UserCreated']);
  });
});

describe('the clock', () => {
  test('a skew shifts the Date header, new users and audit records alike', async () => {
    const clock = { ms: 1_800_000_000_000 };
    const asked = await start({ now: () => clock.ms, behaviour: { clockSkewMs: -90_000 } });
    const user = asked.simulator.directory.createUser({ test: false });
    const answer = await asked.post(SEARCH, {});
    expect(Date.parse(answer.headers.get('date') ?? '')).toBe(clock.ms - 90_000);
    expect(answer.body['users']).toMatchObject([{ createdTime: (clock.ms - 90_000) / 1000 }]);
    expect(user.createdMs).toBe(clock.ms - 90_000);
    expect(asked.simulator.directory.audit.all()[0]?.occurredMs).toBe(clock.ms - 90_000);
  });
});

describe('the directory', () => {
  test('is the same for the same seed, and another for another', async () => {
    const now = (): number => 1_800_000_000_000;
    const usersOf = async (seed: number): Promise<unknown[]> => [
      ...(await start({ users: 200, seed, now })).simulator.directory.users(),
    ];
    expect(await usersOf(1)).toEqual(await usersOf(1));
    expect(await usersOf(1)).not.toEqual(await usersOf(2));
  });

  test('a login id is unique, and may return under a new id', async () => {
    const { simulator, get } = await start({ users: 10 });
    const { directory } = simulator;
    const [user] = directory.users();
    if (!user) throw new Error('no user');
    expect(() => directory.createUser({ loginIds: user.loginIds })).toThrow(/login id/);
    const again = directory.recreateUser(user.userId);
    expect(again.userId).not.toBe(user.userId);
    expect(directory.answer(again.userId)?.loginIds).toEqual(user.loginIds);
    const loginId = encodeURIComponent(user.loginIds[0] ?? '');
    expect((await get(`/v1/mgmt/user?loginId=${loginId}`)).body).toMatchObject({
      user: { userId: again.userId },
    });
  });

  test('a change may be silent, or leave the modified time where it was', async () => {
    const clock = { ms: 1_800_000_000_000 };
    const { simulator } = await start({ users: 10, now: () => clock.ms });
    const { directory } = simulator;
    const [user] = directory.users();
    if (!user) throw new Error('no user');
    directory.modifyUser(user.userId, { name: 'Silent' }, { event: false });
    expect(directory.audit.size).toBe(0);
    expect(directory.get(user.userId)?.modifiedMs).toBe(clock.ms);
    clock.ms += 1000;
    directory.modifyUser(user.userId, { name: 'Unmoved' }, { moveModifiedTime: false });
    expect(directory.audit.size).toBe(1);
    expect(directory.get(user.userId)?.modifiedMs).toBe(clock.ms - 1000);
    expect(directory.answer(user.userId)?.name).toBe('Unmoved');
  });
});

describe('what an audit webhook is set up by', () => {
  const SET = '/v2/mgmt/connector/audit/web/set';
  const webhook = { name: 'Rollcall', url: 'http://127.0.0.1:1/hook', hmacSecret: 'secret' };

  test('a connector is made, or refused where the switch says so', async () => {
    const asked = await start();
    expect(await asked.post(SET, webhook)).toMatchObject({
      status: 200,
      body: { id: expect.stringMatching(/^CI/) as string },
    });
    applyBehaviour(asked.simulator.behaviour, { connector: 'forbidden' });
    expect((await asked.post(SET, webhook)).status).toBe(403);
    applyBehaviour(asked.simulator.behaviour, { connector: 'noSuchOperation' });
    expect((await asked.post(SET, webhook)).status).toBe(404);
    applyBehaviour(asked.simulator.behaviour, { connector: 'made' });
    expect((await asked.post(SET, { ...webhook, url: 'nowhere' })).status).toBe(400);
  });

  test('anybody may read the keys of the project, and of no other', async () => {
    const { simulator } = await start();
    const keysOf = (id: string) => fetch(`${simulator.url}/v2/keys/${id}`);
    const keys = await keysOf(simulator.projectId);
    expect([keys.status, await keys.json()]).toMatchObject([200, { keys: [{ use: 'sig' }] }]);
    expect((await keysOf('P2another')).status).toBe(404);
    expect(simulator.requests.countOf('keys')).toBe(2);
  });
});
