import { z } from 'zod';

import type { Behaviour } from './behaviour.ts';
import type { UserContent } from './generate.ts';

const strings = z.array(z.string()).default([]);
/** Clients send numbers, the published schema says strings. 0 is proto's way of saying "not set". */
const instant = z
  .union([z.number(), z.string().regex(/^-?\d*$/)])
  .optional()
  .transform((value) => Number(value ?? 0) || undefined);

// prettier-ignore
const SORT_FIELDS = [
  'id', 'createdTime', 'modifiedTime', 'externalId', 'displayName', 'tenant', 'phoneNumber', 'email', 'status',
] as const;
export type SortField = (typeof SORT_FIELDS)[number];

const searchRequest = z.object({
  limit: z.int().min(0).default(0),
  page: z.int().min(0).default(0),
  offset: z.int().min(0).default(0),
  sort: z
    .array(z.object({ field: z.enum(SORT_FIELDS), desc: z.boolean().default(false) }))
    .default([]),
  text: z.string().default(''),
  loginId: z.string().default(''),
  loginIds: strings,
  userIds: strings,
  emails: strings,
  phones: strings,
  tenantIds: strings,
  roleNames: strings,
  ssoAppIds: strings,
  statuses: strings,
  customAttributes: z.record(z.string(), z.unknown()).default({}),
  verifiedEmail: z.boolean().optional(),
  verifiedPhone: z.boolean().optional(),
  withTestUser: z.boolean().default(false),
  testUsersOnly: z.boolean().default(false),
  fromCreatedTime: instant,
  toCreatedTime: instant,
  fromModifiedTime: instant,
  toModifiedTime: instant,
});
export type SearchRequest = z.output<typeof searchRequest>;

/** @throws ZodError where the body is not a user search */
export function parseSearchRequest(body: unknown): SearchRequest {
  return searchRequest.parse(body);
}

export interface Bounds {
  readonly isBelow: (ms: number) => boolean;
  readonly isWithinTop: (ms: number) => boolean;
}

/** A window on one time field; undefined where the request does not ask for one. */
export function boundsOf(
  from: number | undefined,
  to: number | undefined,
  behaviour: Pick<Behaviour, 'timeUnit' | 'fromBound' | 'toBound'>,
): Bounds | undefined {
  if (from === undefined && to === undefined) return undefined;
  // Stored instants are compared in full, whatever the unit of the request.
  const unitMs = behaviour.timeUnit === 's' ? 1000 : 1;
  const fromMs = (from ?? -Infinity) * unitMs;
  const toMs = (to ?? Infinity) * unitMs;
  return {
    isBelow: behaviour.fromBound === 'exclusive' ? (ms) => ms <= fromMs : (ms) => ms < fromMs,
    isWithinTop: behaviour.toBound === 'inclusive' ? (ms) => ms <= toMs : (ms) => ms < toMs,
  };
}

const holdsOne = (wanted: readonly string[], held: readonly string[]): boolean =>
  wanted.length === 0 || wanted.some((value) => held.includes(value));

function hasAttributes(wanted: Readonly<Record<string, unknown>>, content: UserContent): boolean {
  return Object.entries(wanted).every(([name, value]) => {
    const held = content.customAttributes[name];
    const values = Array.isArray(value) ? value : [value];
    return values.some((one) => (Array.isArray(held) ? held.includes(one) : held === one));
  });
}

function hasText(text: string, content: UserContent): boolean {
  const wanted = text.toLowerCase();
  const { name, email, phone, loginIds } = content;
  return [name, email, phone, ...loginIds].some((value) => value.toLowerCase().includes(wanted));
}

/** Every login id the request names. */
export function loginsOf(request: SearchRequest): readonly string[] {
  return request.loginId ? [request.loginId, ...request.loginIds] : request.loginIds;
}

/** The filters that need a user's content; undefined where the request has none of them. */
export function contentFilter(
  request: SearchRequest,
): ((content: UserContent) => boolean) | undefined {
  const tests: ((content: UserContent) => boolean)[] = [];
  const add = (wanted: boolean, test: (content: UserContent) => boolean): void => {
    if (wanted) tests.push(test);
  };
  const logins = loginsOf(request);
  const { emails, phones, statuses, roleNames, ssoAppIds, tenantIds, text } = request;
  add(logins.length > 0, (user) => holdsOne(logins, user.loginIds));
  add(emails.length > 0, (user) => emails.includes(user.email));
  add(phones.length > 0, (user) => phones.includes(user.phone));
  add(statuses.length > 0, (user) => statuses.includes(user.status));
  add(roleNames.length > 0, (user) => holdsOne(roleNames, user.roleNames));
  add(ssoAppIds.length > 0, (user) => holdsOne(ssoAppIds, user.ssoAppIds));
  add(tenantIds.length > 0, (user) => user.userTenants.some((t) => tenantIds.includes(t.tenantId)));
  add(text !== '', (user) => hasText(text, user));
  for (const name of ['verifiedEmail', 'verifiedPhone'] as const) {
    add(request[name] !== undefined, (user) => user[name] === request[name]);
  }
  const wantsAttributes = Object.keys(request.customAttributes).length > 0;
  add(wantsAttributes, (user) => hasAttributes(request.customAttributes, user));
  return tests.length === 0 ? undefined : (content) => tests.every((test) => test(content));
}
