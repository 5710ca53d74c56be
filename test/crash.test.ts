import { sql } from 'drizzle-orm';
import { request, type ClientRequest } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { toBody } from '../src/simulator/envelopes.ts';
import {
  createBuiltServices,
  type BuiltService,
  type BuiltServices,
} from './support/builtService.ts';
import { eventually } from './support/eventually.ts';
import { startRedisServer, testRedisUrl } from './support/redis.ts';
import {
  bodyOf,
  createScene,
  postTo,
  realUserIds,
  signed,
  type Scene,
  type WorldOptions,
} from './support/world.ts';

import type { AuditEvent } from '../src/simulator/audit.ts';

/* The built program as a process of its own: killed, stopped, and with its database cut off. */

let services: BuiltServices;
let scene: Scene | undefined;

beforeEach(async () => {
  services = await createBuiltServices();
});
afterEach(async () => {
  const output = await services.end();
  try {
    await scene?.assertPrivate(output);
  } finally {
    await scene?.stop();
    scene = undefined;
  }
});

async function begin(options: WorldOptions): Promise<Scene> {
  scene = await createScene({
    ...options,
    env: { BREAKER_MAX_PERCENT: '100', ...options.env },
  });
  return scene;
}

const start = (s: Scene): Promise<BuiltService> => services.start(s.env);

function someone(s: Scene, count: number): string[] {
  return realUserIds(s).slice(0, count);
}

async function countPending(s: Scene): Promise<number> {
  const { t } = s.database.mirror;
  const [row] = await s.query<{ n: number }>(
    sql`select count(*)::int as n from ${t.events} where state = 'pending'`,
  );
  return row?.n ?? 0;
}

/** A delivery whose headers have been sent and whose body has begun. */
async function beginDelivery(port: number, body: string): Promise<ClientRequest> {
  const outgoing = request({
    port,
    host: '127.0.0.1',
    method: 'POST',
    path: '/webhooks/descope',
    headers: { ...signed(body), 'content-length': Buffer.byteLength(body) },
  });
  await new Promise<void>((resolve, reject) => {
    outgoing.on('error', reject);
    outgoing.write(body.slice(0, 10), () => {
      resolve();
    });
  });
  return outgoing;
}

function answerTo(outgoing: ClientRequest): Promise<number> {
  return new Promise((resolve, reject) => {
    outgoing.on('error', reject);
    outgoing.on('response', (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
  });
}

const QUEUES = [
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const;

for (const [queue, redisUrl] of QUEUES) {
  describe.skipIf(queue === 'redis' && redisUrl === null)(`a process, queue on ${queue}`, () => {
    it('killed three times in its first fill goes on where it was', async () => {
      const s = await begin({
        redisUrl,
        simulator: { users: 6_000, behaviour: { latencyMs: 120 } },
      });
      const { requests } = s.simulator;
      const { t } = s.database.mirror;
      for (const share of [0.2, 0.45, 0.7]) {
        const running = await start(s);
        await eventually(async () => {
          const [row] = await s.query<{ n: number }>(
            sql`select count(*)::int as n from ${t.users}`,
          );
          expect(row?.n).toBeGreaterThan(6_000 * share);
        });
        await running.kill();
      }
      await start(s);
      await s.untilFilled(60_000);
      // 60 pages in two windows, and for each kill what was on its way and a new beginning.
      expect(requests.countOf('userSearch')).toBeGreaterThanOrEqual(60);
      expect(requests.countOf('userSearch')).toBeLessThanOrEqual(60 + 10 + 3 * 8);
      const runs = await s.query(sql`select 1 from ${t.syncRuns} where pull = 'sweep'`);
      expect(runs).toHaveLength(1);
    });

    it('killed under load has lost nothing that it had answered', async () => {
      const s = await begin({ redisUrl, simulator: { users: 300 } });
      const { directory, behaviour } = s.simulator;
      let running = await start(s);
      await s.untilFilled();
      // Slow enough that plenty is neither loaded nor applied when the end comes.
      behaviour.latencyMs = 150;
      const told = new Set<string>();
      const untold = new Set<string>();
      const deliver = async (event: AuditEvent): Promise<void> => {
        const body = toBody([event], 'array', 'dataUserIds');
        const status = await postTo(running.port, body).then(
          (answer) => answer.status,
          () => 0,
        );
        for (const userId of event.userIds) (status === 202 ? told : untold).add(userId);
      };
      for (let round = 0; round < 3; round++) {
        const events: AuditEvent[] = [];
        const stopListening = directory.onEvent((event) => events.push(event));
        directory.createMany(60);
        const users = someone(s, 120);
        for (const userId of users.slice(0, 60)) {
          directory.modifyUser(userId, { name: `Round ${round}` });
        }
        directory.deleteMany(users.slice(100, 105));
        stopListening();
        const before = told.size;
        const delivering = Promise.all(events.map(deliver));
        await eventually(() => {
          expect(told.size).toBeGreaterThan(before + 40);
        });
        await running.kill();
        await delivering;
        running = await start(s);
      }
      await eventually(() => s.assertEqual((userId) => untold.has(userId)), { timeoutMs: 45_000 });
      expect(told.size).toBeGreaterThan(120);
      await eventually(async () => {
        expect(await countPending(s)).toBe(0);
      });
    });

    it('SIGTERM lets a delivery on its way be answered, and ends with 0 in time', async () => {
      const s = await begin({ redisUrl, simulator: { users: 60 } });
      const running = await start(s);
      await s.untilFilled();
      const [userId = ''] = someone(s, 1);
      s.simulator.directory.modifyUser(userId, { name: 'Just In Time' });
      const body = bodyOf('UserModified', { userId });
      const outgoing = await beginDelivery(running.port, body);
      const answered = answerTo(outgoing);

      const askedMs = performance.now();
      running.child.kill('SIGTERM');
      await running.child.waitForLine(/"stopping"/);
      outgoing.end(body.slice(10));

      expect(await answered).toBe(202);
      expect(await running.child.exit).toBe(0);
      expect(performance.now() - askedMs).toBeLessThan(12_000);
      await start(s);
      await s.untilEqual(10_000);
    });

    it('SIGTERM ends with 0 in the middle of the first fill and of a throttle', async () => {
      const s = await begin({
        redisUrl,
        simulator: {
          users: 3_000,
          behaviour: { latencyMs: 100, limits: { users: 10 }, penaltyMs: 60_000 },
        },
      });
      const { child } = await start(s);
      await eventually(() => {
        expect(s.simulator.requests.tooMany).toBeGreaterThan(0);
      });
      const askedMs = performance.now();
      child.kill('SIGTERM');
      expect(await child.exit).toBe(0);
      expect(performance.now() - askedMs).toBeLessThan(12_000);
    });

    it('a second SIGTERM ends at once with 143', async () => {
      const s = await begin({ redisUrl, simulator: { users: 10 } });
      const running = await start(s);
      await s.untilFilled();
      // Its body never comes, so a graceful end would take the full deadline.
      const outgoing = await beginDelivery(running.port, bodyOf('UserModified', { userId: 'U' }));
      outgoing.on('error', () => undefined);
      running.child.kill('SIGTERM');
      await running.child.waitForLine(/"stopping"/);
      const askedMs = performance.now();
      running.child.kill('SIGTERM');
      expect(await running.child.exit).toBe(143);
      // Far from that deadline, however busy the machine.
      expect(performance.now() - askedMs).toBeLessThan(4_000);
    });

    it.each(['cut', 'silence'] as const)(
      'lives on while Postgres is away (%s), refuses with 503, and applies everything after',
      async (how) => {
        const s = await begin({ redisUrl, proxied: true, simulator: { users: 200 } });
        const { directory, delivery } = s.simulator;
        const { child, port } = await start(s);
        await s.untilFilled();
        delivery.configure({ url: `http://127.0.0.1:${port}/nowhere` });
        const url = `http://127.0.0.1:${port}`;

        // Accepted, and still being worked off when the database goes away.
        const [first = '', second = ''] = someone(s, 2);
        const events: AuditEvent[] = [];
        directory.onEvent((event) => events.push(event));
        directory.createMany(100);
        directory.modifyUser(first, { name: 'Before' });
        const accepted = await postTo(port, toBody(events.slice(0, 100), 'array', 'dataUserIds'));
        const rest = await postTo(port, toBody(events.slice(100), 'array', 'dataUserIds'));
        expect([accepted.status, rest.status]).toEqual([202, 202]);

        s.proxy[how]();
        directory.modifyUser(second, { name: 'Meanwhile' });
        const body = bodyOf('UserModified', { userId: second });
        const refused = await Promise.all([1, 2, 3].map(() => postTo(port, body)));
        for (const answer of refused) {
          expect(answer.status).toBe(503);
          expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
        }
        expect((await fetch(`${url}/livez`)).status).toBe(200);
        const ready = await fetch(`${url}/readyz`);
        expect([ready.status, await ready.text()]).toEqual([
          503,
          expect.stringContaining('"postgres"'),
        ]);

        s.proxy.restore();
        await eventually(async () => {
          expect((await postTo(port, body)).status).toBe(202);
        });
        await s.untilEqual(45_000);
        await eventually(async () => {
          expect((await fetch(`${url}/readyz`)).status).toBe(200);
        });
        child.kill('SIGTERM');
        expect(await child.exit).toBe(0);
      },
    );
  });
}

it.skipIf(testRedisUrl() === null)('SIGTERM ends with 0 in time while Redis is away', async () => {
  const redis = await startRedisServer();
  const s = await begin({ redisUrl: redis?.url ?? null, simulator: { users: 10 } });
  const { child } = await start(s);
  await s.untilFilled();
  await redis?.stop();
  const askedMs = performance.now();
  child.kill('SIGTERM');
  expect(await child.exit).toBe(0);
  // Docker kills after ten seconds.
  expect(performance.now() - askedMs).toBeLessThan(9_000);
});
