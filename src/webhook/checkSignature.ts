import { createHmac, timingSafeEqual } from 'node:crypto';

import { decodeSignature, findSigning, signedText, type SpeltDigest } from './authenticate.ts';

/*
 * In: a captured body, its signature, our secrets. Out: which secret signed which bytes, or what may have
 * gone wrong. For a person with a delivery that is refused; the webhook itself never tries this much.
 * Shows nothing of a secret, a body or a digest.
 */

export interface FoundSignature {
  /** Which secret, from 1. */
  readonly secret: number;
  /** What was signed, in words. */
  readonly bytes: string;
  readonly encoding: SpeltDigest['encoding'];
  /** Before the digest, such as `sha256=`; empty where nothing was. */
  readonly prefix: string;
  /** Whether the webhook takes the body as captured; else the capture differs from what was sent. */
  readonly isAccepted: boolean;
}

/** What the webhook itself tries. */
const ACCEPTED = {
  raw: 'the body as it came',
  stringified: 'the body parsed and written anew (JSON.stringify)',
  base64: 'the base64 of the body',
} as const;

/** Which secret and which bytes fit; null where none do. */
export function findSignature(
  body: Buffer,
  signature: string,
  secrets: readonly string[],
): FoundSignature | null {
  const spelt = decodeSignature(signature);
  if (spelt === null) return null;
  const { encoding, prefix } = spelt;
  const signing = findSigning(body, signature, secrets);
  if (signing !== null) {
    const bytes = ACCEPTED[signing.mode];
    return { secret: signing.secretIndex + 1, bytes, encoding, prefix, isAccepted: true };
  }
  for (const [bytes, changed] of changedOnTheWay(body)) {
    const at = secrets.findIndex((secret) => isSignedBy(spelt, changed, secret));
    if (at >= 0) return { secret: at + 1, bytes, encoding, prefix, isAccepted: false };
  }
  return null;
}

function isSignedBy(
  { digest }: SpeltDigest,
  signed: Buffer | string,
  key: string | Buffer,
): boolean {
  return timingSafeEqual(digest, createHmac('sha256', key).update(signed).digest());
}

/** What the sender may have signed, where tools and proxies changed the body before it was captured. */
function changedOnTheWay(body: Buffer): [what: string, bytes: string][] {
  const text = body.toString('utf8').replace(/^\uFEFF/, '');
  const trimmed = text.replace(/[\r\n]+$/, '');
  const anew = signedText(Buffer.from(text), 'stringified');
  return [
    ['the body without the line break at its end', trimmed],
    ['the body with a line break at its end', `${trimmed}\n`],
    ['the body with LF for line breaks', text.replaceAll('\r\n', '\n')],
    ['the body with CR LF for line breaks', text.replaceAll(/\r?\n/g, '\r\n')],
    ['the body without the blanks around it', text.trim()],
    ...(typeof anew === 'string' ? writtenAnew(anew) : []),
  ];
}

/** As other encoders write the same value: Go escapes `<`, `>` and `&`, Python puts blanks after commas. */
function writtenAnew(json: string): [what: string, bytes: string][] {
  const escaped = json.replaceAll(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  const indented = JSON.stringify(JSON.parse(json), null, 2);
  return [
    ['the body parsed and written anew, with a line break', `${json}\n`],
    ['the body as Go writes it (\\u003c for <)', escaped],
    ['the body as Go writes it, with a line break', `${escaped}\n`],
    ['the body parsed and written anew, indented', indented],
  ];
}

/** Why no secret fits, as far as can be told; the likeliest first, one at least. */
export function explainMismatch(
  body: Buffer,
  signature: string,
  secrets: readonly string[],
): string[] {
  const spelt = decodeSignature(signature);
  if (spelt === null) return [explainUndecodable(signature.trim(), secrets)];
  const reasons: string[] = [];
  if (body.length === 0) reasons.push('the body is empty: it was not captured');
  else if (signedText(body, 'stringified') === null) {
    reasons.push('the body is not JSON: it may have been cut off when it was captured');
  }
  for (const [at, secret] of secrets.entries())
    reasons.push(...explainSecret(body, spelt, secret, at));
  if (reasons.length > 0) return reasons;
  const whose =
    secrets.length === 1
      ? 'our HMAC secret did not sign'
      : `none of our ${secrets.length} HMAC secrets signed`;
  return [
    `${whose} this body: the connector's is another, ` +
      'or the body was changed between Descope and here (a proxy that rewrites JSON, a copy out of a log)',
  ];
}

function explainUndecodable(signature: string, secrets: readonly string[]): string {
  if (signature === '') return 'there is no signature: give the connector an HMAC secret';
  if (secrets.includes(signature)) return 'the signature is the secret itself';
  const hex = /^[0-9a-f]+$/i.test(signature) ? signature.length / 2 : NaN;
  const bytes = Number.isNaN(hex) ? Buffer.from(signature, 'base64').length : hex;
  const algorithm = new Map([
    [20, 'SHA-1'],
    [48, 'SHA-384'],
    [64, 'SHA-512'],
  ]).get(bytes);
  return algorithm === undefined
    ? `the signature is no SHA-256 digest in base64 or hex: ${bytes} bytes, not 32 (was it cut off?)`
    : `the signature is as long as one of ${algorithm}, and Descope's is SHA-256`;
}

/** Traps in the secret itself: quotes that a shell or a file kept, or text that stands for other bytes. */
function explainSecret(body: Buffer, spelt: SpeltDigest, secret: string, at: number): string[] {
  const unquoted = secret.replace(/^(["'])(.*)\1$/, '$2').trim();
  const readings: readonly (readonly [key: string | Buffer, reason: string])[] = [
    [unquoted, 'has quotes around it that the connector does not have: take them away'],
    [`${secret}\n`, 'has a line break at its end in the connector: enter it there once more'],
    [Buffer.from(secret, 'hex'), 'is used as the bytes that its hex stands for, not as text'],
    [Buffer.from(secret, 'base64'), 'is used as the bytes that its base64 stands for, not as text'],
  ];
  const found = readings.find(([key]) => key !== secret && isSignedBy(spelt, body, key));
  return found ? [`HMAC secret ${at + 1} ${found[1]}`] : [];
}
