import {
  DescopeRejected,
  DescopeThrottled,
  DescopeUnauthorised,
  DescopeUnavailable,
} from '../errors.ts';
import { isRecord } from '../json.ts';
import { toUserRow } from './users.ts';

import type { Exclusion } from '../exclude.ts';
import type { UserRow } from '../observation.ts';
import type { Answer, Resource } from './fetch.ts';

/*
 * In: an answer of any status and shape. Out: what the contract promises, or a named error. Never reads
 * "nobody" out of an answer that does not plainly say so (guarantee G4).
 */

/** "User not found" on management calls (go-sdk's `ErrManagementUserNotFound`); its status is not known. */
const NOT_FOUND = 'E112102';

/** A body that kept the contract's outermost promise: a JSON object, of a request that was accepted. */
export interface Body {
  readonly resource: Resource;
  readonly status: number;
  readonly fields: Readonly<Record<string, unknown>>;
}

/**
 * The body of an accepted request.
 * @throws DescopeThrottled (429), DescopeUnauthorised (401, 403), DescopeRejected (another 4xx, or
 *   E112102 with any status), DescopeUnavailable (everything else)
 */
export function parseAnswer(
  resource: Resource,
  answer: Answer,
  parse: (text: string) => unknown,
): Body {
  const { status } = answer;
  if (status === 429) throw new DescopeThrottled(resource, answer.retryAfterMs);
  const fields = parseObject(answer.text, parse);
  const errorCode = typeof fields?.['errorCode'] === 'string' ? fields['errorCode'] : '';
  if (errorCode === NOT_FOUND) throw new DescopeRejected(resource, status, errorCode);
  if (status === 401 || status === 403) throw new DescopeUnauthorised(resource, status);
  // 408 is a failure on the way; so is a 4xx that Descope did not write, a proxy's page.
  if (status >= 400 && status < 500 && status !== 408 && fields) {
    throw new DescopeRejected(resource, status, errorCode);
  }
  if (status < 200 || status >= 300) {
    throw new DescopeUnavailable(resource, `HTTP ${status}`, status);
  }
  if (!fields) throw new DescopeUnavailable(resource, 'the body is not a JSON object', status);
  return { resource, status, fields };
}

function parseObject(
  text: string,
  parse: (text: string) => unknown,
): Readonly<Record<string, unknown>> | undefined {
  try {
    const body = parse(text);
    return isRecord(body) ? body : undefined;
  } catch {
    // The parser's message quotes the body, which holds personal data.
    return undefined;
  }
}

/** Whether this is Descope saying that the user does not exist. */
export function isNotFound(error: unknown): boolean {
  return error instanceof DescopeRejected && error.errorCode === NOT_FOUND;
}

/** @throws DescopeUnavailable without a list of users, or with one that has no id */
export function toUsers(body: Body, exclude: Exclusion): UserRow[] {
  return toList(body, 'users').map((entry) => {
    const row = toUserRow(entry, exclude);
    if (!row) throw new DescopeUnavailable(body.resource, 'a user without an id', body.status);
    return row;
  });
}

/** @throws DescopeUnavailable without exactly one user with an id */
export function toUser(body: Body, exclude: Exclusion): UserRow {
  const row = toUserRow(body.fields['user'], exclude);
  if (!row) throw new DescopeUnavailable(body.resource, 'no user with an id', body.status);
  return row;
}

/** @throws DescopeUnavailable where `name` is not a list */
export function toList(body: Body, name: 'users' | 'audits'): readonly unknown[] {
  const list = body.fields[name];
  if (Array.isArray(list)) return list as unknown[];
  throw new DescopeUnavailable(body.resource, `no list of ${name} in the body`, body.status);
}

/**
 * Matches of the whole query, a number (or its text: protobuf writes 64-bit integers so).
 * @throws DescopeUnavailable where it is missing or no count
 */
export function toTotal(body: Body): number {
  const value = body.fields['total'];
  const total = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
  if (typeof total === 'number' && Number.isSafeInteger(total) && total >= 0) return total;
  throw new DescopeUnavailable(body.resource, 'no total in the body', body.status);
}
