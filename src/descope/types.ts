import type { Instant, UserRow } from '../observation.ts';

/** Who goes first when the budget is short: events before pulls before sweeps (guarantee G6). */
export type Priority = 'event' | 'pull' | 'sweep';

/** How one call to Descope is made. */
export interface Call {
  readonly priority: Priority;
  /** Aborts the wait for the budget and the request itself. */
  readonly signal: AbortSignal;
}

/** The time field a window of users is cut by. */
export type TimeField = 'createdTime' | 'modifiedTime';

/** One page of a user search. */
export interface UserQuery {
  /** Sorted ascending by this field; also the field that `fromMs` and `toMs` filter. */
  readonly field: TimeField;
  /**
   * Epoch ms, both wanted inclusively. The request asks one unit more on each side, because whether
   * Descope's bounds are inclusive is not certain; the answer may hold a few rows beyond them.
   */
  readonly fromMs?: number;
  readonly toMs?: number;
  readonly limit: number;
  /** 0-based; 0 where absent. */
  readonly page?: number;
  /** Sort by the immutable id instead: for paging among users of one and the same instant. */
  readonly sortById?: boolean;
}

/** The answer to one search request. */
export interface UserPage {
  readonly users: readonly UserRow[];
  /** Matches for the whole query, not this page. */
  readonly total: number;
  /** Taken from the mirror database's clock just before the request was sent. */
  readonly observedAt: Instant;
  /** Most rows Descope puts in one answer, as far as noticed: `limit`, or less where it clamps. */
  readonly pageSize: number;
}

/** The answer to a load by ids. */
export interface LoadAnswer {
  readonly users: readonly UserRow[];
  /** Asked for and not in the answer. Not yet proof that they are gone. */
  readonly missing: readonly string[];
  /** Those of the missing that were asked for singly and that Descope said "not found" of (E112102). */
  readonly notFound?: readonly string[];
  readonly observedAt: Instant;
}

/** The answer to a load of one user. `null` means Descope said "not found" (E112102), and only that. */
export interface LoadOneAnswer {
  readonly user: UserRow | null;
  readonly observedAt: Instant;
}

/** One page of audit records, as answered: parse them with the webhook's tolerant parser. */
export interface AuditPage {
  readonly records: readonly unknown[];
  /** Matches for the whole query, not this page. */
  readonly total: number;
  readonly observedAt: Instant;
  /** How many records were asked for: a page that holds fewer is the last, or not to be trusted. */
  readonly pageSize: number;
}

export interface AuditQuery {
  /** Epoch ms. */
  readonly fromMs: number;
  readonly toMs: number;
  /** 0-based; oldest first; 1000 records a page at most. */
  readonly page: number;
  /** Only these actions; every action where empty. */
  readonly actions: readonly string[];
}

/** What we read from Descope: plain values out, the errors of `errors.ts` thrown. */
export interface DescopeClient {
  searchUsers(query: UserQuery, call: Call): Promise<UserPage>;
  /** 1 to 100 ids. Falls back to halving and single loads where an unknown id fails the batch. */
  loadUsers(userIds: readonly string[], call: Call): Promise<LoadAnswer>;
  /** Whether one unknown id is known to fail a whole batch. */
  refusesUnknownIds(): Promise<boolean>;
  loadUser(userId: string, call: Call): Promise<LoadOneAnswer>;
  loadUserByLoginId(loginId: string, call: Call): Promise<LoadOneAnswer>;
  searchAudit(query: AuditQuery, call: Call): Promise<AuditPage>;
  /** Descope's clock minus the mirror database's, in ms, from the `Date` of the last answers; 0 before any. */
  clockOffsetMs(): number;
}
