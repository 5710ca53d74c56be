/*
 * In: an attribute as a person names it. Out: its column and the function that casts its values.
 */

/** What a column of a custom attribute may be, and the function of the schema that makes it so. */
const CASTS = {
  text: 'attribute_text',
  boolean: 'attribute_boolean',
  integer: 'attribute_integer',
  bigint: 'attribute_bigint',
  numeric: 'attribute_numeric',
  timestamptz: 'attribute_timestamptz',
  'text[]': 'attribute_text_array',
} as const;

export type AttributeType = keyof typeof CASTS;

export const ATTRIBUTE_TYPES = Object.keys(CASTS) as readonly AttributeType[];

/** A custom attribute that is a column of `live_users_with_attributes`. */
export interface Attribute {
  /** As Descope names it. */
  readonly name: string;
  readonly column: string;
  readonly type: AttributeType;
  /** Whether an index was asked for. */
  readonly indexed: boolean;
}

export function castOf(type: AttributeType): string {
  return CASTS[type];
}

export function isAttributeType(text: string): text is AttributeType {
  return Object.hasOwn(CASTS, text);
}

/** What Descope allows and more; nothing that Postgres would spell in another way. */
const NAME = /^[\p{L}\p{N}_][\p{L}\p{N}_ .:-]{0,99}$/u;
/** What needs no quotes, within the length of a Postgres name and our prefix. */
const COLUMN = /^[a-z_][a-z0-9_]{0,49}$/;

export function isAttributeName(text: string): boolean {
  return NAME.test(text);
}

export function isColumnName(text: string): boolean {
  return COLUMN.test(text);
}

/** `signupDate` is the column `signup_date`, as fields of the API are in `users`. */
export function toColumnName(name: string): string {
  return name
    .replaceAll(/([\p{Ll}\p{N}])(\p{Lu})/gu, '$1_$2')
    .replaceAll(/[ .:-]+/g, '_')
    .toLowerCase();
}
