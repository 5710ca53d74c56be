import type { UserPage, UserQuery } from '../descope/types.ts';
import type { UserRow } from '../observation.ts';

/**
 * What one search answer proves.
 * whole: it holds every match of its query.
 * upTo: it holds every match before `timeMs`; go on from there, inclusively.
 * tie: more users of one instant than fit in an answer; page among them.
 * split: rows do not carry the time, or are not sorted by it; cut the range smaller.
 * unproven: it contradicts itself; ask again.
 */
export type Verdict =
  | { readonly kind: 'whole' }
  | { readonly kind: 'upTo'; readonly timeMs: number }
  | { readonly kind: 'tie'; readonly timeMs: number }
  | { readonly kind: 'split' }
  | { readonly kind: 'unproven'; readonly reason: string };

/** The user's time in epoch ms, at the precision Descope tells (seconds); null where it does not. */
export function timeOf(user: UserRow, field: UserQuery['field']): number | null {
  const time = field === 'createdTime' ? user.createdTime : user.modifiedTime;
  return time === null ? null : Date.parse(time);
}

/**
 * Judges a first page (page 0, sorted ascending by the query's time field). Pure.
 *
 * One answer is one snapshot. Where it is sorted and full, nothing before its last row's time can be
 * missing from it; rows *of* that time may be, so the next request begins there again. A short page
 * that is not everything is a fault (or a clamp not noticed yet) and proves nothing.
 */
export function judgePage(query: UserQuery, page: UserPage): Verdict {
  const { users, total, pageSize } = page;
  const distinct = new Set(users.map((user) => user.userId)).size;
  if (distinct !== users.length) return { kind: 'unproven', reason: 'a user appears twice' };
  if (users.length > total) {
    return { kind: 'unproven', reason: `${users.length} rows of a total of ${total}` };
  }
  if (users.length === total) return { kind: 'whole' };
  if (users.length < pageSize) {
    return { kind: 'unproven', reason: `${users.length} rows where ${pageSize} were to come` };
  }
  return judgeFullPage(query, users);
}

function judgeFullPage(query: UserQuery, users: readonly UserRow[]): Verdict {
  let last = -Infinity;
  for (const user of users) {
    const time = timeOf(user, query.field);
    if (time === null || time < last) return { kind: 'split' };
    last = time;
  }
  // Rows from before the range are the one unit asked for beyond its edge; they are no progress.
  const from = query.fromMs ?? -Infinity;
  return last > floorSecond(from) ? { kind: 'upTo', timeMs: last } : { kind: 'tie', timeMs: last };
}

/** Times are answered in whole seconds, so ranges are cut at whole seconds. */
export function floorSecond(ms: number): number {
  return Math.floor(ms / 1000) * 1000;
}
