import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { eventually } from '../support/eventually.ts';
import { testRedisUrl } from '../support/redis.ts';
import { bodyOf } from '../support/world.ts';
import { beginAdmin, type AdminScene } from './adminClient.ts';

const KINDS: readonly (readonly [kind: string, redisUrl: () => string | null])[] = [
  ['Postgres', () => null],
  ['Redis', testRedisUrl],
];

const TOKEN = 'a long token of this test';
const bearer = { authorization: `Bearer ${TOKEN}` };

interface BoardQueue {
  readonly name: string;
  readonly counts: Readonly<Record<string, number>>;
  readonly jobs: readonly {
    readonly id: string;
    readonly name: string;
    readonly data: unknown;
    readonly attempts: number;
    readonly failedReason?: string;
  }[];
  readonly readOnlyMode: boolean;
  readonly isPaused: boolean;
}

type Headers = Readonly<Record<string, string>>;

/** What the board's page shows of a queue. */
async function show({ url }: AdminScene, name: string, headers: Headers = {}) {
  const query = `activeQueue=${name}&status=latest&page=1&jobsPerPage=10`;
  const response = await fetch(`${url}/queues/api/queues?${query}`, { headers });
  expect(response.status).toBe(200);
  const text = await response.text();
  const { queues } = JSON.parse(text) as { queues: BoardQueue[] };
  expect(queues.map((queue) => queue.name)).toEqual(['events', 'pulls']);
  const found = queues.find((queue) => queue.name === name);
  if (!found) throw new Error(`no queue ${name}`);
  return { ...found, text };
}

/** One of the board's calls, as its page makes it; with what is to be sent as JSON. */
async function call(
  { url }: AdminScene,
  method: string,
  path: string,
  { headers = {}, body }: { headers?: Headers; body?: unknown } = {},
): Promise<{ status: number; text: string }> {
  const response = await fetch(`${url}/queues/api/queues${path}`, {
    method,
    headers: { 'content-type': 'application/json', origin: url, ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, text: await response.text() };
}

describe.each(KINDS)('the queue board, with the queue in %s', (kind, redisUrl) => {
  const runs = kind === 'Postgres' || testRedisUrl() !== null;

  it.runIf(runs)('shows queues and jobs, which hold ids only (G10)', async () => {
    const scene = await beginAdmin({ redisUrl: redisUrl() });
    const { world, url } = scene;
    const [user] = [...world.simulator.directory.users()];
    const event = bodyOf('UserModified', { userId: user?.userId, loginIds: user?.loginIds });
    expect((await world.post(event)).status).toBe(202);

    const shown = await eventually(async () => {
      const events = await show(scene, 'events');
      expect(events.counts['waiting']).toBe(1);
      return events;
    });
    expect(shown.jobs).toMatchObject([
      { name: 'applyEvents', data: { eventIds: [expect.stringMatching(/^\w+$/) as string] } },
    ]);
    const job = await call(scene, 'GET', `/events/${shown.jobs[0]?.id ?? ''}`);
    expect(JSON.parse(job.text)).toMatchObject({ job: { name: 'applyEvents' }, status: 'waiting' });
    const workers = await call(scene, 'GET', '/events/workers');
    expect(workers.status).toBe(200);
    const store = await fetch(`${url}/queues/api/redis/stats`);
    expect(await store.json()).toMatchObject({ backend: kind.toLowerCase() });
    await world.assertPrivate([shown.text, job.text, workers.text].join('\n'));
  });

  it.runIf(runs)('changes nothing without a token', async () => {
    const scene = await beginAdmin({ redisUrl: redisUrl() });
    expect(await show(scene, 'events')).toMatchObject({ readOnlyMode: true });
    for (const [method, path] of [
      ['PUT', '/pause'],
      ['PUT', '/events/pause'],
      ['PUT', '/events/empty'],
      ['PUT', '/events/obliterate'],
      ['POST', '/events/add'],
      ['PATCH', '/events/1/update-data'],
      ['DELETE', '/events'],
    ] as const) {
      expect((await call(scene, method, path, { body: {} })).status).toBe(405);
    }
    expect(await show(scene, 'events')).toMatchObject({ isPaused: false });
    expect((await scene.get('/api/admin-log')).body).toEqual({ entries: [] });
  });

  it.runIf(runs)(
    'with one pauses queues, adds, retries and removes jobs, and it is logged',
    async () => {
      const scene = await beginAdmin({
        ...{ redisUrl: redisUrl(), role: 'all' },
        env: { ADMIN_TOKEN: TOKEN },
      });
      await scene.world.untilFilled();
      const change = async (method: string, path: string, body?: unknown) => {
        const { status } = await call(scene, method, path, { headers: bearer, body });
        expect([200, 204]).toContain(status);
      };
      const pulls = () => show(scene, 'pulls', bearer);
      await change('PUT', '/pulls/pause');
      expect(await pulls()).toMatchObject({ isPaused: true, readOnlyMode: false });
      await change('POST', '/pulls/add', { name: 'nothing', data: {}, options: {} });
      const paused = await pulls();
      // BullMQ in Postgres counts what waits in a paused queue as paused, which the board does not ask for.
      expect(paused.counts).toMatchObject({ waiting: kind === 'Redis' ? 1 : 0 });
      await change('PUT', '/pulls/resume');
      const failed = await eventually(async () => {
        const { isPaused, counts, jobs } = await pulls();
        expect([isPaused, counts['failed']]).toEqual([false, 1]);
        return jobs.find(({ name }) => name === 'nothing');
      });
      expect(failed?.failedReason).toMatch('job nothing carries a payload that is not its own');

      await change('PUT', `/pulls/${failed?.id ?? ''}/retry`);
      await eventually(async () => {
        expect((await pulls()).jobs).toMatchObject([{ id: failed?.id, attempts: 2 }]);
      });
      await change('PUT', `/pulls/${failed?.id ?? ''}/clean`);
      expect((await pulls()).counts).toMatchObject({ failed: 0 });
      await change('PUT', '/events/pause');
      await change('PUT', '/events/obliterate', { force: true });

      const logged = await eventually(async () => {
        const found = await scene.world.query<{ detail: object; outcome: string }>(
          sql`select detail, outcome from descope.admin_log
            where actor = 'dashboard' and action = 'queue board' order by entry_id`,
        );
        expect(found.map(({ outcome }) => outcome)).toEqual(found.map(() => 'done'));
        return found;
      });
      expect(logged).toHaveLength(7);
      expect(logged[0]?.detail).toEqual({
        method: 'PUT',
        path: '/api/queues/pulls/pause',
        status: 200,
      });
    },
  );
});

describe('the queue board', () => {
  it('is a page of its own, with nothing from elsewhere', async () => {
    const { url } = await beginAdmin();
    const page = await fetch(`${url}/queues/`);
    const html = await page.text();
    expect([page.status, html]).toEqual([
      200,
      expect.stringContaining('<title>Rollcall') as string,
    ]);
    expect(html).toContain('<base href="/queues/"');
    const policy = page.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("script-src 'self'");
    expect(policy).not.toMatch(/https?:|unsafe-eval|script-src[^;]*unsafe-inline/);
    expect(page.headers.get('x-powered-by')).toBeNull();
    const files = [...html.matchAll(/(?:href|src)="(static\/[^"]+)"/g)].map((match) => match[1]);
    expect(files.length).toBeGreaterThan(2);
    for (const file of files) {
      expect((await fetch(`${url}/queues/${file ?? ''}`)).status).toBe(200);
    }
  });

  it('is behind the token, and refuses what another site asks for (G9)', async () => {
    const scene = await beginAdmin({ env: { ADMIN_TOKEN: TOKEN } });
    for (const path of ['/queues', '/queues/api/queues', '/queues/static/js/main.js']) {
      expect((await fetch(scene.url + path)).status).toBe(401);
    }
    for (const headers of [
      { origin: 'https://evil.example.com' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
    ]) {
      const foreign = { headers: { ...bearer, ...headers } };
      for (const [method, path] of [
        ['PUT', '/events/pause'],
        ['POST', '/events/add'],
        ['PATCH', '/events/1/update-data'],
        ['DELETE', '/events'],
      ] as const) {
        expect((await call(scene, method, path, foreign)).status).toBe(403);
      }
    }
    expect(await show(scene, 'events', bearer)).toMatchObject({ isPaused: false });
    expect(await scene.world.query(sql`select 1 from descope.admin_log`)).toEqual([]);
  });

  it('says so while Redis is away, and is there', async () => {
    const { url } = await beginAdmin({ redisUrl: 'redis://127.0.0.1:1' });
    expect((await fetch(`${url}/queues/`)).status).toBe(200);
    expect((await fetch(`${url}/queues/api/queues`)).status).toBe(500);
    expect((await fetch(`${url}/api/status`)).status).toBe(200);
  });
});
