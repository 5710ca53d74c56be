import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';

import { listenLocally } from '../support/listenLocally.ts';

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
      const body = await text(request);
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
  return { ...(await listenLocally(server)), refused };
}
