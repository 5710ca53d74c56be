import { createServer, type IncomingMessage } from 'node:http';

import type { AddressInfo } from 'node:net';

/** In front of a simulated Descope: refuses (400) whatever asks for one of these users, passes on the rest. */
export interface RefusingDescope {
  readonly url: string;
  readonly refused: Set<string>;
  stop(): Promise<void>;
}

export async function startRefusingDescope(simulatorUrl: string): Promise<RefusingDescope> {
  const refused = new Set<string>();
  const server = createServer((request, response) => {
    void (async () => {
      const body = await readText(request);
      const asked = `${request.url ?? ''}\n${body}`;
      if ([...refused].some((userId) => asked.includes(userId))) {
        response.writeHead(400, { 'content-type': 'application/json' });
        response.end(JSON.stringify({ errorCode: 'E011002', errorDescription: 'Invalid request' }));
        return;
      }
      const answer = await fetch(new URL(request.url ?? '/', simulatorUrl), {
        method: request.method ?? 'GET',
        headers: {
          authorization: request.headers.authorization ?? '',
          'content-type': 'application/json',
        },
        ...(body === '' ? {} : { body }),
      });
      response.writeHead(answer.status, { 'content-type': 'application/json' });
      response.end(await answer.text());
    })().catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    refused,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}

async function readText(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}
