import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';

import { listenLocally } from '../support/listenLocally.ts';

/** One request as the scripted Descope saw it. */
export interface Seen {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Record<string, unknown>;
}

/** What to answer: JSON where `body` is an object, the text itself where it is one. */
export interface Scripted {
  readonly status?: number;
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
  /** Instead of all that. */
  readonly raw?: (response: ServerResponse) => void;
}

export type Script = (seen: Seen) => Scripted;

/** A server that answers by script and remembers what it was asked; the licence request apart. */
export async function startScriptedServer() {
  const seen: Seen[] = [];
  const licences: Seen[] = [];
  let script: Script = () => ({ body: {} });
  let licence: Script = () => ({ body: { rateLimitTier: 'tier3' } });
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const text = Buffer.concat(chunks).toString();
      const asked: Seen = {
        path: request.url ?? '',
        headers: request.headers,
        body: (text === '' ? {} : JSON.parse(text)) as Record<string, unknown>,
      };
      const isLicence = asked.path === '/v1/mgmt/license';
      (isLicence ? licences : seen).push(asked);
      const { status = 200, headers = {}, body, raw } = (isLicence ? licence : script)(asked);
      if (raw) {
        raw(response);
        return;
      }
      response.writeHead(status, { 'content-type': 'application/json', ...headers });
      response.end(typeof body === 'string' ? body : JSON.stringify(body));
    });
  });
  return {
    ...(await listenLocally(server)),
    seen,
    licences,
    answer(next: Script): void {
      seen.length = 0;
      script = next;
    },
    answerLicence(next: Script): void {
      licence = next;
    },
  };
}

export type ScriptedServer = Awaited<ReturnType<typeof startScriptedServer>>;
