import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer, type Server } from 'node:http';

import type { AddressInfo } from 'node:net';

/** A message as a receiver took it. */
export interface Received {
  readonly webhookId: string;
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>> & {
    readonly userId: string;
    readonly kind: string;
    readonly cursor: string;
  };
}

/** A receiver on a port of its own, that can be away: then the socket refuses. */
export interface Receiver {
  readonly url: string;
  /** Every message that was taken, repeats too. */
  readonly received: Received[];
  /** Requests that came, taken or not. */
  requests(): number;
  /** What it answers from now on, by message; 204 where absent. */
  answer: (message: Received) => { status: number; headers?: Record<string, string> };
  down(): Promise<void>;
  up(): Promise<void>;
}

export const SECRET = `whsec_${Buffer.from('a secret of twenty-four!').toString('base64')}`;

/** Checks each signature the long way, as Standard Webhooks describes it, and answers 401 where it is wrong. */
export async function startReceiver(secret = SECRET): Promise<Receiver> {
  let server: Server | undefined;
  let port = 0;
  let requests = 0;
  const listen = async () => {
    const next = createServer((request, response) => {
      requests++;
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const body = Buffer.concat(chunks).toString();
        const header = (name: string) => String(request.headers[name] ?? '');
        const webhookId = header('webhook-id');
        const signed = `${webhookId}.${header('webhook-timestamp')}.${body}`;
        if (!isSigned(secret, signed, header('webhook-signature'))) {
          response.writeHead(401).end();
          return;
        }
        const parsed = JSON.parse(body) as Omit<Received, 'webhookId'>;
        const message = { webhookId, ...parsed };
        const { status, headers = {} } = receiver.answer(message);
        if (status >= 200 && status < 300) receiver.received.push(message);
        response.writeHead(status, headers).end();
      });
    });
    await new Promise<void>((resolve) => next.listen(port, '127.0.0.1', resolve));
    port = (next.address() as AddressInfo).port;
    server = next;
  };
  const receiver: Receiver = {
    get url() {
      return `http://127.0.0.1:${port}/hook?token=not-to-be-shown`;
    },
    received: [],
    requests: () => requests,
    answer: () => ({ status: 204 }),
    async down() {
      const closing = server;
      server = undefined;
      if (!closing) return;
      const closed = new Promise((resolve) => closing.close(resolve));
      closing.closeAllConnections();
      await closed;
    },
    up: listen,
  };
  await listen();
  return receiver;
}

function isSigned(secret: string, signed: string, header: string): boolean {
  const key = Buffer.from(secret.replace('whsec_', ''), 'base64');
  const expected = createHmac('sha256', key).update(signed).digest();
  return header.split(' ').some((one) => {
    const [version, signature = ''] = one.split(',');
    const given = Buffer.from(signature, 'base64');
    return version === 'v1' && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

/** Each message once, in the order in which it first came. */
export function withoutRepeats(received: readonly Received[]): Received[] {
  const seen = new Set<string>();
  return received.filter(({ webhookId }) => seen.size !== seen.add(webhookId).size);
}
