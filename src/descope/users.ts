import { hash } from 'node:crypto';

import { LosslessNumber } from 'lossless-json';

import { NOTHING_EXCLUDED, withoutExcluded, type Exclusion } from '../exclude.ts';
import { isRecord, toCanonicalJson, toStorableText } from '../json.ts';

import type { UserRow, UserTenant } from '../observation.ts';

/*
 * In: a user as the API answered it. Out: the row the mirror stores, or null where nobody can be
 * recognised in it. Pure and total: no shape of an answer throws, a field of a wrong type is as good as
 * absent in its column and still there, untouched, in `raw`.
 */

/** Half of SHA-256: 128 bits are beyond accident, and ten million rows carry them. */
const HASH_LENGTH = 32;

/** The user's columns, without what the mirror leaves out; null without a usable user id. */
export function toUserRow(given: unknown, exclude: Exclusion = NOTHING_EXCLUDED): UserRow | null {
  if (!isRecord(given)) return null;
  const answer = withoutExcluded(given, exclude);
  const field = fieldReader(answer);
  const userId = toText(field('userId'));
  if (userId === null) return null;
  const raw = toCanonicalJson(answer);
  const customAttributes = field('customAttributes');
  return {
    userId,
    loginIds: toTexts(field('loginIds')),
    externalIds: toTexts(field('externalIds')),
    email: toText(field('email')),
    phone: toText(field('phone')),
    name: toText(field('name')),
    givenName: toText(field('givenName')),
    middleName: toText(field('middleName')),
    familyName: toText(field('familyName')),
    picture: toText(field('picture')),
    status: toText(field('status')),
    verifiedEmail: toFlag(field('verifiedEmail')),
    verifiedPhone: toFlag(field('verifiedPhone')),
    test: field('test') === true,
    roleNames: toTexts(field('roleNames')),
    permissions: toTexts(field('permissions')),
    ssoAppIds: toTexts(field('ssoAppIds')),
    customAttributes: isRecord(customAttributes) ? toCanonicalJson(customAttributes) : '{}',
    createdTime: toTime(field('createdTime')),
    modifiedTime: toTime(field('modifiedTime')),
    tenants: toTenants(field('userTenants')),
    raw,
    contentHash: hash('sha256', raw, 'hex').slice(0, HASH_LENGTH),
  };
}

/** The documented names of the fields that have a column. */
const FIELDS = [
  ...(['userId', 'loginIds', 'externalIds', 'email', 'phone', 'name', 'givenName'] as const),
  ...(['middleName', 'familyName', 'picture', 'status', 'verifiedEmail', 'verifiedPhone'] as const),
  ...(['test', 'roleNames', 'permissions', 'ssoAppIds', 'customAttributes'] as const),
  ...(['createdTime', 'modifiedTime', 'userTenants'] as const),
];
type Field = (typeof FIELDS)[number];
const KNOWN: ReadonlySet<string> = new Set(FIELDS);
const KNOWN_LOWER: ReadonlySet<string> = new Set(FIELDS.map((name) => name.toLowerCase()));

/**
 * Reads a field by its documented name, or by the same letters in another case: Go clients decode
 * case-insensitively, so no spelling is proven by them (`userId` or `userID`).
 */
function fieldReader(answer: Readonly<Record<string, unknown>>): (name: Field) => unknown {
  const others = Object.keys(answer).filter(
    (key) => !KNOWN.has(key) && KNOWN_LOWER.has(key.toLowerCase()),
  );
  if (others.length === 0)
    return (name) => (Object.hasOwn(answer, name) ? answer[name] : undefined);
  // Sorted, so that of several spellings the same one is read whatever their order.
  const otherCases = new Map(others.sort().map((key) => [key.toLowerCase(), answer[key]]));
  return (name) =>
    Object.hasOwn(answer, name) ? answer[name] : otherCases.get(name.toLowerCase());
}

/** Descope sends "" for what is not set; a column says null. */
function toText(value: unknown): string | null {
  return typeof value === 'string' && value.trim() !== '' ? toStorableText(value) : null;
}

function toTexts(value: unknown): string[] {
  if (!Array.isArray(value)) return [];
  return value.map(toText).filter((text) => text !== null);
}

function toFlag(value: unknown): boolean | null {
  return typeof value === 'boolean' ? value : null;
}

function toTenants(value: unknown): UserTenant[] {
  if (!Array.isArray(value)) return [];
  const tenants = new Map<string, UserTenant>();
  for (const entry of value as unknown[]) {
    if (!isRecord(entry)) continue;
    const tenantId = toText(entry['tenantId']);
    // The id is part of a primary key: a tenant named twice is one tenant.
    if (tenantId === null || tenants.has(tenantId)) continue;
    tenants.set(tenantId, {
      tenantId,
      tenantName: toText(entry['tenantName']),
      roleNames: toTexts(entry['roleNames']),
      permissions: toTexts(entry['permissions']),
    });
  }
  return [...tenants.values()];
}

/** Above this a number counts milliseconds: as seconds it would be the year 5138. */
const MS_ABOVE = 1e11;
const YEAR_10000_MS = 253_402_300_800_000;
const NUMERIC = /^\d+(?:\.\d+)?$/;
const ISO_DATE = /^\d{4}-\d{2}-\d{2}(?:[T ]|$)/;
const HAS_ZONE = /(?:Z|[+-]\d{2}:?\d{2})$/i;

/**
 * Epoch seconds (the SDKs read `createdTime` so), milliseconds, the same as text, or ISO-8601; to
 * ISO-8601. 0 means "not set" to Descope, and what no calendar holds means nothing.
 */
function toTime(value: unknown): string | null {
  const ms = toEpochMs(value instanceof LosslessNumber ? value.value : value);
  return ms > 0 && ms < YEAR_10000_MS ? new Date(ms).toISOString() : null;
}

function toEpochMs(value: unknown): number {
  if (typeof value === 'number') return value > MS_ABOVE ? value : value * 1000;
  if (typeof value !== 'string') return NaN;
  const text = value.trim();
  if (NUMERIC.test(text)) return toEpochMs(Number(text));
  if (!ISO_DATE.test(text)) return NaN;
  // Without a zone JavaScript would take the machine's own.
  const zoned = text.length > 10 && !HAS_ZONE.test(text) ? `${text}Z` : text;
  return Date.parse(zoned);
}
