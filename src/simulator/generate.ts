import { below, createRandom, hash, idOf, pick } from './random.ts';

import type { Random } from './random.ts';

/** A user as the API answers it (`ResponseUser` of Descope's OpenAPI document). */
export interface UserAnswer {
  readonly userId: string;
  readonly loginIds: readonly string[];
  readonly externalIds: readonly string[];
  readonly name: string;
  readonly givenName: string;
  readonly middleName: string;
  readonly familyName: string;
  readonly email: string;
  readonly phone: string;
  readonly picture: string;
  readonly verifiedEmail: boolean;
  readonly verifiedPhone: boolean;
  readonly recoveryEmail: string;
  readonly verifiedRecoveryEmail: boolean;
  readonly recoveryPhone: string;
  readonly verifiedRecoveryPhone: boolean;
  readonly roleNames: readonly string[];
  readonly permissions: readonly string[];
  readonly userTenants: readonly TenantAnswer[];
  readonly status: string;
  readonly test: boolean;
  readonly editable: boolean;
  readonly customAttributes: Readonly<Record<string, unknown>>;
  /** Epoch seconds. */
  readonly createdTime: number;
  /** Epoch seconds; not every Descope sends it. */
  readonly modifiedTime?: number;
  readonly TOTP: boolean;
  readonly SAML: boolean;
  readonly OIDC: boolean;
  readonly SCIM: boolean;
  readonly OAuth: Readonly<Record<string, boolean>>;
  readonly webauthn: boolean;
  readonly password: boolean;
  readonly push: boolean;
  readonly ssoAppIds: readonly string[];
  readonly consentExpiration: number;
}

export interface TenantAnswer {
  readonly tenantId: string;
  readonly tenantName: string;
  readonly roleNames: readonly string[];
  readonly permissions: readonly string[];
}

/** What can be set on a user; everything but its id and its times. */
export type UserContent = Omit<UserAnswer, 'userId' | 'createdTime' | 'modifiedTime'>;

// Names that have broken importers: accents, other scripts, right to left, quotes, markup, emoji, a
// line separator that JSON allows and old JavaScript does not, and one that is nobody's at all.
// prettier-ignore
const GIVEN = [
  'Ada', 'Zoë', 'José', 'Łukasz', 'Nguyễn', 'Søren', '美咲', '서연', 'محمد', 'יעל', 'Дмитрий',
  'Αλέξανδρος', 'Oluwaseun', 'Mary <Ann>', 'Tom & Jo', 'Max 🦊', '', 'Anne\u2028Marie', 'D\'Arcy',
];
// prettier-ignore
const FAMILY = [
  'Lovelace', 'García Márquez', 'O’Neill', 'Müller-Lüdenscheidt', '山田', '김', 'الخوارزمي', 'כהן',
  'Толстой', 'Παπαδόπουλος', 'Škvorecký', 'van der "Berg"', 'Back\\slash', 'Null', 'Ïñtërnâtiônàl',
];
const TENANTS = ['Acme', 'Globex', 'Initech', 'Umbrella & Sons', 'Śródmieście', '株式会社例'].map(
  (tenantName, index) => ({ tenantId: idOf('T', 0, index), tenantName }),
);
const ROLES = ['Tenant Admin', 'editor', 'viewer', 'billing', 'read <all>'];
const PERMISSIONS = ['User Admin', 'SSO Admin', 'Impersonate'];
const PLANS = ['free', 'pro', 'enterprise', '“quoted”'];

function some<T>(random: Random, choices: readonly T[], most: number): T[] {
  const count = below(random, most + 1);
  const start = below(random, choices.length);
  // Neighbours, around the end.
  return [
    ...choices.slice(start, start + count),
    ...choices.slice(0, Math.max(0, start + count - choices.length)),
  ];
}

/** The user id of the `serial`th user that a seed ever gave. */
export function userIdOf(seed: number, serial: number): string {
  return idOf('U', seed, serial);
}

/** The first login id, unique to the serial. */
function loginIdOf(seed: number, serial: number): string {
  return `user${serial}.${hash(seed, serial, 77).toString(36)}@example.com`;
}

/** The phone number that one user in five signs in with too; one in five more only has it. */
function phoneOf(seed: number, serial: number): { phone: string; signsIn: boolean } {
  const kind = hash(seed, serial, 84) % 5;
  return { phone: kind < 2 ? `+1555${String(serial).padStart(7, '0')}` : '', signsIn: kind === 0 };
}

/** Every login id, without the rest of the content. */
function loginIdsOf(seed: number, serial: number): string[] {
  const { phone, signsIn } = phoneOf(seed, serial);
  return signsIn ? [loginIdOf(seed, serial), phone] : [loginIdOf(seed, serial)];
}

/** Whose generated login id this could be; no index of a million of them needs to be kept. */
export function serialOf(loginId: string): number | undefined {
  const digits = /^(?:user|\+1555)(\d+)(?:\.|$)/.exec(loginId)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** One user in 97 is a test user, which searches leave out unless asked. */
export function isTestUser(seed: number, serial: number): boolean {
  return hash(seed, serial, 78) % 97 === 0;
}

function tenants(random: Random): TenantAnswer[] {
  return some(random, TENANTS, 3).map(({ tenantId, tenantName }) => ({
    tenantId,
    tenantName,
    roleNames: some(random, ROLES, 2),
    permissions: some(random, PERMISSIONS, 1),
  }));
}

/** Values of every type a custom attribute can have. */
function attributes(random: Random, serial: number): Record<string, unknown> {
  const held: Record<string, unknown> = {};
  const often = (): boolean => random() < 0.6;
  if (often()) held['plan'] = pick(random, PLANS);
  if (often()) held['age'] = 18 + below(random, 80);
  if (often()) held['score'] = Math.round(random() * 1e6) / 1000 - 500;
  if (often()) held['beta'] = random() < 0.5;
  if (often()) held['tags'] = some(random, ['a', 'ß', '', '🦊', 'a'], 3);
  if (often()) held['lastPasswordReset'] = 1_700_000_000_000 + serial;
  if (often()) held['note'] = random() < 0.5 ? '' : 'line one\nline "two"\t\\';
  return held;
}

/** A user's content, the same for the same seed and serial; nothing of it needs to be kept in memory. */
export function generateContent(seed: number, serial: number): UserContent {
  const random = createRandom(hash(seed, serial));
  const { phone } = phoneOf(seed, serial);
  const loginIds = loginIdsOf(seed, serial);
  const givenName = pick(random, GIVEN);
  const familyName = pick(random, FAMILY);
  const recovers = random() < 0.1;
  return {
    loginIds,
    externalIds: loginIds,
    name: `${givenName} ${familyName}`.trim(),
    givenName,
    middleName: random() < 0.1 ? 'M.' : '',
    familyName,
    email: random() < 0.9 ? loginIdOf(seed, serial) : '',
    phone,
    picture: random() < 0.3 ? `https://images.example.com/${serial}.png?size=64&v=2` : '',
    verifiedEmail: random() < 0.8,
    verifiedPhone: phone !== '' && random() < 0.5,
    recoveryEmail: recovers ? `recovery${serial}@example.org` : '',
    verifiedRecoveryEmail: recovers,
    recoveryPhone: '',
    verifiedRecoveryPhone: false,
    roleNames: some(random, ROLES, 2),
    permissions: some(random, PERMISSIONS, 1),
    userTenants: tenants(random),
    status: pick(random, ['enabled', 'enabled', 'enabled', 'disabled', 'invited', 'expired']),
    test: isTestUser(seed, serial),
    editable: true,
    customAttributes: attributes(random, serial),
    TOTP: random() < 0.2,
    SAML: random() < 0.1,
    OIDC: false,
    SCIM: random() < 0.05,
    OAuth: random() < 0.3 ? { google: true, github: random() < 0.5 } : {},
    webauthn: random() < 0.2,
    password: random() < 0.7,
    push: false,
    ssoAppIds: random() < 0.1 ? ['descope-default-oidc'] : [],
    consentExpiration: random() < 0.05 ? 1_900_000_000 : 0,
  };
}
