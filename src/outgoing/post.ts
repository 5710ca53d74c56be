import { withTimeout } from '../abort.ts';
import { findCode } from '../errors.ts';
import { signedHeaders } from '../signing.ts';

import type { Endpoint } from './endpoints.ts';
import type { Answer } from './settle.ts';

/** A receiver has so long to answer. */
export const POST_TIMEOUT_MS = 10_000;
/** A receiver that wants to be left alone for longer is asked again all the same. */
const MOST_RETRY_AFTER_MS = 4 * 3_600_000;

/**
 * Posts a body, signed as of now, to the operator's own address and nowhere else: redirects are not followed.
 * Never throws; an abort is an answer that never came.
 */
export async function post(
  { url, keys }: Endpoint,
  message: { readonly webhookId: string; readonly body: string },
  signal: AbortSignal,
): Promise<Answer> {
  const { webhookId, body } = message;
  const send = async (either: AbortSignal): Promise<Answer> => {
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'user-agent': 'rollcall',
        ...signedHeaders(keys, webhookId, Date.now(), body),
      },
      body,
      redirect: 'manual',
      signal: either,
    });
    // What it says is nobody's concern, however long it is.
    await response.body?.cancel();
    const { status } = response;
    const isTaken = status >= 200 && status < 300;
    const retryAfterMs = isTaken ? 0 : readRetryAfter(response.headers.get('retry-after'));
    return { status, error: isTaken ? null : `the receiver answered ${status}`, retryAfterMs };
  };
  try {
    return await withTimeout(POST_TIMEOUT_MS, signal, send);
  } catch (error) {
    return { status: null, error: describeFailure(error), retryAfterMs: 0 };
  }
}

/** Seconds alone: a date would need clocks that agree. */
function readRetryAfter(header: string | null): number {
  const seconds = /^\d{1,9}$/.test(header ?? '') ? Number(header) : 0;
  return Math.min(seconds * 1000, MOST_RETRY_AFTER_MS);
}

/** The code alone: messages name the address, which may hold a secret. */
function describeFailure(error: unknown): string {
  if (error instanceof Error && error.name === 'TimeoutError') {
    return `no answer within ${POST_TIMEOUT_MS / 1000} s`;
  }
  return `no answer: ${findCode(error) ?? 'the connection failed'}`;
}
