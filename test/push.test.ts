import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import { ENVELOPES } from '../src/simulator/envelopes.ts';
import { eventually } from './support/eventually.ts';
import { freePort } from './support/redisServer.ts';
import { flushRedis } from './support/queueDump.ts';
import { startRedisServer, testRedisUrl, type RedisServer } from './support/redis.ts';
import { bodyOf, createWorld, signed, type World, type WorldOptions } from './support/world.ts';

import type { DeliveryTarget } from '../src/simulator/delivery.ts';
import type { BehaviourPatch } from '../src/simulator/behaviour.ts';
import type { FaultKind } from '../src/simulator/faults.ts';

/* What webhooks alone must achieve: every schedule is off, so nothing else mends what they miss. */

let world: World | undefined;
let ownRedis: RedisServer | null = null;
afterEach(async () => {
  try {
    await world?.assertPrivate();
  } finally {
    await world?.stop();
    await ownRedis?.stop();
    world = undefined;
    ownRedis = null;
  }
});

/** A world whose first fill is over; what follows is about deletions, not about their breaker. */
async function begin(options: WorldOptions): Promise<World> {
  world = await createWorld({
    simulator: { users: 120, ...options.simulator },
    redisUrl: options.redisUrl ?? null,
    env: { BREAKER_MAX_PERCENT: '100', ...options.env },
    ...(options.role === undefined ? {} : { role: options.role }),
  });
  await world.untilFilled();
  world.simulator.requests.reset();
  return world;
}

/** Users who are there, without the test users that the mirror leaves out. */
function someone({ simulator }: World, count: number): string[] {
  const users = [...simulator.directory.users()].filter((user) => !user.test);
  return users.slice(0, count).map((user) => user.userId);
}

/** Some sixty events of every kind about everyone, new users and old ones. */
function liveThrough(w: World, { deletes }: { readonly deletes: boolean }): void {
  const { directory } = w.simulator;
  const old = someone(w, 45);
  const created = directory.createMany(12).map((user) => user.userId);
  for (const userId of created.slice(0, 6)) directory.modifyUser(userId, { name: 'Renamed Soon' });
  for (const userId of old.slice(0, 14)) directory.modifyUser(userId, { givenName: 'Changed' });
  for (const userId of old.slice(0, 7)) directory.modifyUser(userId, { status: 'disabled' });
  const batch = directory.createBatch(9, { sameInstant: true }).map((user) => user.userId);
  directory.createBatch(3);
  directory.modifyBatch(old.slice(14, 22), { roleNames: ['editor'] });
  directory.modifyBatch([...batch.slice(0, 3), ...old.slice(20, 24)], { picture: '' });
  for (const userId of old.slice(24, 28)) directory.emit('LoginSucceed', [userId]);
  directory.emit('LoginExceedMaxAttempts', [
    directory.modifyUser(old[28] ?? '', { status: 'disabled' }, { event: false }).userId,
  ]);
  directory.emit('SomethingOfOurOwn');
  for (const userId of old.slice(29, 32)) {
    directory.modifyUser(userId, { loginIds: [`moved.${userId}@example.net`] });
  }
  if (!deletes) return;
  directory.deleteMany([...created.slice(4, 8), ...old.slice(32, 35)]);
  directory.deleteBatch([...batch.slice(2, 5), ...old.slice(35, 38)]);
  for (const userId of old.slice(38, 40)) directory.recreateUser(userId);
}

/** Doubled, delayed and overtaken by others, but never lost. */
const UNRELIABLE = { doubleRate: 0.3, reorderRate: 0.3, delayMs: [0, 400] } satisfies NonNullable<
  DeliveryTarget['policy']
>;

async function untilDelivered({ simulator: { delivery } }: World): Promise<void> {
  await delivery.idle();
  const { acked, sent, refused } = delivery.counters;
  expect({ acked, refused }).toEqual({ acked: sent, refused: 0 });
}

async function countEvents(w: World, where = sql`true`): Promise<number> {
  const { t } = w.database.mirror;
  const [row] = await w.query<{ n: number }>(
    sql`select count(*)::int as n from ${t.events} where ${where}`,
  );
  return row?.n ?? 0;
}

/** Sweeps begun since the world did; the first fill is one. */
async function countSweeps(w: World): Promise<number> {
  const { t } = w.database.mirror;
  const found = await w.query(sql`select 1 from ${t.syncRuns} where pull = 'sweep'`);
  return found.length;
}

/** Ids of users that were ever tombstoned, revived or not. */
async function everDeleted(w: World): Promise<string[]> {
  const { t } = w.database.mirror;
  const found = await w.query<{ userId: string }>(
    sql`select distinct user_id as "userId" from ${t.userChanges} where kind = 'deleted'`,
  );
  return found.map(({ userId }) => userId);
}

const QUEUES = [
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const;

for (const [queue, redisUrl] of QUEUES) {
  describe.skipIf(queue === 'redis' && redisUrl === null)(`webhooks, queue on ${queue}`, () => {
    describe('alone keep the mirror equal within 5 s', () => {
      it.each(ENVELOPES)('in the form "%s", doubled, late and out of order', async (envelope) => {
        const w = await begin({ redisUrl });
        w.deliver({ envelope, policy: UNRELIABLE });

        // That form names neither action nor user, so it cannot tell of a deletion.
        liveThrough(w, { deletes: envelope !== 'dataOnly' });
        await untilDelivered(w);

        await w.untilEqual(5_000);
        expect(w.simulator.delivery.counters.offered).toBeGreaterThanOrEqual(50);
        expect(w.simulator.delivery.counters.doubled).toBeGreaterThan(5);
        expect(await countSweeps(w)).toBe(1);
        if (envelope !== 'dataOnly') expect(w.simulator.requests.countOf('userSearch')).toBe(0);
      });

      it.each(['userIds', 'dataUserIds', 'dataUsers', 'none'] as const)(
        'with the ids of plural events in "%s"',
        async (pluralIds) => {
          const w = await begin({ redisUrl, simulator: { behaviour: { pluralIds } } });
          w.deliver({ envelope: 'mixed', policy: UNRELIABLE });

          liveThrough(w, { deletes: true });
          await untilDelivered(w);

          // Deletions of nobody in particular are the one thing that only reading everyone tells: twice, with a
          // wait before each, where the second of them comes while everyone is being read for the first.
          await w.untilEqual(pluralIds === 'none' ? 30_000 : 5_000);
          if (pluralIds === 'none') expect(await countSweeps(w)).toBeGreaterThan(1);
          else expect(w.simulator.requests.countOf('userSearch')).toBe(0);
        },
      );

      it('although two deletions of nobody in particular follow each other', async () => {
        const w = await begin({
          redisUrl,
          simulator: { users: 900, behaviour: { pluralIds: 'none', latencyMs: 60 } },
        });
        w.deliver();
        const { directory, requests } = w.simulator;
        directory.deleteBatch(someone(w, 3));
        // The sweep for the first has read the youngest page or is about to; the second comes now.
        await eventually(() => {
          expect(requests.countOf('userSearch')).toBeGreaterThan(4);
        });
        directory.deleteBatch(someone(w, 3));
        await untilDelivered(w);
        // Two sweeps after one another, and a wait before each.
        await w.untilEqual(30_000);
      });

      it.each(['raw', 'stringified'] as const)('signed over the %s body', async (signOver) => {
        const w = await begin({ redisUrl });
        w.deliver({ signOver, envelope: 'mixed' });
        w.simulator.directory.createUser({ name: 'Ünï <b>&amp;</b> \u2028 "quoted"' });
        liveThrough(w, { deletes: true });
        await untilDelivered(w);
        await w.untilEqual(5_000);
      });

      const MISSING: readonly BehaviourPatch[] = [
        { missingUserStatus: 404 },
        { missingUserStatus: 200 },
        { unknownIds: 'fail', missingUserStatus: 400 },
        { unknownIds: 'fail', missingUserStatus: 404 },
        { unknownIds: 'fail', missingUserStatus: 200 },
      ];
      it.each(MISSING)('where missing users are told by %j', async (behaviour) => {
        const w = await begin({ redisUrl, simulator: { behaviour } });
        w.deliver({ policy: UNRELIABLE });
        liveThrough(w, { deletes: true });
        await untilDelivered(w);
        await w.untilEqual(5_000);
      });

      it('when a user is changed and deleted just after the sign-up', async () => {
        const w = await begin({ redisUrl });
        const { directory, delivery } = w.simulator;
        w.deliver();
        const { userId } = directory.createUser({ test: false });
        await delivery.idle();
        await w.untilEqual(5_000);
        directory.modifyUser(userId, { name: 'Soon Gone' });
        directory.deleteUser(userId);
        await untilDelivered(w);
        await w.untilEqual(5_000);
      });

      it('when events name their user by login id only', async () => {
        const w = await begin({ redisUrl });
        const { directory } = w.simulator;
        const silently = { event: false };
        const [changed = '', moved = '', gone = ''] = someone(w, 3);
        const loginIdsOf = (userId: string) => directory.answer(userId)?.loginIds ?? [];
        const created = directory.createUser({}, silently).userId;
        directory.modifyUser(changed, { name: 'By Login Id' }, silently);
        directory.modifyUser(moved, { loginIds: ['moved.away@example.net'] }, silently);
        const goneLoginIds = loginIdsOf(gone);
        directory.deleteUser(gone, silently);

        for (const [action, loginIds] of [
          ['UserCreated', loginIdsOf(created)],
          ['UserModified', loginIdsOf(changed)],
          ['UserModified', loginIdsOf(moved)],
          ['UserDeleted', goneLoginIds],
        ] as const) {
          expect((await w.post(bodyOf(action, { externalIds: loginIds }))).status).toBe(202);
        }

        // A created user may turn out to be a test user, which is nobody to wait for.
        await w.untilEqual(5_000);
      });
    });

    describe('where reads at Descope lag behind its events', () => {
      it('a user who cannot be read yet appears, and one who still can be goes', async () => {
        const w = await begin({ redisUrl, simulator: { behaviour: { readLagMs: 2_500 } } });
        const { directory } = w.simulator;
        w.deliver({ policy: { ...UNRELIABLE, delayMs: [0, 100] } });
        directory.createMany(5);
        directory.createBatch(4);
        const [first = '', ...others] = someone(w, 6);
        directory.deleteUser(first);
        directory.deleteMany(others.slice(0, 2));
        directory.deleteBatch(others.slice(2));
        await untilDelivered(w);
        await w.untilEqual(15_000);
      });

      it('users who can be read still go, though the event does not say who they are', async () => {
        const w = await begin({
          redisUrl,
          simulator: { behaviour: { readLagMs: 1_500, pluralIds: 'none' } },
        });
        w.deliver();
        w.simulator.directory.deleteBatch(someone(w, 3));
        await untilDelivered(w);
        await w.untilEqual(15_000);
      });

      it('a user who cannot be read yet appears, though named by login id only', async () => {
        const w = await begin({ redisUrl, simulator: { behaviour: { readLagMs: 1_500 } } });
        const user = w.simulator.directory.createUser({ test: false }, { event: false });
        const loginIds = w.simulator.directory.answer(user.userId)?.loginIds;
        await w.post(bodyOf('UserCreated', { loginIds }));
        await w.untilEqual(10_000);
      });

      it('a user deleted before the creation could be read does not stay', async () => {
        const w = await begin({ redisUrl, simulator: { behaviour: { readLagMs: 3_200 } } });
        w.deliver();
        const { userId } = w.simulator.directory.createUser({ test: false });
        // Looked at twice in vain, a second apart; the next look comes three seconds later.
        await eventually(async () => {
          expect(await countEvents(w, sql`looks = 2`)).toBe(1);
        });
        w.simulator.directory.deleteUser(userId);
        await untilDelivered(w);
        await eventually(
          async () => {
            expect(await countEvents(w, sql`state = 'pending'`)).toBe(0);
          },
          { timeoutMs: 20_000 },
        );
        await w.assertEqual();
      });
    });

    describe('never remove a user who is there', () => {
      const FAULTS: readonly FaultKind[] = ['emptyObject', 'emptyPage', 'zeroTotal', 'partialPage'];
      it.each(FAULTS)('when a load is answered by "%s" and deletions are told of', async (kind) => {
        const w = await begin({ redisUrl });
        const { directory, faults } = w.simulator;
        const users = someone(w, 20);
        const gone = users.slice(0, 4);
        w.deliver();
        faults.next(kind, { path: 'load' });

        // One delivery, and so one load.
        directory.deleteMany(gone);
        for (const userId of users.slice(4, 12)) directory.emit('UserDeleted', [userId]);
        for (const userId of users.slice(12)) directory.modifyUser(userId, { name: 'Still Here' });
        await untilDelivered(w);

        await w.untilEqual(10_000);
        await eventually(async () => {
          expect(await countEvents(w, sql`looks = 0`)).toBe(0);
        });
        expect(faults.count).toBe(1);
        expect((await everDeleted(w)).sort()).toEqual([...gone].sort());
      });

      it.each(FAULTS)('when the load of a single user is answered by "%s"', async (kind) => {
        const w = await begin({ redisUrl });
        const [userId = ''] = someone(w, 1);
        w.simulator.faults.next(kind, { path: 'user' });
        w.deliver();
        w.simulator.directory.emit('UserDeleted', [userId]);
        await untilDelivered(w);
        await eventually(async () => {
          expect(await countEvents(w, sql`looks = 0`)).toBe(0);
        });
        expect(w.simulator.faults.count).toBe(1);
        expect(await everDeleted(w)).toEqual([]);
      });
    });

    describe('are refused', () => {
      it('unsigned, wrongly signed, unreadable or too large, unheard by inbox and Descope', async () => {
        const w = await begin({ redisUrl });
        const [userId = ''] = someone(w, 1);
        const body = bodyOf('UserDeleted', { userId });
        const large = `[${' '.repeat(2 * 1024 * 1024)}]`;
        const statuses = [];
        for (const answer of [
          await w.post(body, { 'x-descope-webhook-s256': 'A'.repeat(43) + '=' }),
          await w.post(body, { 'x-descope-webhook-s256': '' }),
          await w.post(body, {}),
          await w.post('no JSON'),
          await w.post('{"what":"else"}'),
          await w.post(''),
          await w.post(large),
          await w.post(large, {}),
        ]) {
          statuses.push(answer.status);
          expect(await answer.text()).not.toContain(userId);
        }
        expect(statuses).toEqual([401, 401, 401, 400, 400, 400, 413, 413]);
        expect(await countEvents(w)).toBe(0);
        expect(w.simulator.requests.countOf()).toBe(0);
      });

      it.each([
        ['bearer', { WEBHOOK_BEARER_TOKENS: 'other,right' }, 'Bearer right', 'Bearer wrong'],
        [
          'basic',
          { WEBHOOK_BASIC: 'someone:right' },
          `Basic ${Buffer.from('someone:right').toString('base64')}`,
          `Basic ${Buffer.from('someone:wrong').toString('base64')}`,
        ],
      ])('unless signature, %s and API key all match', async (_scheme, env, right, wrong) => {
        const w = await begin({ redisUrl, env: { ...env, WEBHOOK_API_KEY: 'X-Our-Key:right' } });
        const [userId = ''] = someone(w, 1);
        w.simulator.directory.modifyUser(userId, { name: 'Let In' }, { event: false });
        const body = bodyOf('UserModified', { userId });
        const signature = signed(body);
        const scheme = { authorization: right };
        const key = { 'x-our-key': 'right' };
        for (const headers of [
          { ...signed(`${body} `), ...scheme, ...key },
          { ...signature, authorization: wrong, ...key },
          { ...signature, ...scheme, 'x-our-key': 'wrong' },
          { ...scheme, ...key },
          { ...signature, ...key },
          { ...signature, ...scheme },
        ]) {
          expect((await w.post(body, headers)).status).toBe(401);
        }
        expect(await countEvents(w)).toBe(0);
        expect((await w.post(body, { ...signature, ...scheme, ...key })).status).toBe(202);
        await w.untilEqual(5_000);
      });
    });

    it('leave nothing personal in a queue that nobody works off', async () => {
      world = await createWorld({ redisUrl, role: 'web', simulator: { users: 120 } });
      world.deliver({ envelope: 'mixed' });
      liveThrough(world, { deletes: true });
      await untilDelivered(world);
      expect(await world.queueText()).toContain('applyEvents');
      await world.assertPrivate();
    });

    it('leave nothing personal in jobs that failed', async () => {
      const w = await begin({ redisUrl });
      w.deliver({ envelope: 'mixed' });
      // A refused management key fails jobs for good, and those are kept to be looked at.
      w.simulator.faults.next('status403', { times: 1_000 });
      liveThrough(w, { deletes: true });
      await untilDelivered(w);
      await eventually(async () => {
        expect(await w.queueText()).toContain('management key');
      });
      await w.assertPrivate();
    });
  });
}

describe.skipIf(testRedisUrl() === null)('a Redis that comes and goes', () => {
  it('loses no event when it is flushed again and again', async () => {
    ownRedis = await startRedisServer();
    const url = ownRedis?.url ?? '';
    const w = await begin({ redisUrl: url });
    w.deliver({ envelope: 'mixed', batchMax: 4 });
    const { directory } = w.simulator;
    const users = someone(w, 40);
    for (let round = 0; round < 8; round++) {
      directory.createMany(6);
      for (const userId of users.slice(round * 3, round * 3 + 7)) {
        directory.modifyUser(userId, { name: `Round ${round}` });
      }
      directory.deleteMany(users.slice(32 + round, 33 + round));
      directory.modifyBatch(users.slice(0, 3), { givenName: `Batch ${round}` });
      if (round % 2 === 0) await untilDelivered(w);
      await flushRedis(url);
    }
    await untilDelivered(w);
    expect(w.simulator.delivery.counters.acked).toBe(120);
    await w.untilEqual(45_000);
  });

  it('is not needed to start and to answer webhooks', async () => {
    const port = await freePort();
    world = await createWorld({
      redisUrl: `redis://127.0.0.1:${port}`,
      simulator: { users: 50 },
      env: { BREAKER_MAX_PERCENT: '100' },
    });
    const w = world;
    w.deliver({ batchMax: 10 });
    const created = w.simulator.directory.createMany(20).map((user) => user.userId);
    w.simulator.directory.deleteMany(created.slice(0, 3));
    await untilDelivered(w);
    expect(await countEvents(w, sql`state = 'pending'`)).toBe(23);

    ownRedis = await startRedisServer(port);
    await w.untilFilled(45_000);
  });

  it('may be restarted in between', async () => {
    const port = await freePort();
    ownRedis = await startRedisServer(port);
    const w = await begin({ redisUrl: ownRedis?.url ?? null });
    w.deliver({ batchMax: 10 });
    w.simulator.directory.createMany(20);
    await ownRedis?.stop();
    const [changed = ''] = someone(w, 1);
    w.simulator.directory.modifyUser(changed, { name: 'While Redis Was Away' });
    w.simulator.directory.createMany(20);
    await untilDelivered(w);

    ownRedis = await startRedisServer(port);
    w.simulator.directory.deleteMany(someone(w, 3));
    await untilDelivered(w);
    await w.untilEqual(45_000);
  });
});
