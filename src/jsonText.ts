/*
 * In: anything JSON.parse can give. Out: the same, so that Postgres takes it as jsonb and a hash of its
 * text does not depend on the order of keys. Never changes what it is given.
 */

/** Postgres refuses jsonb nested some thousand levels deep; no audit record goes below ten. */
const MAX_DEPTH = 64;
const BEYOND_DEPTH = '…';

/** Text that Postgres can store: NUL and lone surrogates become U+FFFD. */
function toStorableText(text: string): string {
  return text.replaceAll('\0', '\uFFFD').replace(/\p{Surrogate}/gu, '\uFFFD');
}

/**
 * A copy with storable text in keys and values, keys sorted (jsonb keeps no order either) and
 * anything nested deeper than 64 levels replaced by "…".
 */
export function toCleanJson(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return toStorableText(value);
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= MAX_DEPTH) return BEYOND_DEPTH;
  if (Array.isArray(value)) return value.map((member) => toCleanJson(member, depth + 1));
  // fromEntries, not assignment: a key named __proto__ must stay a key.
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, field]) => [toStorableText(key), toCleanJson(field, depth + 1)] as const)
      .sort(([a], [b]) => (a < b ? -1 : Number(a > b))),
  );
}

/** JSON text that Postgres accepts as jsonb; `null` for what JSON cannot say. Equal values give equal text. */
export function toJsonText(value: unknown): string {
  return JSON.stringify(toCleanJson(value) ?? null);
}
