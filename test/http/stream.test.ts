import { createServer } from 'node:http';

import express from 'express';
import { describe, expect, it, onTestFinished } from 'vitest';

import { startAdminServer } from '../../src/http/admin.ts';
import { createStatusStream } from '../../src/http/stream.ts';
import { createStatusReader } from '../../src/readers/status.ts';
import { createTestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { listenLocally } from '../support/listenLocally.ts';

import type { StatusView } from '../../src/readers/statusView.ts';

interface StreamScene {
  readonly url: string;
  /** How often the status was read. */
  readonly reads: () => number;
  /** From now on reading fails, or works again. */
  readonly fail: (fails: boolean) => void;
  readonly stop: () => Promise<void>;
}

async function begin(): Promise<StreamScene> {
  const database = await createTestDatabase();
  onTestFinished(() => database.drop());
  const read = createStatusReader(database.mirror);
  let reads = 0;
  let fails = false;
  const readStatus = async (): Promise<StatusView> => {
    reads++;
    if (fails) throw new Error('no database');
    return read();
  };
  const server = await startAdminServer({
    host: '127.0.0.1',
    port: 0,
    token: undefined,
    readStatus,
    readRecentChanges: () => Promise.resolve([]),
    metrics: () => Promise.resolve(''),
  });
  onTestFinished(() => server.stop());
  return {
    url: `http://127.0.0.1:${server.port}`,
    reads: () => reads,
    fail: (now) => {
      fails = now;
    },
    stop: () => server.stop(),
  };
}

interface Stream {
  readonly response: Response;
  /** The next event; undefined where the stream ended. */
  next(): Promise<{ event: string; data: Record<string, unknown> } | undefined>;
  leave(): void;
}

async function open(url: string): Promise<Stream> {
  const leaving = new AbortController();
  onTestFinished(() => {
    leaving.abort();
  });
  const response = await fetch(`${url}/api/stream`, { signal: leaving.signal });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  return {
    response,
    async next() {
      while (!text.includes('\n\n')) {
        const read = await reader?.read();
        if (!read || read.done) return undefined;
        text += read.value;
      }
      const end = text.indexOf('\n\n');
      const lines = text.slice(0, end).split('\n');
      text = text.slice(end + 2);
      const field = (name: string) =>
        lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? '';
      return { event: field('event'), data: JSON.parse(field('data')) as Record<string, unknown> };
    },
    leave: () => {
      leaving.abort();
    },
  };
}

describe('/api/stream', () => {
  it('is the status at once and then every two seconds', async () => {
    const { url } = await begin();
    const stream = await open(url);
    expect(stream.response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(stream.response.headers.get('cache-control')).toBe('no-store');
    const startMs = performance.now();
    const first = await stream.next();
    expect(performance.now() - startMs).toBeLessThan(1_500);
    const answered = (await (await fetch(`${url}/api/status`)).json()) as object;
    expect(first?.event).toBe('status');
    expect(Object.keys(first?.data ?? {})).toEqual(Object.keys(answered));
    expect(await stream.next()).toMatchObject({ event: 'status', data: { recentChanges: [] } });
    expect(performance.now() - startMs).toBeGreaterThan(1_500);
  });

  it('tells who comes after everybody left what is so then', async () => {
    const asked: ((sentence: string) => void)[] = [];
    const stream = createStatusStream({
      read: () =>
        new Promise((resolve) => {
          asked.push((sentence) => {
            resolve({ sentence });
          });
        }),
    });
    let left = 0;
    const app = express();
    app.use((_request, response, next) => {
      response.on('close', () => left++);
      next();
    });
    const server = await listenLocally(createServer(app.use(stream.router)));
    onTestFinished(async () => {
      stream.stop();
      await server.stop();
    });
    const first = await open(server.url);
    first.leave();
    await eventually(() => {
      expect([asked.length, left]).toEqual([1, 1]);
    });
    const second = await open(server.url);
    asked[0]?.('then');
    await eventually(() => {
      expect(asked).toHaveLength(2);
    });
    asked[1]?.('now');
    expect(await second.next()).toMatchObject({ data: { sentence: 'now' } });
  });

  it('costs one reading however many pages are open', async () => {
    const { url, reads } = await begin();
    const streams = await Promise.all(Array.from({ length: 10 }, () => open(url)));
    for (let round = 0; round < 2; round++) {
      const events = await Promise.all(streams.map((stream) => stream.next()));
      expect(events.map((one) => one?.event)).toEqual(streams.map(() => 'status'));
    }
    // One at once and one after two seconds; who came between got what was there.
    expect(reads()).toBeLessThanOrEqual(3);
  });

  it('says when the status cannot be read, and goes on once it can', async () => {
    const { url, fail } = await begin();
    fail(true);
    const stream = await open(url);
    expect(await stream.next()).toEqual({
      event: 'unavailable',
      data: { error: 'the status cannot be read' },
    });
    fail(false);
    expect(await stream.next()).toMatchObject({ event: 'status' });
  });

  it('is for a hundred pages at most; who leaves makes room', async () => {
    const { url } = await begin();
    const streams = await Promise.all(Array.from({ length: 100 }, () => open(url)));
    const refused = await fetch(`${url}/api/stream`);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await refused.json()).toEqual({ error: '100 pages are open already' });
    streams[0]?.leave();
    await eventually(async () => {
      const stream = await open(url);
      expect((await stream.next())?.event).toBe('status');
    });
  });

  it('ends with the server, which does not wait for it', async () => {
    const { url, stop } = await begin();
    const streams = await Promise.all([open(url), open(url)]);
    for (const stream of streams) await stream.next();
    const startMs = performance.now();
    await stop();
    expect(performance.now() - startMs).toBeLessThan(5_000);
    for (const stream of streams) expect(await stream.next()).toBeUndefined();
  });
});
