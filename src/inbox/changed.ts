import { sql, type SQL } from 'drizzle-orm';

import { isRecord } from '../json.ts';
import { toFields } from './fields.ts';

/*
 * In: an audit record as it was stored. Out: which fields of a user it says were changed, and to what
 * (`data.Change`). Only ever shown and searched: what a user looks like is never derived from it.
 */

/** New values by the names the record uses, such as `given_name`, `added_roles`, `custom_attribute_plan`. */
export type Change = Readonly<Record<string, unknown>>;

/** What to look for in a change: a field, and where `value` is given, that value in it. */
export interface AskedChange {
  /** Normalised names, any of which will do. */
  readonly names: readonly string[];
  /** Also every normalised name that begins so; null: none. */
  readonly prefix: string | null;
  /** A text, number or key anywhere in the field's new value. */
  readonly value: string | null;
}

/** Names under which records tell of one and the same field, by what it may be asked for. */
const SYNONYMS: readonly {
  readonly asked: readonly string[];
  readonly told: readonly string[];
}[] = [
  { asked: ['roles', 'rolenames'], told: ['roles', 'rolenames', 'multitenantroles'] },
  { asked: ['name', 'displayname'], told: ['name', 'displayname'] },
  { asked: ['tenants', 'usertenants'], told: ['tenants', 'usertenants', 'multitenantroles'] },
];
/** Records tell of each custom attribute by itself, the API of all together. */
const CUSTOM_ATTRIBUTES = /^customattributes?$/;
const CUSTOM_ATTRIBUTE = 'customattribute';

/** What a record says was changed; null where it tells of nothing. */
export function findChange(record: unknown): Change | null {
  const fields = toFields(record);
  const told = toFields(fields.get('data')).get('change') ?? fields.get('change');
  return isRecord(told) && Object.keys(told).length > 0 ? told : null;
}

/**
 * Reads `roleNames`, `added_roles`, `custom_attribute_plan` (a field, in the API's or a record's spelling)
 * or `roleNames=admin` (with a value in it). Null where no field is named.
 */
export function parseAskedChange(text: string): AskedChange | null {
  const [field = ''] = text.split('=', 1);
  const value = field.length < text.length ? text.slice(field.length + 1).trim() : null;
  const name = normalise(field);
  if (name === '') return null;
  const told = SYNONYMS.find(({ asked }) => asked.includes(name))?.told ?? [name];
  return {
    names: told.flatMap((one) => [one, `added${one}`, `removed${one}`]),
    prefix: CUSTOM_ATTRIBUTES.test(name) ? CUSTOM_ATTRIBUTE : null,
    value: value === '' ? null : value,
  };
}

/** Whether a change is one of those asked for. Pure. */
export function isAskedFor(change: Change | null, asked: AskedChange): boolean {
  const { names, prefix, value } = asked;
  return Object.entries(change ?? {}).some(([field, told]) => {
    const name = normalise(field);
    const isNamed = names.includes(name) || (prefix !== null && name.startsWith(prefix));
    return isNamed && (value === null || holds(told, value));
  });
}

/**
 * The same as a condition on rows of `events`, for Postgres to leave out most of what is not asked for.
 * It lets through what only `isAskedFor` can tell: records with JSON text for `data`, say.
 */
export function whereMayBeAskedFor({ names, prefix, value }: AskedChange): SQL {
  const field = sql`translate(lower(field collate "C"), ${SEPARATORS}, '')`;
  const isNamed = sql`(${field} = any(${sql.param(names)}::text[])
    or starts_with(${field}, ${prefix}::text) is true)`;
  // As the value stands in JSON text.
  const needle = value === null ? null : JSON.stringify(value).slice(1, -1);
  const isHeld = needle === null ? sql`true` : sql`strpos(value::text, ${needle}) > 0`;
  const change = sql`coalesce(payload #> '{data,Change}', payload #> '{data,change}', payload -> 'Change')`;
  // jsonb_each fails on anything but an object.
  return sql`case
    when jsonb_typeof(${change}) = 'object' then exists (
      select from jsonb_each(${change}) as told (field, value) where ${isNamed} and ${isHeld})
    else jsonb_typeof(payload -> 'data') is distinct from 'object' end`;
}

const SEPARATORS = '_-. ';

/** One spelling for all; only ASCII letters change case, so that Postgres does it the same way. */
function normalise(field: string): string {
  return field.replaceAll(/[_\-. ]/g, '').replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase());
}

function holds(told: unknown, value: string): boolean {
  if (Array.isArray(told)) return told.some((member) => holds(member, value));
  if (isRecord(told)) {
    return Object.entries(told).some(([key, member]) => key === value || holds(member, value));
  }
  if (typeof told === 'string') return told === value;
  return (typeof told === 'number' || typeof told === 'boolean') && String(told) === value;
}
