import { createHmac } from 'node:crypto';

import { afterEach, describe, expect, test } from 'vitest';

import { ENVELOPES } from '../../src/simulator/envelopes.ts';
import { startAsked, startReceiver } from './client.ts';

import type { DeliveryTarget } from '../../src/simulator/delivery.ts';
import type { SimulatorOptions } from '../../src/simulator/server.ts';

const stops: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

async function setUp(
  target: Partial<DeliveryTarget> = {},
  { statusOf, ...options }: SimulatorOptions & { statusOf?: (turn: number) => number } = {},
) {
  const receiver = await startReceiver(statusOf);
  const { simulator } = await startAsked(options);
  stops.push(
    () => simulator.stop(),
    () => receiver.stop(),
  );
  simulator.delivery.configure({ url: receiver.url, flushMs: 1, ...target });
  return { ...simulator, delivered: receiver.delivered };
}

const hmac = (secret: string, text: string): string =>
  createHmac('sha256', secret).update(text).digest('base64');

interface Event {
  userId: string;
  action: string;
  occurred: number;
}
const eventsOf = (delivered: readonly { body: string }[]): Event[] =>
  delivered.flatMap(({ body }) => JSON.parse(body) as Event[]);

describe('signatures', () => {
  test('over the raw bytes: only those bytes verify', async () => {
    const { directory, delivery, delivered } = await setUp({ hmacSecret: 'geheim ß' });
    const { userId } = directory.createUser();
    directory.modifyUser(userId, { name: 'Tom & <Jo> 🦊' });
    await delivery.idle();
    const [post] = delivered;
    expect(post?.headers['x-descope-webhook-s256']).toBe(hmac('geheim ß', post?.body ?? ''));
    expect(post?.body).toContain('Tom \\u0026 \\u003cJo\\u003e 🦊');
    const again = JSON.stringify(JSON.parse(post?.body ?? ''));
    expect(hmac('geheim ß', again)).not.toBe(post?.headers['x-descope-webhook-s256']);
  });

  test('over the JSON written again: the raw bytes do not verify', async () => {
    const { directory, delivery, delivered } = await setUp({
      hmacSecret: 'key',
      signOver: 'stringified',
    });
    directory.createUser();
    await delivery.idle();
    const [post] = delivered;
    const signature = post?.headers['x-descope-webhook-s256'];
    expect(signature).toBe(hmac('key', JSON.stringify(JSON.parse(post?.body ?? ''))));
    expect(signature).not.toBe(hmac('key', post?.body ?? ''));
  });

  test('the other authentications are sent as configured', async () => {
    const { directory, delivery, delivered } = await setUp({
      bearer: 'token',
      apiKey: { name: 'X-Api-Key', value: 'key' },
    });
    directory.createUser();
    await delivery.idle();
    expect(delivered[0]?.headers).toMatchObject({
      authorization: 'Bearer token',
      'x-api-key': 'key',
    });
    expect(delivered[0]?.headers).not.toHaveProperty('x-descope-webhook-s256');
  });
});

describe('envelopes', () => {
  test.each(ENVELOPES.filter((name) => name !== 'dataOnly' && name !== 'mixed'))(
    '%s carries every event, whole batches where the form allows',
    async (envelope) => {
      const { directory, delivery, delivered } = await setUp({ envelope });
      const ids = directory.createMany(6).map((user) => user.userId);
      await delivery.idle();
      const text = delivered.map(({ body }) => body).join('\n');
      for (const userId of ids) expect(text).toContain(userId);
      const oneByOne = ['single', 'snake', 'nested'].includes(envelope);
      expect(delivered).toHaveLength(oneByOne ? 6 : 1);
    },
  );

  test('an array is form A: a number for the time, no id, null for no tenants', async () => {
    const { directory, delivery, delivered } = await setUp();
    const { userId } = directory.createUser({ userTenants: [] });
    await delivery.idle();
    const [event] = eventsOf(delivered);
    expect(event).toMatchObject({ userId, action: 'UserCreated', tenants: null });
    expect(event?.occurred).toBe(directory.audit.all()[0]?.occurredMs);
    expect(event).not.toHaveProperty('ID');
  });

  test.each([
    ['dataUserIds', (ids: string[]) => ({ data: { userIds: ids } })],
    ['dataUsers', (ids: string[]) => ({ data: { users: ids.map((userId) => ({ userId })) } })],
    ['userIds', (ids: string[]) => ({ userIds: ids })],
    ['none', () => ({ userId: '' })],
  ] as const)('an event about several users has its ids in %s', async (pluralIds, expected) => {
    const { directory, delivery, delivered } = await setUp({}, { behaviour: { pluralIds } });
    const ids = directory.createBatch(3).map((user) => user.userId);
    await delivery.idle();
    expect(eventsOf(delivered)).toMatchObject([{ action: 'UsersCreated', ...expected(ids) }]);
    expect((delivered[0]?.body ?? '').includes(ids[0] ?? '')).toBe(pluralIds !== 'none');
  });

  test('mixed takes the forms in turn', async () => {
    const { directory, delivery, delivered } = await setUp({ envelope: 'mixed', batchMax: 2 });
    const ids = directory.createMany(30).map((user) => user.userId);
    await delivery.idle();
    const text = delivered.map(({ body }) => body).join('\n');
    for (const userId of ids) expect(text).toContain(userId);
    expect(text).toContain('"action":"User Created"');
    expect(text).toContain('"actor_id"');
    expect(text).toContain('{"events":[');
  });
});

describe('an unreliable connector', () => {
  test('loses and doubles the same events for the same seed', async () => {
    const deliveredOf = async (seed: number): Promise<string[]> => {
      const { directory, delivery, delivered } = await setUp(
        { policy: { dropRate: 0.3, doubleRate: 0.2 } },
        { seed },
      );
      directory.createMany(200);
      await delivery.idle();
      expect(delivery.counters.offered).toBe(200);
      expect(delivery.counters.dropped).toBeGreaterThan(30);
      expect(delivery.counters.doubled).toBeGreaterThan(10);
      const ids = eventsOf(delivered).map((event) => event.userId);
      expect(ids).toHaveLength(200 - delivery.counters.dropped + delivery.counters.doubled);
      return ids.toSorted();
    };
    const first = await deliveredOf(9);
    expect(await deliveredOf(9)).toEqual(first);
    expect(await deliveredOf(10)).not.toEqual(first);
  });

  test('lets later events pass earlier ones, and loses none by it', async () => {
    const { directory, delivery, delivered } = await setUp({ policy: { reorderRate: 0.4 } });
    const ids = directory.createMany(50).map((user) => user.userId);
    await delivery.idle();
    const seen = eventsOf(delivered).map((event) => event.userId);
    expect(delivery.counters.reordered).toBeGreaterThan(5);
    expect(seen).not.toEqual(ids);
    expect(seen.toSorted()).toEqual(ids.toSorted());
  });

  test('delivers the last event too when it is one to be passed and nothing comes', async () => {
    const { directory, delivery, delivered } = await setUp({ policy: { reorderRate: 1 } });
    directory.createUser();
    await delivery.idle();
    expect(eventsOf(delivered)).toHaveLength(1);
  });

  test('a refused delivery is final unless retries are asked for', async () => {
    const statusOf = (turn: number): number => (turn === 1 ? 503 : 202);
    const once = await setUp({}, { statusOf });
    once.directory.createUser();
    await once.delivery.idle();
    expect(once.delivery.counters).toMatchObject({ posts: 1, acked: 0, refused: 1 });
    const twice = await setUp({ policy: { retries: 1 } }, { statusOf });
    twice.directory.createUser();
    await twice.delivery.idle();
    expect(twice.delivery.counters).toMatchObject({ posts: 2, acked: 1, refused: 0, retried: 1 });
  });

  test('drops what exceeds its throttle', async () => {
    const { directory, delivery, delivered } = await setUp({ policy: { throttlePerMinute: 5 } });
    directory.createMany(12);
    await delivery.idle();
    expect(eventsOf(delivered)).toHaveLength(5);
    expect(delivery.counters.dropped).toBe(7);
  });

  test('keeps what happens while paused', async () => {
    const { directory, delivery, delivered } = await setUp({ policy: { delayMs: [1, 5] } });
    delivery.pause();
    directory.createMany(3);
    expect(delivery.pending).toBe(3);
    expect(delivered).toEqual([]);
    delivery.resume();
    await delivery.idle();
    expect(eventsOf(delivered)).toHaveLength(3);
  });

  test('a batch holds no more than batchMax, and nothing is delivered nowhere', async () => {
    const { directory, delivery, delivered } = await setUp({ batchMax: 4 });
    directory.createMany(10);
    await delivery.idle();
    expect(eventsOf(delivered)).toHaveLength(10);
    expect(Math.max(...delivered.map(({ body }) => (JSON.parse(body) as Event[]).length))).toBe(4);
    delivery.configure(undefined);
    directory.createUser();
    await delivery.idle();
    expect(delivery.counters.offered).toBe(10);
  });
});
