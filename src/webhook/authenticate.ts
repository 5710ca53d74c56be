import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

import type { IncomingHttpHeaders } from 'node:http';

/*
 * In: the headers and raw bytes of a delivery. Out: ok or refused. Never tells which check failed, nor
 * by its timing how much of a secret was right.
 */

/** What a delivery must carry. Everything that is set must match. */
export interface WebhookAuthentication {
  /** Any one of them; several while a secret is being rotated. */
  readonly hmacSecrets: readonly string[];
  /** Any one of them. */
  readonly bearerTokens: readonly string[];
  /** User and password. */
  readonly basic: { readonly name: string; readonly value: string } | null;
  /** Header and its value. */
  readonly apiKey: { readonly name: string; readonly value: string } | null;
  /** Accept deliveries where nothing above is set; refused otherwise. */
  readonly allowUnauthenticated: boolean;
}

/** Descope's header with the base64 HMAC-SHA256 of the body ("Using HMAC Authentication Type"). */
export const SIGNATURE_HEADER = 'x-descope-webhook-s256';

/**
 * Which bytes were signed. The documentation shows `raw` and `stringified` samples and elsewhere speaks
 * of the base64 payload; raw comes first, for re-serialising is not byte-exact.
 */
export type SigningMode = 'raw' | 'stringified' | 'base64';

export interface Signing {
  readonly mode: SigningMode;
  /** Position in the secrets given. */
  readonly secretIndex: number;
}

/** 32 bytes in hex, and in base64 or its url-safe alphabet, with or without padding. */
const HEX_DIGEST = /^[0-9a-f]{64}$/i;
const BASE64_DIGEST = /^[\w+/-]{43}=?$/;

/** Equal in constant time, whatever the lengths: digests are of one length. */
export function isSameSecret(given: string | Buffer, expected: string): boolean {
  const digest = (value: string | Buffer) => createHash('sha256').update(value).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

function isAnyOf(given: string, expected: readonly string[]): boolean {
  // Every candidate is compared, so that the time does not tell which one matched.
  return expected.map((candidate) => isSameSecret(given, candidate)).includes(true);
}

/** Descope sends none; others name the algorithm before the digest. */
const PREFIX = /^(?:hmac-)?sha256=/i;

/** A digest as a header spells it. */
export interface SpeltDigest {
  readonly digest: Buffer;
  readonly encoding: 'hex' | 'base64';
  /** What stood before it, such as `sha256=`; empty where nothing did. */
  readonly prefix: string;
}

/** The digest a signature header holds; `null` where it cannot be one. */
export function decodeSignature(header: string): SpeltDigest | null {
  const [prefix = ''] = PREFIX.exec(header.trim()) ?? [];
  const text = header.trim().slice(prefix.length);
  if (HEX_DIGEST.test(text)) return { digest: Buffer.from(text, 'hex'), encoding: 'hex', prefix };
  if (!BASE64_DIGEST.test(text)) return null;
  return { digest: Buffer.from(text, 'base64'), encoding: 'base64', prefix };
}

/** The bytes a mode signs; null where the body is not JSON and would have to be. */
export function signedText(rawBody: Buffer, mode: SigningMode): string | Buffer | null {
  if (mode === 'raw') return rawBody;
  if (mode === 'base64') return rawBody.toString('base64');
  try {
    return JSON.stringify(JSON.parse(rawBody.toString('utf8')));
  } catch {
    return null;
  }
}

/** Which secret and which signed bytes a signature fits; `null` where none does. */
export function findSigning(
  rawBody: Buffer,
  signature: string,
  secrets: readonly string[],
): Signing | null {
  const given = decodeSignature(signature);
  if (given === null) return null;
  for (const mode of ['raw', 'stringified', 'base64'] as const) {
    const signed = signedText(rawBody, mode);
    if (signed === null) continue;
    const matches = secrets.map((secret) =>
      timingSafeEqual(given.digest, createHmac('sha256', secret).update(signed).digest()),
    );
    const secretIndex = matches.indexOf(true);
    if (secretIndex >= 0) return { mode, secretIndex };
  }
  return null;
}

function readHeader(headers: IncomingHttpHeaders, name: string): string {
  const value = headers[name.toLowerCase()];
  return typeof value === 'string' ? value : '';
}

/** What follows the scheme in `Authorization`; empty where it is another scheme. */
function readCredentials(headers: IncomingHttpHeaders, scheme: string): string {
  const [given = '', credentials = ''] = readHeader(headers, 'authorization').trim().split(/\s+/);
  return given.toLowerCase() === scheme ? credentials : '';
}

/** Each kind of authentication that is set, and whether a delivery passes it. Constant time in the secrets. */
export function checkEach(
  headers: IncomingHttpHeaders,
  rawBody: Buffer,
  { hmacSecrets, bearerTokens, basic, apiKey }: WebhookAuthentication,
): { readonly kind: 'bearer' | 'basic' | 'apiKey' | 'hmac'; readonly passes: boolean }[] {
  const checks: ReturnType<typeof checkEach> = [];
  if (bearerTokens.length > 0) {
    const passes = isAnyOf(readCredentials(headers, 'bearer'), bearerTokens);
    checks.push({ kind: 'bearer', passes });
  }
  if (basic) {
    const given = Buffer.from(readCredentials(headers, 'basic'), 'base64');
    checks.push({ kind: 'basic', passes: isSameSecret(given, `${basic.name}:${basic.value}`) });
  }
  if (apiKey) {
    const passes = isSameSecret(readHeader(headers, apiKey.name), apiKey.value);
    checks.push({ kind: 'apiKey', passes });
  }
  if (hmacSecrets.length > 0) {
    const signature = readHeader(headers, SIGNATURE_HEADER);
    checks.push({ kind: 'hmac', passes: findSigning(rawBody, signature, hmacSecrets) !== null });
  }
  return checks;
}

/** Whether a delivery may come in. Pure; constant time in the secrets. */
export function authenticate(
  headers: IncomingHttpHeaders,
  rawBody: Buffer,
  settings: WebhookAuthentication,
): 'ok' | 'refused' {
  const checks = checkEach(headers, rawBody, settings);
  if (checks.length === 0) return settings.allowUnauthenticated ? 'ok' : 'refused';
  return checks.every(({ passes }) => passes) ? 'ok' : 'refused';
}
