import { isSafeNumber, LosslessNumber, parse } from 'lossless-json';

/*
 * In: a body's text. Out: values, and from values the one text that is stored and hashed. Numbers that
 * a JavaScript number cannot hold (ids and counters past 2^53 among custom attributes) survive both
 * ways as their own digits.
 */

/** A number token that may not survive `Number`: sixteen characters and more, or with an exponent. */
const DELICATE = String.raw`-?\d(?:[\d.]{15}|[\d.]*[eE])`;
const IS_DELICATE = new RegExp(`^${DELICATE}`);
/** Where a value may begin. Text that merely looks like it costs time, never correctness. */
const DELICATE_TOKENS = new RegExp(String.raw`[:[,]\s*(${DELICATE}[\d.eE+-]*)`, 'g');

/**
 * Parses JSON text; numbers that would lose digits come as `LosslessNumber`. Whether one does depends
 * on its own text only, so the same user hashes the same whichever neighbours are on the page.
 * @throws SyntaxError (or RangeError for absurd nesting) when it is not JSON
 */
export function parseJson(text: string): unknown {
  // The exact parser is some times slower, and hardly any answer needs it.
  if (areAllExact(text)) return JSON.parse(text) as unknown;
  return parse(text, null, {
    parseNumber: (token) => (isExact(token) ? Number(token) : new LosslessNumber(token)),
    // As JSON.parse has it: the last one wins.
    onDuplicateKey: ({ newValue }) => newValue,
  });
}

function areAllExact(text: string): boolean {
  for (const [, token = ''] of text.matchAll(DELICATE_TOKENS)) {
    if (!isExact(token)) return false;
  }
  return true;
}

/** Whether a JavaScript number says the same as these digits. */
function isExact(token: string): boolean {
  return !IS_DELICATE.test(token) || String(Number(token)) === token || isSafeNumber(token);
}

/** A JSON object, neither array nor exact number. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof LosslessNumber)
  );
}

const LONE_SURROGATE = /\p{Surrogate}/gu;
const REPLACEMENT = '\uFFFD';
/** Printable ASCII without quote and backslash: what most strings are, and JSON text as it stands. */
const PLAIN = /^[ !#-[\]-~]*$/;

/** Text as Postgres can store it: NUL characters and lone surrogates become U+FFFD. */
export function toStorableText(text: string): string {
  if (PLAIN.test(text)) return text;
  return text.replaceAll('\0', REPLACEMENT).replace(LONE_SURROGATE, REPLACEMENT);
}

function quote(text: string): string {
  return PLAIN.test(text) ? `"${text}"` : JSON.stringify(toStorableText(text));
}

/** Postgres refuses jsonb nested some thousand levels deep; no user and no audit record goes below ten. */
const MAX_DEPTH = 100;
/** Numbers beyond this are text to us: `numeric` overflows where JSON does not. */
const MAX_NUMBER_LENGTH = 400;
const HUGE_EXPONENT = /[eE][+-]?0*\d{4}/;

function writeNumber(digits: string): string {
  const storable = digits.length <= MAX_NUMBER_LENGTH && !HUGE_EXPONENT.test(digits);
  return storable ? digits : `"${digits}"`;
}

/**
 * JSON text of a parsed value that Postgres takes as jsonb: keys sorted at every level, NUL and lone
 * surrogates replaced, anything nested deeper than 100 levels replaced by U+FFFD. Equal values give
 * equal text whatever the order of their keys. Total: what JSON cannot say becomes `null`.
 */
export function toCanonicalJson(value: unknown, depth = 0): string {
  switch (typeof value) {
    case 'string':
      return quote(value);
    case 'boolean':
      return value ? 'true' : 'false';
    case 'number':
      return Number.isFinite(value) ? String(value) : 'null';
    case 'object':
      break;
    default:
      return 'null';
  }
  if (value === null) return 'null';
  if (value instanceof LosslessNumber) return writeNumber(value.value);
  if (depth >= MAX_DEPTH) return `"${REPLACEMENT}"`;
  return Array.isArray(value)
    ? writeArray(value, depth + 1)
    : writeRecord(value as Readonly<Record<string, unknown>>, depth + 1);
}

function writeArray(members: readonly unknown[], depth: number): string {
  let text = '';
  for (const member of members) {
    text += (text === '' ? '' : ',') + toCanonicalJson(member, depth);
  }
  return `[${text}]`;
}

function writeRecord(fields: Readonly<Record<string, unknown>>, depth: number): string {
  let text = '';
  for (const { key, before } of toOrder(Object.keys(fields))) {
    text += `${text === '' ? '' : ','}${before}${toCanonicalJson(fields[key], depth)}`;
  }
  return `{${text}}`;
}

/** A key, and the text in front of its value. */
interface Place {
  readonly key: string;
  readonly before: string;
}

/** Keys as they came, and in order; the latest of each number of keys. */
const orders = new Map<number, { readonly keys: readonly string[]; readonly order: Place[] }>();
/** Objects of more keys are rare, and would be kept for ever. */
const MOST_KEYS_KEPT = 100;

/** The keys in order. Neighbours in a list mostly have the same keys, and sorting costs half of the writing. */
function toOrder(keys: readonly string[]): readonly Place[] {
  const known = orders.get(keys.length);
  if (known && keys.every((key, at) => key === known.keys[at])) return known.order;
  const order = [...keys].sort().map((key) => ({ key, before: `${quote(key)}:` }));
  if (keys.length <= MOST_KEYS_KEPT) orders.set(keys.length, { keys, order });
  return order;
}
