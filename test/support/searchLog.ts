import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

import { listenLocally } from './listenLocally.ts';

/** A user search as it was on the wire; times in epoch ms. */
export interface LoggedSearch {
  readonly limit: number;
  readonly page: number;
  readonly sortedBy: string;
  /** Bounds of the creation time; undefined where the request has none. */
  readonly createdFrom: number | undefined;
  readonly createdTo: number | undefined;
}

/** Stands before the simulated Descope and keeps every user search that passes. */
export interface SearchLog {
  /** What `DESCOPE_BASE_URL` is set to. */
  readonly url: string;
  readonly searches: readonly LoggedSearch[];
  stop(): Promise<void>;
}

/** Starts one before the Descope at `target`. */
export async function startSearchLog(target: string): Promise<SearchLog> {
  const searches: LoggedSearch[] = [];

  async function pass(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    if (incoming.url?.endsWith('/mgmt/user/search') === true) searches.push(toSearch(body));
    const answer = await fetch(`${target}${incoming.url ?? ''}`, {
      method: incoming.method ?? 'GET',
      headers: {
        authorization: incoming.headers.authorization ?? '',
        'content-type': 'application/json',
      },
      ...(body.length > 0 ? { body } : {}),
    });
    const text = await answer.text();
    for (const name of ['content-type', 'date', 'retry-after']) {
      const value = answer.headers.get(name);
      if (value !== null) response.setHeader(name, value);
    }
    response.writeHead(answer.status).end(text);
  }

  const server = createServer((incoming, response) => {
    // Whoever asked may have been killed meanwhile.
    response.on('error', () => undefined);
    pass(incoming, response).catch(() => response.destroy());
  });
  // Longer than clients keep a connection, so that none sends into one that is just closing.
  server.keepAliveTimeout = 65_000;
  return { searches, ...(await listenLocally(server)) };
}

function toSearch(body: Buffer): LoggedSearch {
  const request = JSON.parse(body.toString()) as {
    limit?: number;
    page?: number;
    sort?: { field: string }[];
    fromCreatedTime?: number;
    toCreatedTime?: number;
  };
  return {
    limit: request.limit ?? 0,
    page: request.page ?? 0,
    sortedBy: request.sort?.[0]?.field ?? '',
    createdFrom: request.fromCreatedTime,
    createdTo: request.toCreatedTime,
  };
}
