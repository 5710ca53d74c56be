import { Router } from 'express';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';

import { UsageError } from '../../src/errors.ts';
import { createHealth, type Health } from '../../src/http/health.ts';
import { startPublicServer } from '../../src/http/public.ts';
import { createReleaseStack } from '../../src/release.ts';

import type { IncomingMessage } from 'node:http';

let releases = createReleaseStack();

afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

async function start(health: Health = createHealth(), router: Router = Router()) {
  const errors: unknown[] = [];
  const server = await startPublicServer({
    port: 0,
    host: '127.0.0.1',
    router,
    health,
    onError: (error) => errors.push(error),
  });
  releases.push('server', () => server.stop());
  return { server, errors, url: `http://127.0.0.1:${server.port}` };
}

const never = () => new Promise<void>(() => undefined);

describe('/livez and /readyz', () => {
  test('both are well where nothing is registered', async () => {
    const { url } = await start();
    expect((await fetch(`${url}/livez`)).status).toBe(200);
    const ready = await fetch(`${url}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([200, { ready: true }]);
  });

  test('readiness names each failing dependency, liveness asks none', async () => {
    const health = createHealth({ deadlineMs: 50 });
    health.register('postgres', () => Promise.reject(new Error('no connection\nselect 1')));
    health.register('redis', never);
    health.register('descope', () => Promise.resolve());
    health.register('other', () => {
      throw Object.assign(new AggregateError([]), { code: 'ECONNREFUSED' });
    });
    const { url } = await start(health);

    const ready = await fetch(`${url}/readyz`);

    expect(ready.status).toBe(503);
    expect(await ready.json()).toEqual({
      ready: false,
      failing: [
        { dependency: 'postgres', reason: 'no connection' },
        { dependency: 'redis', reason: 'no answer within 50 ms' },
        { dependency: 'other', reason: 'ECONNREFUSED' },
      ],
    });
    expect((await fetch(`${url}/livez`)).status).toBe(200);
  });

  test('a dependency that recovers is ready again', async () => {
    const health = createHealth();
    let isWell = false;
    health.register('postgres', () =>
      isWell ? Promise.resolve() : Promise.reject(new Error('x')),
    );
    const { url } = await start(health);
    expect((await fetch(`${url}/readyz`)).status).toBe(503);
    isWell = true;
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
  });

  test('a dependency that is not needed is named, and the process stays ready', async () => {
    const health = createHealth();
    let hasPostgres = true;
    health.register('redis', () => Promise.reject(new Error('x')), { needed: false });
    health.register('postgres', () =>
      hasPostgres ? Promise.resolve() : Promise.reject(new Error('x')),
    );
    const { url } = await start(health);
    const without = await fetch(`${url}/readyz`);
    expect([without.status, await without.json()]).toEqual([
      200,
      { ready: true, failing: [{ dependency: 'redis', reason: 'x' }] },
    ]);
    hasPostgres = false;
    const withoutBoth = await fetch(`${url}/readyz`);
    expect([withoutBoth.status, await withoutBoth.json()]).toMatchObject([
      503,
      { ready: false, failing: [{ dependency: 'redis' }, { dependency: 'postgres' }] },
    ]);
  });

  test('a process that is stopping is not ready at once, though all is well', async () => {
    const health = createHealth();
    health.register('postgres', never);
    const { url } = await start(health);
    health.markStopping();
    const ready = await fetch(`${url}/readyz`);
    expect(ready.status).toBe(503);
    expect(await ready.json()).toMatchObject({ failing: [{ dependency: 'process' }] });
  });
});

describe('the public server', () => {
  test('answers unknown pages 404 in JSON, and does not say what it is made of', async () => {
    const { url } = await start();
    const response = await fetch(`${url}/api/status`);
    expect(response.status).toBe(404);
    expect(await response.json()).toEqual({ error: 'no such page' });
    expect(response.headers.get('x-powered-by')).toBeNull();
    expect(response.headers.get('content-security-policy')).not.toBeNull();
  });

  test('answers 500 without a word about what happened', async () => {
    const router = Router().get('/broken', () => {
      throw new Error('secret detail');
    });
    const { url, errors } = await start(createHealth(), router);
    const response = await fetch(`${url}/broken`);
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain('secret');
    expect(errors).toHaveLength(1);
  });

  test('answers a malformed address as the mistake of who sent it', async () => {
    const { url, errors } = await start(
      createHealth(),
      Router().get('/:id', () => undefined),
    );
    expect((await fetch(`${url}/%E0%A4%A`)).status).toBe(400);
    expect(errors).toEqual([]);
  });

  test('lets an answer under way finish when it stops, then closes its connection', async () => {
    let finish: () => void = () => undefined;
    let begin: () => void = () => undefined;
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const router = Router().get('/slow', (_request, response) => {
      finish = () => response.end('done');
      begin();
    });
    const { server, url } = await start(createHealth(), router);
    const agent = new Agent({ keepAlive: true });
    const asked = request(`${url}/slow`, { agent });
    const answered = once(asked, 'response') as Promise<[IncomingMessage]>;
    asked.end();
    await begun;

    const stopped = server.stop();
    finish();

    const [response] = await answered;
    expect(response.statusCode).toBe(200);
    response.resume();
    await stopped;
    await server.stop();
    await expect(fetch(`${url}/livez`)).rejects.toThrow();
    agent.destroy();
  });

  test('does not wait for a connection that never asked anything', async () => {
    const { server } = await start();
    const socket = connect(server.port, '127.0.0.1');
    await once(socket, 'connect');
    const closed = once(socket, 'close');

    const startedMs = performance.now();
    await server.stop();

    await closed;
    expect(performance.now() - startedMs).toBeLessThan(5_000);
  });

  test('says which address it cannot have', async () => {
    const { server } = await start();
    const second = startPublicServer({
      port: server.port,
      host: '127.0.0.1',
      router: Router(),
      health: createHealth(),
    });
    await expect(second).rejects.toThrow(UsageError);
    await expect(second).rejects.toThrow(`127.0.0.1 ${server.port}`);
  });
});
