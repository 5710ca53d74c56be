import { promisify } from 'node:util';
import { brotliDecompress, gunzip } from 'node:zlib';

import { Agent, request } from 'undici';

/*
 * In: a request as for `fetch`. Out: its answer, read to the last byte. Not by `fetch` itself: its streams
 * cost more processor time than all else on a page's way to us.
 */

/** What of an answer's head anybody reads. */
const HEADERS = ['date', 'retry-after'];

export interface Received {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** How bodies may come packed. */
const UNPACK: Readonly<Record<string, (body: Uint8Array) => Promise<Uint8Array>>> = {
  gzip: promisify(gunzip),
  br: promisify(brotliDecompress),
};
const ACCEPT_ENCODING = Object.keys(UNPACK).join(', ');

/** The connections of all clients. */
const agent = new Agent();

/**
 * Sends, and reads the whole answer. Follows no redirect: it would repeat a POST as a GET, and carry the
 * key to who knows where.
 * @throws the network's error; what `signal` is aborted with
 */
export async function receive(
  input: string | URL | Request,
  init: RequestInit,
  signal: AbortSignal,
): Promise<Received> {
  const { statusCode, headers, body } = await request(
    input instanceof Request ? input.url : input,
    {
      dispatcher: agent,
      method: init.method === 'POST' ? 'POST' : 'GET',
      headers: {
        'accept-encoding': ACCEPT_ENCODING,
        ...Object.fromEntries(new Headers(init.headers)),
      },
      body: typeof init.body === 'string' ? init.body : null,
      signal,
    },
  );
  const reading = body.bytes().then((bytes) => toText(bytes, headers['content-encoding']));
  return {
    status: statusCode,
    headers: new Headers(
      HEADERS.flatMap((name) => {
        const value = headers[name];
        return typeof value === 'string' ? [[name, value]] : [];
      }),
    ),
    // A throttle is heard whether its body arrives or not.
    text: statusCode === 429 ? await reading.catch(() => '') : await reading,
  };
}

async function toText(bytes: Uint8Array, encoding: unknown): Promise<string> {
  const unpack = typeof encoding === 'string' ? UNPACK[encoding.toLowerCase()] : undefined;
  return new TextDecoder().decode(unpack ? await unpack(bytes) : bytes);
}
