import { createConnection, type Socket } from 'node:net';

import { quantile } from './measure.ts';

/*
 * Posts prepared requests over connections it keeps. Plain sockets: an HTTP client would use up the
 * processor that the measured service needs.
 */

export interface Sending {
  readonly connections: number;
  /** As fast as they are answered where absent; else each at its own moment, whatever the answers do. */
  readonly perSecond?: number;
  /** Nothing new after this long; all of them where absent. */
  readonly seconds?: number;
}

export interface Sent {
  /** Answered 2xx. */
  readonly accepted: number;
  readonly refused: number;
  /** From the first request to the last answer. */
  readonly seconds: number;
  /** Epoch ms. */
  readonly startedMs: number;
  readonly endedMs: number;
  /** From the moment a request was due to the end of its answer. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** The bytes of a request. */
export function toRequest(
  path: string,
  body: string,
  headers: Readonly<Record<string, string>>,
): Buffer {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const head = `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
  const length = `content-length: ${Buffer.byteLength(body)}\r\n\r\n`;
  return Buffer.from(`${head}${lines.join('')}${length}${body}`);
}

interface Connection {
  readonly socket: Socket;
  dueMs: number;
  answer: string;
}

/** @throws Error where a connection ends while an answer is owed */
export async function send(
  port: number,
  requests: readonly Buffer[],
  sending: Sending,
): Promise<Sent> {
  const idle = await Promise.all(Array.from({ length: sending.connections }, () => open(port)));
  const all = [...idle];
  try {
    return await new Promise((resolve, reject) => {
      exchange(requests, sending, idle, resolve, reject);
    });
  } finally {
    for (const { socket } of all) socket.destroy();
  }
}

function open(port: number): Promise<Connection> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ port, host: '127.0.0.1', noDelay: true }, () => {
      resolve({ socket, dueMs: 0, answer: '' });
    });
    socket.setEncoding('latin1');
    socket.once('error', reject);
  });
}

function exchange(
  requests: readonly Buffer[],
  { perSecond, seconds = Infinity }: Sending,
  idle: Connection[],
  resolve: (sent: Sent) => void,
  reject: (error: Error) => void,
): void {
  const startedMs = performance.now();
  const startedAtMs = Date.now();
  const endMs = startedMs + seconds * 1000;
  const latencies: number[] = [];
  const connections = idle.length;
  let next = 0;
  let refused = 0;

  const dueOf = (at: number, nowMs: number) =>
    perSecond === undefined ? nowMs : startedMs + (at * 1000) / perSecond;

  const pump = () => {
    const nowMs = performance.now();
    for (;;) {
      const request = requests[next];
      const dueMs = dueOf(next, nowMs);
      if (!request || dueMs > nowMs || dueMs >= endMs) break;
      const connection = idle.pop();
      if (!connection) return;
      next++;
      connection.dueMs = dueMs;
      connection.socket.write(request);
    }
    const isOver = next >= requests.length || dueOf(next, nowMs) >= endMs;
    if (isOver && idle.length === connections) finish();
  };

  const finish = () => {
    clearInterval(timer);
    const endedMs = performance.now();
    latencies.sort((a, b) => a - b);
    resolve({
      accepted: latencies.length - refused,
      refused,
      seconds: (endedMs - startedMs) / 1000,
      startedMs: startedAtMs,
      endedMs: startedAtMs + endedMs - startedMs,
      p50Ms: quantile(latencies, 0.5),
      p99Ms: quantile(latencies, 0.99),
    });
  };

  for (const connection of [...idle]) {
    const { socket } = connection;
    socket.on('data', (text) => {
      connection.answer += String(text);
      const status = statusOf(connection.answer);
      if (status === undefined) return;
      connection.answer = '';
      latencies.push(performance.now() - connection.dueMs);
      if (status < 200 || status > 299) refused++;
      idle.push(connection);
      pump();
    });
    socket.on('close', () => {
      reject(new Error('the service closed a connection'));
    });
  }
  const timer = setInterval(pump, 1);
  pump();
}

/** The status of a complete answer; undefined while some of it is still to come. */
function statusOf(answer: string): number | undefined {
  const end = answer.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(answer)?.[1] ?? 0);
  return answer.length < end + 4 + length ? undefined : Number(answer.slice(9, 12));
}
