import { SortedList } from './sortedList.ts';

import type { UserContent } from './generate.ts';

/** What is kept of a user; the rest is generated again from its serial whenever it is asked for. */
export interface StoredUser {
  readonly userId: string;
  readonly serial: number;
  /** Epoch ms of Descope's clock; answered in whole seconds, filtered in full. */
  readonly createdMs: number;
  readonly modifiedMs: number;
  readonly test: boolean;
  readonly patch: Partial<UserContent> | undefined;
}

export type OrderField = 'createdTime' | 'modifiedTime' | 'id';
/** `real` users are those a search returns unless asked for test users. */
export type Scope = 'real' | 'test' | 'all';

interface Mutation {
  readonly atMs: number;
  readonly userId: string;
  readonly before: StoredUser | undefined;
  readonly after: StoredUser | undefined;
}

const byId = (a: StoredUser, b: StoredUser): number =>
  a.userId < b.userId ? -1 : a.userId > b.userId ? 1 : 0;

/** Equal instants are ordered by id: what `tieOrder: stable` promises. */
const ORDERS: Record<OrderField, (a: StoredUser, b: StoredUser) => number> = {
  createdTime: (a, b) => a.createdMs - b.createdMs || byId(a, b),
  modifiedTime: (a, b) => a.modifiedMs - b.modifiedMs || byId(a, b),
  id: byId,
};

export const inScope = (user: StoredUser, scope: Scope): boolean =>
  scope === 'all' || user.test === (scope === 'test');

/**
 * Every user now, and as they were a little while ago.
 *
 * Changes are kept in order. The ordered lists that searches read stand at one place in that order,
 * and `seek` moves them forth and back by applying or undoing changes. A read replica that lags and
 * a stale answer are the same thing: a read after seeking into the past.
 */
export class Timeline {
  private readonly now: () => number;
  private readonly lagMs: () => number;
  private readonly keepMs: () => number;
  private readonly truth = new Map<string, StoredUser>();
  private readonly lists = new Map<`${OrderField} ${Scope}`, SortedList<StoredUser>>();
  private history: Mutation[] = [];
  /** The first `position` changes of the history show in reads. */
  private position = 0;
  /** As reads see them, the users that a change beyond the position touches. */
  private readonly behind = new Map<string, StoredUser | undefined>();

  constructor(
    initial: readonly StoredUser[],
    clock: {
      readonly now: () => number;
      /** How far reads normally lag. */
      readonly lagMs: () => number;
      /** How far back `seek` must be able to go. */
      readonly keepMs: () => number;
    },
  ) {
    this.now = clock.now;
    this.lagMs = clock.lagMs;
    this.keepMs = clock.keepMs;
    for (const user of initial) this.truth.set(user.userId, user);
  }

  /** The number of live users, test users included. */
  get size(): number {
    return this.truth.size;
  }

  /** The user as it truly is now. */
  current(userId: string): StoredUser | undefined {
    return this.truth.get(userId);
  }

  /** Everyone as they truly are now. */
  everyone(): Iterable<StoredUser> {
    return this.truth.values();
  }

  /** Creates, replaces or (where `after` is undefined) removes a user. */
  record(userId: string, after: StoredUser | undefined): void {
    const before = this.truth.get(userId);
    if (after) this.truth.set(userId, after);
    else this.truth.delete(userId);
    const atMs = this.now();
    this.history.push({ atMs, userId, before, after });
    if (!this.behind.has(userId)) this.behind.set(userId, before);
    const lagMs = this.lagMs();
    this.seek(lagMs === 0 ? Infinity : atMs - lagMs);
    this.prune(atMs);
  }

  /** Makes the reads below answer as of `asOfMs` of the simulator's own clock; Infinity is now. */
  seek(asOfMs: number): void {
    for (;;) {
      const next = this.history[this.position];
      if (!next || next.atMs > asOfMs) break;
      this.swap(next.before, next.after);
      this.position++;
      if (next.after === this.truth.get(next.userId)) this.behind.delete(next.userId);
      else this.behind.set(next.userId, next.after);
    }
    for (;;) {
      const last = this.history[this.position - 1];
      if (!last || last.atMs <= asOfMs) break;
      this.swap(last.after, last.before);
      this.position--;
      this.behind.set(last.userId, last.before);
    }
  }

  /** The user as of the last `seek`. */
  get(userId: string): StoredUser | undefined {
    return this.behind.has(userId) ? this.behind.get(userId) : this.truth.get(userId);
  }

  /** The users that reads see otherwise than they truly are now, as reads see them. */
  *outdated(): Iterable<StoredUser> {
    for (const user of this.behind.values()) if (user) yield user;
  }

  /** Users of `scope` in the order of `field`, as of the last `seek`. Built when first asked for. */
  list(field: OrderField, scope: Scope): SortedList<StoredUser> {
    const key = `${field} ${scope}` as const;
    const known = this.lists.get(key);
    if (known) return known;
    const users: StoredUser[] = [];
    for (const user of this.truth.values()) {
      if (!this.behind.has(user.userId) && inScope(user, scope)) users.push(user);
    }
    for (const user of this.behind.values()) if (user && inScope(user, scope)) users.push(user);
    const list = new SortedList(users, ORDERS[field]);
    this.lists.set(key, list);
    return list;
  }

  private swap(from: StoredUser | undefined, to: StoredUser | undefined): void {
    for (const [key, list] of this.lists) {
      const scope = key.slice(key.indexOf(' ') + 1) as Scope;
      if (from && inScope(from, scope)) list.remove(from);
      if (to && inScope(to, scope)) list.insert(to);
    }
  }

  /** Forgets the older half of the changes once no `seek` can reach it; halves keep the cost even. */
  private prune(nowMs: number): void {
    const half = Math.floor(this.history.length / 2);
    const middle = this.history[half];
    if (half < 1_000 || half > this.position) return;
    if (!middle || middle.atMs >= nowMs - this.keepMs()) return;
    this.history = this.history.slice(half);
    this.position -= half;
  }
}
