import { isRecord, toCanonicalJson } from '../json.ts';

/*
 * In: a record, or a part of one, as some sender spelled it. Out: its fields under one spelling.
 * Never fails: what cannot be read is absent.
 */

/** Longer is no id of Descope's, and would not fit a Postgres index entry. */
const MAX_ID_CHARS = 512;
/** The last millisecond of the year 9999: later instants have no four-digit ISO form. */
const MAX_INSTANT_MS = 253_402_300_799_999;
/** Epoch seconds reach this in the year 5138, epoch milliseconds passed it in 1973. */
const SECONDS_BELOW = 1e11;
const ISO_INSTANT = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(Z|[+-]\d\d(?::?\d\d)?)?$/i;

/** Fields by lower-case name without separators: `user_id`, `userId` and `UserId` are one. */
export type Fields = ReadonlyMap<string, unknown>;

/** Some exports (Microsoft Sentinel) carry nested values as JSON text. */
function fromJsonText(text: string): unknown {
  try {
    return JSON.parse(toCanonicalJson(JSON.parse(text)));
  } catch {
    return undefined;
  }
}

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || value === '';
}

/** The fields of an object, or of JSON text that holds one; none of anything else. */
export function toFields(value: unknown): Fields {
  const object = typeof value === 'string' ? fromJsonText(value) : value;
  const fields = new Map<string, unknown>();
  if (!isRecord(object)) return fields;
  for (const [key, field] of Object.entries(object)) {
    const name = key.toLowerCase().replaceAll(/[\s_-]/g, '');
    if (isEmpty(fields.get(name))) fields.set(name, field);
  }
  return fields;
}

/** The first of these fields that is a string with something in it. */
export function findText(fields: Fields, ...names: readonly string[]): string | null {
  for (const name of names) {
    const value = fields.get(name);
    if (typeof value === 'string' && value.trim() !== '') return value;
  }
  return null;
}

/**
 * The ids in a value: a string, an array of strings or of objects with an id field, or such an array
 * as JSON text. Anything else has none.
 */
export function toIds(value: unknown, ...idFields: readonly string[]): string[] {
  if (typeof value === 'string') {
    const list = value.startsWith('[') ? fromJsonText(value) : undefined;
    if (Array.isArray(list)) return toIds(list, ...idFields);
    return value !== '' && value.length <= MAX_ID_CHARS ? [value] : [];
  }
  if (!Array.isArray(value)) return [];
  return value.flatMap((member: unknown) => {
    const id = isRecord(member) ? findText(toFields(member), ...idFields) : member;
    return typeof id === 'string' && id !== '' && id.length <= MAX_ID_CHARS ? [id] : [];
  });
}

/** Each id once, sorted: two tellings of the same event list them alike. */
export function sortedUnique(ids: readonly string[]): string[] {
  return [...new Set(ids)].sort();
}

/**
 * An instant as epoch ms: a number or numeric string (ms above 1e11, else s) or ISO-8601 (UTC where it
 * names no zone: our own zone means nothing to the sender). `null` for anything else, and for instants
 * outside 1970 to 9999; 0 is how a protobuf sender says "unset".
 */
export function toInstantMs(value: unknown): number | null {
  const instantMs = typeof value === 'string' ? textToMs(value.trim()) : numberToMs(value);
  return instantMs !== null && instantMs > 0 && instantMs <= MAX_INSTANT_MS ? instantMs : null;
}

/** The same for what a person types: a day alone begins at midnight, UTC. */
export function parseMoment(text: string): number | null {
  const moment = text.trim();
  return toInstantMs(/^\d{4}-\d\d-\d\d$/.test(moment) ? `${moment}T00:00Z` : moment);
}

function numberToMs(value: unknown): number | null {
  if (typeof value !== 'number' || !Number.isFinite(value)) return null;
  return value > SECONDS_BELOW ? Math.trunc(value) : Math.round(value * 1000);
}

function textToMs(text: string): number | null {
  if (/^\d+(?:\.\d+)?$/.test(text)) return numberToMs(Number(text));
  const iso = ISO_INSTANT.exec(text);
  if (!iso) return null;
  const zone = iso[1] ?? '';
  const local = text.slice(0, text.length - zone.length).replace(' ', 'T');
  // Postgres prints a zone of whole hours as +00, which Date does not read.
  const instantMs = Date.parse(local + (zone.length === 3 ? `${zone}:00` : zone || 'Z'));
  return Number.isNaN(instantMs) ? null : instantMs;
}

/** When a record says it occurred, in epoch ms; null where it does not. */
export function findOccurredMs(fields: Fields): number | null {
  for (const name of ['occurred', 'timegenerated', 'occurredat', 'occurredformatted']) {
    const occurredMs = toInstantMs(fields.get(name));
    if (occurredMs !== null) return occurredMs;
  }
  return null;
}
