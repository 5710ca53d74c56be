import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

import { Redis } from 'ioredis';

export interface RedisServer {
  readonly url: string;
  /** What its command INFO says under a heading such as `stats`. */
  info(heading: string): Promise<string>;
  stop(): Promise<void>;
}

/** A TCP port nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/**
 * Starts a Redis of its own, without persistence, for a test that flushes or stops it, or (once) for
 * the whole run. Null where no `redis-server` is installed.
 */
export async function startRedisServer(port?: number): Promise<RedisServer | null> {
  const chosen = port ?? (await freePort());
  const child = spawn(
    'redis-server',
    ['--port', String(chosen), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'],
    { stdio: 'ignore' },
  );
  let state: 'running' | 'missing' | 'ended' = 'running';
  child.on('error', () => {
    state = 'missing';
  });
  child.on('exit', () => {
    if (state === 'running') state = 'ended';
  });
  const current = () => state;
  const deadlineMs = Date.now() + 10_000;
  while (!(await answersPing(chosen))) {
    if (current() === 'missing') return null;
    if (current() === 'ended' || Date.now() > deadlineMs)
      throw new Error('redis-server did not start');
    await delay(20);
  }
  return {
    url: `redis://127.0.0.1:${chosen}`,
    async info(heading) {
      const redis = new Redis(chosen, { maxRetriesPerRequest: 0 });
      redis.on('error', () => undefined);
      try {
        return await redis.info(heading);
      } finally {
        redis.disconnect();
      }
    },
    async stop() {
      if (current() !== 'running') return;
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port }, () => socket.write('PING\r\n'));
    socket.setTimeout(1_000, () => socket.destroy());
    socket.once('data', (answer) => {
      resolve(answer.toString().startsWith('+PONG'));
      socket.destroy();
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      resolve(false);
    });
  });
}
