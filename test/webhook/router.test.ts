import { createHmac } from 'node:crypto';
import { gzipSync } from 'node:zlib';

import { afterEach, describe, expect, test } from 'vitest';

import { createHealth } from '../../src/http/health.ts';
import { startPublicServer } from '../../src/http/public.ts';
import { createReleaseStack } from '../../src/release.ts';
import { SIGNATURE_HEADER } from '../../src/webhook/authenticate.ts';
import {
  createWebhookRouter,
  type DeliveryOutcome,
  type WebhookDeps,
} from '../../src/webhook/router.ts';
import { eventually } from '../support/eventually.ts';

import type { DirectoryEvent } from '../../src/inbox/event.ts';

const SECRET = 'secret';
const BODY = JSON.stringify([{ action: 'UserCreated', userId: 'U1', occurred: 1780949905871 }]);
let releases = createReleaseStack();

afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

/** A door with an inbox that remembers what it was given. */
async function openDoor(overrides: Partial<WebhookDeps> = {}) {
  const recorded: DirectoryEvent[] = [];
  const enqueued: string[][] = [];
  const outcomes: DeliveryOutcome[] = [];
  const router = createWebhookRouter({
    authentication: {
      hmacSecrets: [SECRET],
      bearerTokens: [],
      basic: null,
      apiKey: null,
      allowUnauthenticated: false,
    },
    projectId: 'P1',
    inbox: {
      record(events) {
        recorded.push(...events);
        const accepted = events.map((event) => event.eventId);
        return Promise.resolve({ accepted, archived: 0, duplicates: 0, ignored: 0 });
      },
    },
    enqueue(eventIds) {
      enqueued.push([...eventIds]);
      return Promise.resolve();
    },
    onDelivery: (outcome) => outcomes.push(outcome),
    ...overrides,
  });
  const server = await startPublicServer({
    port: 0,
    host: '127.0.0.1',
    router,
    health: createHealth(),
  });
  releases.push('server', () => server.stop());
  const url = `http://127.0.0.1:${server.port}/webhooks/descope`;
  return { url, recorded, enqueued, outcomes };
}

function deliver(url: string, body: string | Buffer, headers: Record<string, string> = {}) {
  const signature = createHmac('sha256', SECRET).update(body).digest('base64');
  return fetch(url, {
    method: 'POST',
    body: new Uint8Array(Buffer.from(body)),
    headers: { 'content-type': 'application/json', [SIGNATURE_HEADER]: signature, ...headers },
  });
}

describe('a good delivery', () => {
  test('is committed, enqueued and answered 202 with counts', async () => {
    const door = await openDoor();

    const response = await deliver(door.url, BODY);

    expect(response.status).toBe(202);
    expect(await response.json()).toEqual({ accepted: 1, duplicates: 0, ignored: 0 });
    expect(door.recorded).toMatchObject([{ kind: 'created', userIds: ['U1'] }]);
    expect(door.enqueued).toEqual([door.recorded.map((event) => event.eventId)]);
    expect(door.outcomes).toMatchObject([{ status: 202, accepted: 1, queued: 'yes' }]);
  });

  test.each(['text/plain', 'application/x-www-form-urlencoded', 'nonsense'])(
    'is read whatever it calls itself: %s',
    async (type) => {
      const door = await openDoor();
      expect((await deliver(door.url, BODY, { 'content-type': type })).status).toBe(202);
      expect(door.recorded).toHaveLength(1);
    },
  );

  test('may be compressed', async () => {
    const door = await openDoor();
    const signature = createHmac('sha256', SECRET).update(BODY).digest('base64');
    const response = await deliver(door.url, gzipSync(BODY), {
      'content-encoding': 'gzip',
      [SIGNATURE_HEADER]: signature,
    });
    expect(response.status).toBe(202);
  });

  test('that is a test call is answered 202 and enqueues nothing', async () => {
    const door = await openDoor();
    const response = await deliver(door.url, '{"type":"test"}');
    expect(response.status).toBe(202);
    expect(await response.json()).toEqual({ accepted: 0, duplicates: 0, ignored: 1 });
    expect(door.enqueued).toEqual([]);
  });

  test('enqueues only what the inbox did not know', async () => {
    const inbox: WebhookDeps['inbox'] = {
      record: () => Promise.resolve({ accepted: [], archived: 1, duplicates: 2, ignored: 3 }),
    };
    const door = await openDoor({ inbox });
    const response = await deliver(door.url, BODY);
    expect(await response.json()).toEqual({ accepted: 1, duplicates: 2, ignored: 3 });
    expect(door.enqueued).toEqual([]);
  });
});

describe('the queue', () => {
  test('may fail: the delivery is answered 202 all the same (G7)', async () => {
    const door = await openDoor({ enqueue: () => Promise.reject(new Error('no queue')) });
    expect((await deliver(door.url, BODY)).status).toBe(202);
    await eventually(() => {
      expect(door.outcomes).toMatchObject([{ status: 202, queued: 'failed' }]);
    });
  });

  test('may throw at once', async () => {
    const door = await openDoor({
      enqueue: () => {
        throw new Error('no queue');
      },
    });
    expect((await deliver(door.url, BODY)).status).toBe(202);
  });

  test('is not waited for: the delivery is answered once it is committed', async () => {
    const asked: (() => void)[] = [];
    const enqueue = () => new Promise<void>((resolve) => asked.push(resolve));
    const door = await openDoor({ enqueue, enqueueDeadlineMs: 60_000 });

    expect((await deliver(door.url, BODY)).status).toBe(202);
    expect(asked).toHaveLength(1);
    expect(door.outcomes).toEqual([]);
    for (const answer of asked) answer();
    await eventually(() => {
      expect(door.outcomes).toMatchObject([{ status: 202, queued: 'yes' }]);
    });
  });

  test('may hang: that is reported after the deadline', async () => {
    const enqueue = () => new Promise<void>(() => undefined);
    const door = await openDoor({ enqueue, enqueueDeadlineMs: 50 });
    expect((await deliver(door.url, BODY)).status).toBe(202);
    await eventually(() => {
      expect(door.outcomes).toMatchObject([{ status: 202, queued: 'late' }]);
    });
  });
});

describe('a refused delivery', () => {
  test('without a good signature is answered 401 and reaches nothing (G9)', async () => {
    const door = await openDoor();
    const response = await deliver(door.url, BODY, { [SIGNATURE_HEADER]: 'wrong' });
    expect(response.status).toBe(401);
    expect(door).toMatchObject({ recorded: [], enqueued: [], outcomes: [{ status: 401 }] });
  });

  test('without authentication is not told what is wrong with its body', async () => {
    const door = await openDoor();
    expect((await deliver(door.url, 'junk', { [SIGNATURE_HEADER]: 'wrong' })).status).toBe(401);
  });

  test.each(['junk', '', '5', '{"foo":1}'])('with a body %j is answered 400', async (body) => {
    const door = await openDoor();
    const response = await deliver(door.url, body);
    expect(response.status).toBe(400);
    expect(await response.json()).toEqual({ error: expect.any(String) as string });
    expect(door).toMatchObject({ recorded: [], enqueued: [] });
  });

  test('above 1 MiB is answered 413', async () => {
    const door = await openDoor();
    const response = await deliver(door.url, `["${'x'.repeat(1024 * 1024)}"]`);
    expect(response.status).toBe(413);
    expect(await response.json()).toEqual({ error: 'the body is larger than 1 MiB' });
    expect(door.recorded).toEqual([]);
  });

  test('that grows above 1 MiB when unpacked is answered 413', async () => {
    const door = await openDoor();
    const packed = gzipSync(`["${'x'.repeat(1024 * 1024)}"]`);
    const response = await deliver(door.url, packed, { 'content-encoding': 'gzip' });
    expect(response.status).toBe(413);
  });

  test('of exactly 1 MiB is read', async () => {
    const door = await openDoor();
    const padding = ' '.repeat(1024 * 1024 - BODY.length);
    expect((await deliver(door.url, BODY + padding)).status).toBe(202);
  });

  test('that the inbox cannot store is answered 503 with Retry-After (G1)', async () => {
    const door = await openDoor({
      inbox: { record: () => Promise.reject(new Error('no database')) },
    });
    const response = await deliver(door.url, BODY);
    expect(response.status).toBe(503);
    expect(response.headers.get('retry-after')).toBe('5');
    expect(door.enqueued).toEqual([]);
  });

  test.each(['GET', 'PUT', 'DELETE'])('by %s is answered 405', async (method) => {
    const door = await openDoor();
    const response = await fetch(door.url, { method });
    expect(response.status).toBe(405);
    expect(response.headers.get('allow')).toBe('POST');
  });
});
