import { z } from 'zod';

import { parseAuditRequest, toAuditRecord } from './audit.ts';
import { searchUsers } from './search.ts';
import { parseSearchRequest } from './searchRequest.ts';

import type { Behaviour } from './behaviour.ts';
import type { Delivery } from './delivery.ts';
import type { Directory } from './directory.ts';
import type { RequestKind } from './requestLog.ts';

/*
 * The operations of the management API. In comes a parsed request, out goes a status and a body;
 * what goes wrong on the way (limits, faults, latency) is the server's.
 */

export interface ApiRequest {
  readonly kind: RequestKind;
  readonly path: string;
  readonly query: URLSearchParams;
  /** Parsed JSON; undefined for a GET. */
  readonly body: unknown;
  /** Reads of users answer as of this instant (epoch ms, without the simulated skew); Infinity is now. */
  readonly asOfMs: number;
  /** The number of the request, from 1. */
  readonly turn: number;
}

export interface ApiAnswer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Api {
  readonly directory: Directory;
  readonly behaviour: Behaviour;
  readonly delivery: Delivery;
  readonly projectId: string;
}

const ROUTES: Readonly<Record<string, RequestKind>> = {
  'POST /v2/mgmt/user/search': 'userSearch',
  'POST /v1/mgmt/user/search': 'userSearch',
  'POST /v1/mgmt/users/load': 'userLoad',
  'GET /v1/mgmt/user': 'userGet',
  'POST /v1/mgmt/audit/search': 'audit',
  'GET /v1/mgmt/license': 'license',
  'POST /v2/mgmt/connector/audit/web/set': 'connector',
};

/** Followed by a project id: what sessions are signed with, for anybody to read. */
const KEYS_PATH = '/v2/keys/';

/** Which operation a request is for; `other` where we know none. */
export function kindOf(method: string, path: string): RequestKind {
  if (method === 'GET' && path.startsWith(KEYS_PATH)) return 'keys';
  return ROUTES[`${method} ${path}`] ?? 'other';
}

/** An error as Descope words it. Codes but E112102 and E130429 are examples: nothing lists them. */
export function toError(status: number, errorCode: string, errorDescription: string): ApiAnswer {
  return { status, body: { errorCode, errorDescription, errorMessage: errorDescription } };
}

const NO_SUCH_OPERATION = toError(404, 'E011000', 'No such operation');

/** Answers one request. @throws ZodError where the body is not what the operation takes */
export function answer(api: Api, request: ApiRequest): ApiAnswer {
  switch (request.kind) {
    case 'userSearch':
      return answerSearch(api, request);
    case 'userLoad':
      return answerLoad(api, request);
    case 'userGet':
      return answerGet(api, request);
    case 'audit':
      return answerAudit(api, request);
    case 'license':
      return { status: 200, body: { rateLimitTier: 'tier2' } };
    case 'connector':
      return answerConnector(api, request);
    case 'keys':
      return answerKeys(api, request);
    case 'other':
      return NO_SUCH_OPERATION;
  }
}

function answerSearch({ directory, behaviour }: Api, request: ApiRequest): ApiAnswer {
  directory.timeline.seek(request.asOfMs);
  const search = parseSearchRequest(request.body);
  const found = searchUsers(directory, search, behaviour, request.turn);
  const users = found.users.map((user) => directory.toAnswer(user));
  return { status: 200, body: { users, total: found.total } };
}

const loadRequest = z.object({
  userIds: z.array(z.string()).default([]),
  includeInvalidUsers: z.boolean().default(false),
});

function answerLoad({ directory, behaviour }: Api, request: ApiRequest): ApiAnswer {
  directory.timeline.seek(request.asOfMs);
  const { userIds, includeInvalidUsers } = loadRequest.parse(request.body);
  if (userIds.length === 0 || userIds.length > behaviour.maxLoadIds) {
    return toError(400, 'E011002', `userIds must hold 1 to ${behaviour.maxLoadIds} ids`);
  }
  const users = [...new Set(userIds)].flatMap((userId) => {
    const user = directory.timeline.get(userId);
    const shown = user && directory.toAnswer(user);
    const valid = shown?.status === 'enabled' || shown?.status === 'invited';
    return shown && (valid || includeInvalidUsers) ? [shown] : [];
  });
  const known = userIds.every((userId) => directory.timeline.get(userId));
  if (!known && behaviour.unknownIds === 'fail') return userNotFound(behaviour);
  return { status: 200, body: { users, total: users.length } };
}

function answerGet({ directory, behaviour }: Api, request: ApiRequest): ApiAnswer {
  directory.timeline.seek(request.asOfMs);
  const userId = request.query.get('userId');
  const loginId = request.query.get('loginId');
  if (!userId && !loginId) return toError(400, 'E011002', 'userId or loginId is required');
  const user = userId
    ? directory.timeline.get(userId)
    : // As the SDK's `load(loginIdOrUserId)` expects, a user id passes for a login id.
      (directory.holderOf(loginId ?? '') ?? directory.timeline.get(loginId ?? ''));
  return user ? { status: 200, body: { user: directory.toAnswer(user) } } : userNotFound(behaviour);
}

function userNotFound({ missingUserStatus }: Behaviour): ApiAnswer {
  return toError(missingUserStatus, 'E112102', 'User not found');
}

function answerAudit({ directory, behaviour }: Api, request: ApiRequest): ApiAnswer {
  const search = parseAuditRequest(request.body);
  const { events, total } = directory.audit.search(search, behaviour, directory.clockMs());
  const audits = events.map((event) => toAuditRecord(event, behaviour.pluralIds));
  return { status: 200, body: { audits, total } };
}

const connectorRequest = z.object({
  name: z.string().min(1),
  id: z.string().optional(),
  url: z.url({ protocol: /^https?$/ }),
  hmacSecret: z.string().optional(),
  headers: z.record(z.string(), z.string()).optional(),
  authentication: z
    .object({
      bearerToken: z.string().optional(),
      basic: z.object({ username: z.string(), password: z.string() }).optional(),
      apiKey: z.object({ key: z.string(), token: z.string() }).optional(),
    })
    .optional(),
});

/** Status and code for an unknown project are not documented. */
function answerKeys({ projectId }: Api, { path }: ApiRequest): ApiAnswer {
  if (path !== KEYS_PATH + projectId) return toError(404, 'E011404', 'No such project');
  const key = { alg: 'RS256', e: 'AQAB', kid: 'SK2simulated', kty: 'RSA', n: 'AQAB', use: 'sig' };
  return { status: 200, body: { keys: [key] } };
}

function answerConnector({ delivery, behaviour }: Api, request: ApiRequest): ApiAnswer {
  if (behaviour.connector === 'noSuchOperation') return NO_SUCH_OPERATION;
  if (behaviour.connector === 'forbidden') return toError(403, 'E011403', 'Not permitted');
  const set = connectorRequest.parse(request.body);
  const { bearerToken, basic, apiKey } = set.authentication ?? {};
  delivery.configure({
    url: set.url,
    ...(set.hmacSecret ? { hmacSecret: set.hmacSecret } : {}),
    ...(set.headers ? { headers: set.headers } : {}),
    ...(bearerToken ? { bearer: bearerToken } : {}),
    ...(basic && { basic: { name: basic.username, value: basic.password } }),
    ...(apiKey && { apiKey: { name: apiKey.key, value: apiKey.token } }),
  });
  return { status: 200, body: { id: set.id ?? 'CI0000000000000000000000000001' } };
}
