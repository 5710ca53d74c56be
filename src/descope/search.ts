import { DescopeUnavailable } from '../errors.ts';
import { NOTHING_EXCLUDED, type Exclusion } from '../exclude.ts';
import { parseJson } from '../json.ts';
import { parseAnswer, toTotal, toUsers } from './answers.ts';
import { createPageSize } from './pageSize.ts';
import { createTimeUnit, toBounds, type TimeBound } from './timeUnit.ts';

import type { Mirror } from '../mirror/database.ts';
import type { UserRow } from '../observation.ts';
import type { Answer } from './fetch.ts';
import type { Ask, Management } from './sdk.ts';
import type { Call, DescopeClient, UserQuery } from './types.ts';

export interface UserSearchDeps {
  readonly mirror: Pick<Mirror, 'db' | 't'>;
  readonly timeUnit: 'auto' | 'ms' | 's';
  readonly includeTestUsers: boolean;
  /** Fields that are left out of every answer. */
  readonly exclude?: Exclusion;
}

export type SearchRequest = Parameters<Management['user']['search']>[0];

/** One search as it goes on the wire, and its answer unread. A bound alone counts everyone it holds. */
export type Search = (request: SearchRequest | TimeBound, call: Call) => Promise<Answer>;

/** `POST /v2/mgmt/user/search`, unadorned. */
export function createSearch(ask: Ask): Search {
  return (request, call) => {
    const asked = 'side' in request ? toCount(request) : request;
    return ask('user search', call, (management) => management.user.search(asked));
  };
}

/** Test users too: the more there are, the surer is what a count tells. */
function toCount(bound: TimeBound): SearchRequest {
  return { ...toFilter(bound), limit: 1, withTestUser: true };
}

/** `POST /v2/mgmt/user/search`, sorted ascending and cut by time. */
export function createUserSearch(deps: UserSearchDeps, ask: Ask): DescopeClient['searchUsers'] {
  const search = createSearch(ask);
  const pageSize = createPageSize(deps.mirror);
  const timeUnit = createTimeUnit({
    mirror: deps.mirror,
    setting: deps.timeUnit,
    count: async (bound, call) => countOf(await search(bound, call)),
  });

  async function toFilters(query: UserQuery, call: Call): Promise<SearchRequest> {
    const { field, fromMs, toMs } = query;
    if (fromMs === undefined && toMs === undefined) return {};
    const { from, to } = toBounds(await timeUnit(field, call), fromMs, toMs);
    return {
      ...(from === undefined ? {} : toFilter({ field, side: 'from', value: from })),
      ...(to === undefined ? {} : toFilter({ field, side: 'to', value: to })),
    };
  }

  return async (query, call) => {
    const page = query.page ?? 0;
    const request: SearchRequest = {
      ...(await toFilters(query, call)),
      sort: [{ field: query.sortById === true ? 'id' : query.field, desc: false }],
      page,
      // Later pages in steps of what really comes, whatever Descope multiplies the number by.
      limit: page === 0 ? query.limit : await pageSize.of(query.limit),
      // No `statuses`: without that filter every status comes, even one we have never heard of.
      withTestUser: deps.includeTestUsers,
    };
    const answer = await search(request, call);
    const { users, total } = toPage(answer, deps.exclude);
    if (page === 0) await pageSize.note(query.limit, users.length, total);
    const size = await pageSize.of(query.limit);
    return { users, total, observedAt: answer.observedAt, pageSize: size };
  };
}

/** Wire names of the time filters (OpenAPI `SearchUsersRequest`). */
export function toFilter({ field, side, value }: TimeBound): SearchRequest {
  if (field === 'createdTime') {
    return side === 'from' ? { fromCreatedTime: value } : { toCreatedTime: value };
  }
  return side === 'from' ? { fromModifiedTime: value } : { toModifiedTime: value };
}

/** @throws what `parseAnswer` throws; DescopeUnavailable where rows or total are missing */
export function toPage(
  answer: Answer,
  exclude: Exclusion = NOTHING_EXCLUDED,
): { users: UserRow[]; total: number } {
  const body = parseAnswer('user search', answer, parseJson);
  return { users: toUsers(body, exclude), total: toTotal(body) };
}

/** The total of a search, where its rows bear it out: what a probe finds is remembered for good. */
export function countOf(answer: Answer): number {
  const { users, total } = toPage(answer);
  if (users.length > 0 === total > 0) return total;
  throw new DescopeUnavailable('user search', 'its rows and its total contradict each other');
}
