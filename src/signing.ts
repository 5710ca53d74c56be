import { createHmac } from 'node:crypto';

/*
 * Standard Webhooks (standardwebhooks.com): what receivers check with any of its libraries. Twenty lines, so
 * no library of our own for it.
 */

/** Bytes that a secret must hold, by that standard. */
const SECRET_BYTES = { min: 24, max: 64 } as const;

/** The key that a secret `whsec_…` holds; null where it is none. */
export function keyOf(secret: string): Buffer | null {
  const [, text] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(secret) ?? [];
  if (text === undefined) return null;
  const key = Buffer.from(text, 'base64');
  return key.length >= SECRET_BYTES.min && key.length <= SECRET_BYTES.max ? key : null;
}

/** The three headers for a body as it will be sent; several keys make several signatures, one of which must match. */
export function signedHeaders(
  keys: readonly Buffer[],
  webhookId: string,
  sentAtMs: number,
  body: string,
): Record<string, string> {
  const timestamp = String(Math.floor(sentAtMs / 1000));
  const signed = `${webhookId}.${timestamp}.${body}`;
  const signatures = keys.map(
    (key) => `v1,${createHmac('sha256', key).update(signed).digest('base64')}`,
  );
  return {
    'webhook-id': webhookId,
    'webhook-timestamp': timestamp,
    'webhook-signature': signatures.join(' '),
  };
}
