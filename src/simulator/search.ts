import { hash } from './random.ts';
import { boundsOf, contentFilter, loginsOf } from './searchRequest.ts';
import { inScope } from './timeline.ts';

import type { Behaviour } from './behaviour.ts';
import type { Directory } from './directory.ts';
import type { UserContent } from './generate.ts';
import type { Bounds, SearchRequest, SortField } from './searchRequest.ts';
import type { SortedList } from './sortedList.ts';
import type { OrderField, Scope, StoredUser } from './timeline.ts';

/*
 * In comes a parsed search, out goes one page of users. A page of an ordered list is cut out of it
 * without looking at anything else; only what no list can answer is collected and sorted.
 */

export interface SearchResult {
  readonly users: readonly StoredUser[];
  /** Matches for the whole query. */
  readonly total: number;
  /** How many users were looked at to answer: the cost of the request. */
  readonly examined: number;
}

/** Users next to each other in one of the timeline's lists. */
interface Range {
  readonly field: OrderField;
  readonly list: SortedList<StoredUser>;
  readonly start: number;
  readonly end: number;
}

/** The rows wanted of all that match. */
interface Cut {
  readonly from: number;
  readonly to: number;
  /** Equal users are reordered by it; 0 leaves them in the order of their ids. */
  readonly turn: number;
}

type Keep = (user: StoredUser) => boolean;

const isOrderField = (field: SortField): field is OrderField =>
  field === 'id' || field === 'createdTime' || field === 'modifiedTime';

const timeOf = (user: StoredUser, field: OrderField): number =>
  field === 'modifiedTime' ? user.modifiedMs : user.createdMs;

/** One search as of the timeline's last `seek`. `turn`, from 1, differs between requests: it reorders ties. */
export function searchUsers(
  directory: Directory,
  request: SearchRequest,
  behaviour: Behaviour,
  turn: number,
): SearchResult {
  const limit = Math.min(request.limit || 100, behaviour.maxPageSize);
  const from = request.offset > 0 ? request.offset : request.page * limit;
  const cut: Cut = { from, to: from + limit, turn: behaviour.tieOrder === 'shuffled' ? turn : 0 };
  const sort: SearchRequest['sort'] =
    request.sort.length > 0 ? request.sort : [{ field: 'createdTime', desc: false }];
  const scope = scopeOf(request);
  const windows = windowsOf(request, behaviour);
  const content = contentFilter(request);
  const keep: Keep = (user) =>
    inScope(user, scope) &&
    windows.every(({ field, bounds }) => isWithin(timeOf(user, field), bounds)) &&
    (!content || content(directory.content(user)));

  const named = namedUsers(directory, request);
  if (named) return collect(directory, named, { keep, sort, cut });

  const [first] = sort;
  const order = first && sort.length === 1 && isOrderField(first.field) ? first.field : undefined;
  const range = narrowest(directory, windows, { scope, order });
  if (first && range.field === order && windows.length < 2 && !content) {
    return slice(range, first.desc, cut);
  }
  return collect(directory, range.list.slice(range.start, range.end), { keep, sort, cut });
}

const scopeOf = (request: SearchRequest): Scope =>
  request.testUsersOnly ? 'test' : request.withTestUser ? 'all' : 'real';

interface Window {
  readonly field: 'createdTime' | 'modifiedTime';
  readonly bounds: Bounds;
}

function windowsOf(request: SearchRequest, behaviour: Behaviour): Window[] {
  const created = boundsOf(request.fromCreatedTime, request.toCreatedTime, behaviour);
  const modified = boundsOf(request.fromModifiedTime, request.toModifiedTime, behaviour);
  return [
    ...(created ? [{ field: 'createdTime' as const, bounds: created }] : []),
    ...(modified ? [{ field: 'modifiedTime' as const, bounds: modified }] : []),
  ];
}

const isWithin = (ms: number, bounds: Bounds): boolean =>
  !bounds.isBelow(ms) && bounds.isWithinTop(ms);

/** The users that a request names by id or login id, each once; undefined where it names none. */
function namedUsers(directory: Directory, request: SearchRequest): StoredUser[] | undefined {
  const logins = loginsOf(request);
  if (request.userIds.length > 0) {
    // Where it names login ids too, the content filter checks them.
    const userIds = [...new Set(request.userIds)];
    return userIds.flatMap((userId) => directory.timeline.get(userId) ?? []);
  }
  if (logins.length === 0) return undefined;
  return [...new Set(logins.flatMap((loginId) => directory.holderOf(loginId) ?? []))];
}

/** The fewest users that hold every match: the narrowest window, or everyone. */
function narrowest(
  { timeline }: Directory,
  windows: readonly Window[],
  { scope, order }: { readonly scope: Scope; readonly order: OrderField | undefined },
): Range {
  const [range] = windows
    .map(({ field, bounds }) => {
      const list = timeline.list(field, scope);
      const start = list.rank((user) => bounds.isBelow(timeOf(user, field)));
      const end = list.rank((user) => bounds.isWithinTop(timeOf(user, field)));
      return { field, list, start, end: Math.max(start, end) };
    })
    .sort((a, b) => a.end - a.start - (b.end - b.start));
  if (range) return range;
  const field = order ?? 'createdTime';
  const list = timeline.list(field, scope);
  return { field, list, start: 0, end: list.length };
}

/** The usual case: the page is a piece of an ordered list. */
function slice(range: Range, desc: boolean, cut: Cut): SearchResult {
  const { field, list, start, end } = range;
  const total = end - start;
  const from = Math.min(cut.from, total);
  const to = Math.min(cut.to, total);
  const [first, last] = desc ? [end - to, end - from] : [start + from, start + to];
  const { users, examined } =
    cut.turn === 0 || field === 'id' || first === last
      ? { users: list.slice(first, last), examined: last - first }
      : sliceShuffled(range, first, last, cut.turn);
  return { users: desc ? users.reverse() : users, total, examined };
}

/** A piece of a list whose equal instants change places: ties are shuffled whole, also beyond the piece. */
function sliceShuffled(
  { field, list, start, end }: Range,
  first: number,
  last: number,
  turn: number,
): { users: StoredUser[]; examined: number } {
  const [lowest] = list.slice(first, first + 1);
  const [highest] = list.slice(last - 1, last);
  if (!lowest || !highest) return { users: [], examined: 0 };
  const low = list.rank((user) => timeOf(user, field) < timeOf(lowest, field));
  const high = list.rank((user) => timeOf(user, field) <= timeOf(highest, field));
  const users = list.slice(Math.max(start, low), Math.min(end, high));
  const place = new Map(users.map((user) => [user, hash(turn, user.serial)]));
  users.sort(
    (a, b) => timeOf(a, field) - timeOf(b, field) || compare(place.get(a) ?? 0, place.get(b) ?? 0),
  );
  const skipped = first - Math.max(start, low);
  return { users: users.slice(skipped, skipped + last - first), examined: users.length };
}

/** Every other case: keep what matches, sort it, cut the page. */
function collect(
  directory: Directory,
  candidates: readonly StoredUser[],
  how: { readonly keep: Keep; readonly sort: SearchRequest['sort']; readonly cut: Cut },
): SearchResult {
  const { keep, sort, cut } = how;
  const rows = candidates.filter(keep).map((user) => ({
    user,
    keys: sort.map(({ field }) => keyOf(directory, user, field)),
    tie: cut.turn === 0 ? user.userId : hash(cut.turn, user.serial),
  }));
  rows.sort((a, b) => {
    for (const [index, { desc }] of sort.entries()) {
      const order = compare(a.keys[index] ?? '', b.keys[index] ?? '');
      if (order !== 0) return desc ? -order : order;
    }
    return compare(a.tie, b.tie);
  });
  const users = rows.slice(cut.from, cut.to).map(({ user }) => user);
  return { users, total: rows.length, examined: candidates.length };
}

const compare = (a: string | number, b: string | number): number => (a < b ? -1 : a > b ? 1 : 0);

/** What a user is sorted by. */
function keyOf(directory: Directory, user: StoredUser, field: SortField): string | number {
  if (field === 'id') return user.userId;
  if (isOrderField(field)) return timeOf(user, field);
  return contentKey(field, directory.content(user));
}

function contentKey(field: Exclude<SortField, OrderField>, content: UserContent): string {
  switch (field) {
    case 'email':
      return content.email;
    case 'phoneNumber':
      return content.phone;
    case 'status':
      return content.status;
    case 'displayName':
      return content.name;
    case 'externalId':
      return content.externalIds[0] ?? '';
    case 'tenant':
      return content.userTenants[0]?.tenantName ?? '';
  }
}
