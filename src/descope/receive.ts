import { promisify } from 'node:util';
import { brotliDecompress, gunzip } from 'node:zlib';

import { Agent, request } from 'undici';

/*
 * In: a request as for `fetch`. Out: its answer, read to the last byte. Not by `fetch` itself: its streams
 * cost more processor time than all else on a page's way to us.
 */

export interface Received {
  readonly status: number;
  /** Of its head what anybody reads; null where it is not there. */
  readonly date: string | null;
  readonly retryAfter: string | null;
  readonly text: string;
}

/** A page of a thousand users is some MB: more than this is no answer, whoever sends it (guarantee G8). */
const MAX_BODY_BYTES = 64 * 1024 * 1024;
const BOUND = { maxOutputLength: MAX_BODY_BYTES };

/** How bodies may come packed. */
const UNPACK: Readonly<Record<string, (body: Uint8Array) => Promise<Uint8Array>>> = {
  gzip: (body) => promisify(gunzip)(body, BOUND),
  br: (body) => promisify(brotliDecompress)(body, BOUND),
};
/** Whoever guards Descope's door may turn away a request that does not say who asks. */
const HEADERS = {
  'accept-encoding': Object.keys(UNPACK).join(', '),
  accept: '*/*',
  'user-agent': 'rollcall',
};

/** The connections of all clients. */
const agent = new Agent({ maxResponseSize: MAX_BODY_BYTES });

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
      headers: { ...HEADERS, ...Object.fromEntries(new Headers(init.headers)) },
      body: typeof init.body === 'string' ? init.body : null,
      signal,
    },
  );
  const reading = body.bytes().then((bytes) => decode(bytes, toText(headers['content-encoding'])));
  return {
    status: statusCode,
    date: toText(headers['date']),
    retryAfter: toText(headers['retry-after']),
    // A throttle is heard whether its body arrives or not.
    text: statusCode === 429 ? await reading.catch(() => '') : await reading,
  };
}

function toText(header: string | string[] | undefined): string | null {
  return typeof header === 'string' ? header : null;
}

async function decode(bytes: Uint8Array, encoding: string | null): Promise<string> {
  // An answer without a body may still say how it would be packed.
  const unpack = bytes.length > 0 ? UNPACK[encoding?.toLowerCase() ?? ''] : undefined;
  return new TextDecoder().decode(unpack ? await unpack(bytes) : bytes);
}
