import { isRecord } from './json.ts';

/*
 * In: `MIRROR_EXCLUDE`. Out: what is taken out of everything that is stored: users as Descope answers them, and
 * the records of events. Pure.
 */

/** Fields that never enter the mirror. */
export interface Exclusion {
  /** As they were meant, sorted: `phone`, `customAttributes.plan`, `raw.someField`. Kept in `learnt`. */
  readonly names: readonly string[];
}

export const NOTHING_EXCLUDED: Exclusion = { names: [] };

/** Fields of the API's user object that may be left out. */
const FIELDS: readonly string[] = [
  ...['email', 'phone', 'name', 'givenName', 'middleName', 'familyName', 'picture', 'status'],
  ...['verifiedEmail', 'verifiedPhone', 'externalIds', 'roleNames', 'permissions', 'ssoAppIds'],
  ...['userTenants', 'customAttributes', 'recoveryEmail', 'recoveryPhone'],
  ...['verifiedRecoveryEmail', 'verifiedRecoveryPhone', 'editable', 'TOTP', 'SAML', 'OIDC', 'SCIM'],
  ...['OAuth', 'webauthn', 'password', 'push', 'consentExpiration'],
];
/** Without these nothing can be found, counted, or held against the directory. */
const NEEDED: readonly string[] = ['userId', 'loginIds', 'createdTime', 'modifiedTime', 'test'];

/** One spelling for `given_name`, `givenName` and `GivenName`. */
const normalise = (name: string) => name.replaceAll(/[\s_-]/g, '').toLowerCase();

const KNOWN = new Map(FIELDS.map((name) => [normalise(name), name]));
const WANTED = new Map(NEEDED.map((name) => [normalise(name), name]));

/** Reads one name of the setting; a mistake as text where it is none. */
export function parseExcluded(text: string): { name: string } | { mistake: string } {
  const [field = '', ...rest] = text.split('.');
  const inner = rest.join('.').trim();
  const key = normalise(field);
  const needed = WANTED.get(key) ?? (key === 'raw' ? WANTED.get(normalise(inner)) : undefined);
  if (needed !== undefined) return { mistake: `cannot leave out ${needed}, the service needs it` };
  if (inner !== '' && key === 'customattributes') return { name: `customAttributes.${inner}` };
  if (inner !== '' && key === 'raw') return { name: KNOWN.get(normalise(inner)) ?? `raw.${inner}` };
  const known = KNOWN.get(key);
  if (known !== undefined && rest.length === 0) return { name: known };
  return {
    mistake:
      `knows no field "${text}": it takes ${FIELDS.join(', ')}, customAttributes.<name> for one of these, ` +
      'and raw.<name> for a field that Descope adds later',
  };
}

export function toExclusion(names: readonly string[]): Exclusion {
  return { names: [...new Set(names)].sort() };
}

/** A user as answered, without what is excluded. The same object where nothing is. */
export function withoutExcluded(
  answer: Readonly<Record<string, unknown>>,
  { names }: Exclusion,
): Readonly<Record<string, unknown>> {
  if (names.length === 0) return answer;
  const fields = new Set(
    names.filter((name) => !name.startsWith('customAttributes.')).map(fieldOf),
  );
  const attributes = new Set(attributesIn(names));
  return Object.fromEntries(
    Object.entries(answer)
      .filter(([key]) => !fields.has(normalise(key)))
      .map(([key, value]) => {
        const isPartial = attributes.size > 0 && normalise(key) === 'customattributes';
        if (!isPartial || !isRecord(value)) return [key, value];
        return [key, Object.fromEntries(Object.entries(value).filter(([n]) => !attributes.has(n)))];
      }),
  );
}

const fieldOf = (name: string) => normalise(name.replace(/^raw\./, ''));

function attributesIn(names: readonly string[]): string[] {
  const prefix = 'customAttributes.';
  return names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
}

/**
 * An event's record without what is excluded: at any depth every field of such a name, also as records have it
 * (`added_roles`, `custom_attribute_plan`), and JSON in texts likewise. What other fields or texts say is kept.
 */
export function withoutExcludedAnywhere(record: unknown, { names }: Exclusion): unknown {
  if (names.length === 0) return record;
  const attributes = attributesIn(names).map(normalise);
  const fields = new Set([
    ...names.filter((name) => !name.startsWith('customAttributes.')).map(fieldOf),
    ...attributes.map((name) => `customattribute${name}`),
  ]);
  const isAll = fields.has('customattributes');
  // Told of under names of their own.
  if (fields.has('rolenames')) for (const other of ['roles', 'multitenantroles']) fields.add(other);
  if (fields.has('usertenants'))
    for (const other of ['tenants', 'multitenantroles']) fields.add(other);
  if (fields.has('name')) fields.add('displayname');
  const isExcluded = (key: string) => {
    const name = normalise(key).replace(/^(added|removed|new|old)(?=.)/, '');
    return (
      fields.has(name) ||
      fields.has(normalise(key)) ||
      (isAll && name.startsWith('customattribute'))
    );
  };
  const strip = (value: unknown, parent: string): unknown => {
    if (Array.isArray(value)) return value.map((member) => strip(member, parent));
    if (typeof value === 'string') return stripText(value, parent);
    if (!isRecord(value)) return value;
    const isAttributes = /^customattributes?$/.test(parent);
    return Object.fromEntries(
      Object.entries(value)
        .filter(([key]) => !isExcluded(key))
        .filter(([key]) => !(isAttributes && attributes.includes(normalise(key))))
        .map(([key, member]) => [key, strip(member, normalise(key))]),
    );
  };
  const stripText = (text: string, parent: string): string => {
    if (!/^\s*[[{]/.test(text)) return text;
    try {
      return JSON.stringify(strip(JSON.parse(text), parent));
    } catch {
      return text;
    }
  };
  return strip(record, '');
}
