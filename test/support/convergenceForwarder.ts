import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';

import type { AddressInfo } from 'node:net';

/** Stands between Descope's webhooks and the service, and keeps what the service took. */
export interface Forwarder {
  readonly url: string;
  /** Where the service listens; undefined while it does not run. */
  port: number | undefined;
  /** Whether every delivery is cut off before it arrives. */
  isAway: boolean;
  /** Bodies that the service answered 2xx. */
  readonly acknowledged: readonly Buffer[];
  stop(): Promise<void>;
}

export async function startForwarder(): Promise<Forwarder> {
  const acknowledged: Buffer[] = [];
  const server = createServer((incoming, response) => {
    forward(incoming, response).catch(() => response.destroy());
  });

  async function forward(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    if (forwarder.isAway || forwarder.port === undefined) {
      response.destroy();
      return;
    }
    const status = await post(forwarder.port, incoming, body);
    if (status >= 200 && status < 300) acknowledged.push(body);
    response.writeHead(status).end();
  }

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const forwarder: Forwarder = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/webhooks/descope`,
    port: undefined,
    isAway: false,
    acknowledged,
    async stop() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
  return forwarder;
}

/** The answer's status; rejects where there is none. */
function post(port: number, { headers, url }: IncomingMessage, body: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { host: '127.0.0.1', port, path: url, method: 'POST', headers, agent: false },
      (answer) => {
        answer.resume();
        resolve(answer.statusCode ?? 0);
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
