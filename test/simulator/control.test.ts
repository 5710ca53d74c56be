import { afterEach, beforeEach, expect, test } from 'vitest';

import { createRandom } from '../../src/simulator/random.ts';
import { actOnce, DEFAULT_MIX } from '../../src/simulator/traffic.ts';
import { startAsked, startReceiver } from './client.ts';

import type { Asked } from './client.ts';

let asked: Asked;

beforeEach(async () => {
  asked = await startAsked({ users: 40 });
});

afterEach(async () => {
  await asked.simulator.stop();
});

const control = (path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(`${asked.simulator.url}/simulator/${path}`, init);

const send = async (
  method: string,
  path: string,
  body: unknown,
): Promise<{ status: number; body: unknown }> => {
  const response = await control(path, { method, body: JSON.stringify(body) });
  return { status: response.status, body: await response.json() };
};

test('the state tells what there is and what was asked', async () => {
  await asked.search({});
  const state = await (await control('state')).json();
  expect(state).toMatchObject({
    users: 40,
    usersWithoutTestUsers: asked.simulator.directory.realSize,
    requests: { userSearch: { 200: 1 } },
    behaviour: { timeUnit: 'ms' },
  });
  expect(JSON.stringify(state)).not.toContain(asked.simulator.managementKey);
});

test('behaviour changes at once, and only what was named', async () => {
  const changed = await send('PATCH', 'behaviour', { timeUnit: 's', limits: { audit: 3 } });
  expect(changed.status).toBe(200);
  expect(asked.simulator.behaviour).toMatchObject({
    timeUnit: 's',
    toBound: 'inclusive',
    limits: { audit: 3, users: null },
  });
});

test('what is not understood is refused on one line that names the field', async () => {
  for (const [method, path, body, named] of [
    ['PATCH', 'behaviour', { timeUnit: 'minutes' }, 'timeUnit'],
    ['PATCH', 'behaviour', { timeUnits: 's' }, 'timeUnits'],
    ['POST', 'users', { count: 0 }, 'count'],
    ['POST', 'webhook', { url: 'ftp://x' }, 'url'],
    ['POST', 'traffic', { perSecond: -1 }, 'perSecond'],
    ['POST', 'faults', { kind: 'fire' }, 'the body'],
  ] as const) {
    const refused = await send(method, path, body);
    expect(refused.status, path).toBe(400);
    const { error } = refused.body as { error: string };
    expect(error).toContain(named);
    expect(error).not.toContain('\n');
  }
  expect((await control('users', { method: 'POST', body: 'x' })).status).toBe(400);
  expect((await control('nothing')).status).toBe(404);
});

test('web pages are refused', async () => {
  const answer = await control('state', { headers: { origin: 'https://example.com' } });
  expect(answer.status).toBe(403);
});

test('users are created, and all of them streamed as the API answers them', async () => {
  const created = await send('POST', 'users', { count: 25, sameInstant: true, batch: true });
  expect(created.body).toEqual({ users: 65 });
  const lines = (await (await control('users')).text()).trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    ...asked.simulator.directory.users(),
  ]);
});

test('a webhook and faults are ordered over HTTP', async () => {
  const receiver = await startReceiver();
  try {
    const set = await send('POST', 'webhook', { url: receiver.url, flushMs: 0, hmacSecret: 'x' });
    expect(set.status).toBe(200);
    expect(JSON.stringify(set.body)).not.toContain('hmacSecret');
    asked.simulator.directory.createUser();
    await asked.simulator.delivery.idle();
    expect(receiver.delivered).toHaveLength(1);
  } finally {
    await receiver.stop();
  }
  await send('POST', 'faults', { kind: 'status500', path: 'search', times: 5 });
  expect((await asked.post('/v2/mgmt/user/search', {})).status).toBe(500);
  expect((await control('faults', { method: 'DELETE' })).status).toBe(200);
  expect((await asked.post('/v2/mgmt/user/search', {})).status).toBe(200);
});

test('traffic changes the directory until it is ended', async () => {
  const { directory } = asked.simulator;
  const happened = new Promise<void>((resolve) => {
    directory.onEvent(() => {
      if (directory.audit.size >= 20) resolve();
    });
  });
  expect((await send('POST', 'traffic', { perSecond: 500, mix: { delete: 0 } })).status).toBe(200);
  await happened;
  await send('POST', 'traffic', { perSecond: 0 });
  const after = directory.audit.size;
  expect((await (await control('state')).json()) as object).toMatchObject({ traffic: 0 });
  expect(directory.audit.size).toBe(after);
});

test('the same random numbers make the same traffic, and counts stay true', () => {
  const { directory } = asked.simulator;
  const random = createRandom(11);
  const weights = { ...DEFAULT_MIX, batchCreate: 5, batchChange: 5, batchDelete: 3 };
  for (let count = 0; count < 400; count++) actOnce(directory, weights, random);
  const users = [...directory.users()];
  expect(directory.size).toBe(users.length);
  expect(directory.realSize).toBe(users.filter((user) => !user.test).length);
  expect(new Set(directory.audit.all().map((event) => event.action)).size).toBe(7);
});
