import { AsyncResource } from 'node:async_hooks';
import { brotliCompressSync, gzipSync } from 'node:zlib';

import { afterEach, beforeEach, expect, it } from 'vitest';

import { createTransport } from '../../src/descope/fetch.ts';
import { DescopeUnavailable } from '../../src/errors.ts';
import { startScriptedServer, type ScriptedServer } from './server.ts';

import type { Instant } from '../../src/observation.ts';
import type { Budget } from '../../src/descope/budget.ts';

let server: ScriptedServer;
beforeEach(async () => {
  server = await startScriptedServer();
});
afterEach(() => server.stop());

const budget: Budget = {
  take: () => Promise.resolve('2026-01-01T00:00:00.000000Z' as Instant),
  silence: () => Promise.resolve(),
};

/** What a client of its own is answered at this path. */
async function askAt(path: string): Promise<string> {
  const transport = createTransport({
    requestTimeoutMs: 5_000,
    onRequest: () => undefined,
    ownBudget: budget,
  });
  const call = { priority: 'event', signal: new AbortController().signal } as const;
  const send = () => transport.fetch(`${server.url}${path}`);
  const { text } = await transport.ask('user load', budget, call, send);
  return text;
}

/** How many things every promise, timer and socket of this process is given to carry when it is made. */
function burden(): number {
  return Object.getOwnPropertySymbols(new AsyncResource('anything')).length;
}

it('leaves nothing behind that all later work of the process would carry', async () => {
  await askAt('/first');
  const afterOne = burden();
  for (const path of ['/second', '/third', '/fourth']) await askAt(path);
  expect(burden()).toBe(afterOne);
});

it('keeps the calls of several clients apart', async () => {
  server.answer(({ path }) => ({ body: path }));
  const paths = ['/first', '/second', '/third'];
  expect(await Promise.all(paths.map(askAt))).toEqual(paths);
});

/** Answers with these bytes, packed so. */
function answerPacked(encoding: string, bytes: Uint8Array): void {
  server.answer(() => ({
    raw: (response) => response.writeHead(200, { 'content-encoding': encoding }).end(bytes),
  }));
}

it('asks for packed answers, and unpacks them', async () => {
  const text = JSON.stringify({ name: 'Zoë 🙂'.repeat(100) });
  for (const [encoding, pack] of Object.entries({ gzip: gzipSync, br: brotliCompressSync })) {
    answerPacked(encoding, pack(text));
    expect(await askAt('/packed')).toBe(text);
    expect(server.seen[0]?.headers['accept-encoding']).toContain(encoding);
  }
});

it('takes an answer without a body for what its status says, however it would be packed', async () => {
  answerPacked('gzip', new Uint8Array());
  expect(await askAt('/empty')).toBe('');
});

it('says who asks', async () => {
  await askAt('/any');
  expect(server.seen[0]?.headers['user-agent']).toBe('rollcall');
});

it('takes more than 64 MiB for no answer, however small it was packed', async () => {
  answerPacked('gzip', gzipSync(Buffer.alloc(65 * 1024 * 1024)));
  await expect(askAt('/bomb')).rejects.toBeInstanceOf(DescopeUnavailable);
});

it('takes what cannot be unpacked for no answer', async () => {
  answerPacked('gzip', gzipSync('{"users":[]}').subarray(0, 15));
  await expect(askAt('/cut')).rejects.toBeInstanceOf(DescopeUnavailable);
});

it('follows no redirect', async () => {
  server.answer(({ path }) =>
    path === '/here' ? { status: 307, headers: { location: '/there' } } : {},
  );
  await askAt('/here');
  expect(server.seen.map(({ path }) => path)).toEqual(['/here']);
});
