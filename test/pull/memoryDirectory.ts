import { toUserRow } from '../../src/descope/users.ts';
import { toBounds } from '../../src/descope/timeUnit.ts';
import { createRandom, hash } from '../../src/simulator/random.ts';

import type { UserPage, UserQuery } from '../../src/descope/types.ts';
import type { UserRow } from '../../src/observation.ts';

/** A user as far as reading by time goes; times in epoch ms. */
export interface MemoryUser {
  readonly userId: string;
  readonly createdMs: number;
  readonly modifiedMs: number;
}

/** What happens just before an answer is worked out. */
export type Happening =
  | { readonly kind: 'delete'; readonly pick: number }
  | { readonly kind: 'create' }
  | { readonly kind: 'modify'; readonly pick: number };

/**
 * How an answer goes wrong: no rows and no total, no rows and the true total, some rows missing, some
 * missing and the client taking what is left for as many as Descope ever sends.
 */
export type Spoiling = 'zeroTotal' | 'emptyPage' | 'partialPage' | 'falseClamp';

export interface MemoryBehaviour {
  readonly unit: 'ms' | 's';
  readonly fromInclusive: boolean;
  readonly toInclusive: boolean;
  /** Most rows in an answer. */
  readonly clamp: number;
  /** Whether rows carry the time they are asked by. */
  readonly sendTime: 'always' | 'sometimes' | 'never';
  readonly shuffleTies: boolean;
}

export const PLAIN: MemoryBehaviour = {
  unit: 'ms',
  fromInclusive: false,
  toInclusive: true,
  clamp: 1_000,
  sendTime: 'always',
  shuffleTies: false,
};

const MOST_REQUESTS = 3_000;

/**
 * A user search over a list in memory, asked as `readRange` asks the client. It happens in the order
 * of requests, so what is deleted or spoilt when is the same every time.
 */
export class MemoryDirectory {
  readonly behaviour: MemoryBehaviour;
  /** By request, from 0. */
  happenings = new Map<number, readonly Happening[]>();
  spoilings = new Map<number, Spoiling>();
  requests = 0;
  nowMs: number;
  private users: MemoryUser[];
  private readonly untouched: Set<string>;
  private readonly rows = new Map<string, UserRow>();

  constructor(users: readonly MemoryUser[], behaviour: MemoryBehaviour, nowMs: number) {
    this.users = [...users];
    this.behaviour = behaviour;
    this.nowMs = nowMs;
    this.untouched = new Set(users.map((user) => user.userId));
  }

  /** Who was there all the time, with the same times. */
  throughout(): MemoryUser[] {
    return this.users.filter((user) => this.untouched.has(user.userId));
  }

  searchUsers = (query: UserQuery): Promise<UserPage> => {
    const turn = this.requests++;
    // Reading that does not end would not even let a test's timeout end it.
    if (turn > MOST_REQUESTS) throw new Error('reading does not end');
    this.nowMs += 10;
    for (const happening of this.happenings.get(turn) ?? []) this.happen(happening);
    const found = this.find(query, turn);
    const size = Math.min(query.limit, this.behaviour.clamp);
    const at = (query.page ?? 0) * size;
    const users = found.slice(at, at + size).map((user) => this.toRow(user));
    const observedAt = new Date(this.nowMs).toISOString();
    const page = { users, total: found.length, observedAt, pageSize: size };
    return Promise.resolve(this.spoil(page, turn));
  };

  private find(query: UserQuery, turn: number): MemoryUser[] {
    const { unit, fromInclusive, toInclusive, shuffleTies } = this.behaviour;
    const unitMs = unit === 'ms' ? 1 : 1000;
    const bounds = toBounds(unit, query.fromMs, query.toMs);
    const from = bounds.from === undefined ? -Infinity : bounds.from * unitMs;
    const to = bounds.to === undefined ? Infinity : bounds.to * unitMs;
    const time = (user: MemoryUser) =>
      query.field === 'createdTime' ? user.createdMs : user.modifiedMs;
    const place = (user: MemoryUser) => (shuffleTies ? hash(turn, Number(user.userId)) : 0);
    const matches = this.users.filter((user) => {
      const ms = time(user);
      return (fromInclusive ? ms >= from : ms > from) && (toInclusive ? ms <= to : ms < to);
    });
    const byId = (a: MemoryUser, b: MemoryUser) => Number(a.userId) - Number(b.userId);
    return query.sortById === true
      ? matches.sort(byId)
      : matches.sort((a, b) => time(a) - time(b) || place(a) - place(b) || byId(a, b));
  }

  private happen(happening: Happening): void {
    if (happening.kind === 'create') {
      const userId = String(10_000 + this.requests * 100 + this.users.length);
      this.users.push({ userId, createdMs: this.nowMs, modifiedMs: this.nowMs });
      return;
    }
    if (this.users.length === 0) return;
    const at = happening.pick % this.users.length;
    const user = this.users[at];
    if (!user) return;
    this.untouched.delete(user.userId);
    if (happening.kind === 'delete') this.users.splice(at, 1);
    else this.users[at] = { ...user, modifiedMs: this.nowMs };
    this.rows.delete(user.userId);
  }

  private spoil(page: UserPage, turn: number): UserPage {
    const spoiling = this.spoilings.get(turn);
    if (spoiling === undefined) return page;
    if (spoiling === 'zeroTotal') return { ...page, users: [], total: 0 };
    if (spoiling === 'emptyPage') return { ...page, users: [] };
    const random = createRandom(turn);
    const users = page.users.filter((_, at) => at > 0 && random() < 0.75);
    return { ...page, users, ...(spoiling === 'falseClamp' && { pageSize: users.length }) };
  }

  private toRow(user: MemoryUser): UserRow {
    const known = this.rows.get(user.userId);
    if (known) return known;
    const { sendTime } = this.behaviour;
    const told = sendTime === 'always' || (sendTime === 'sometimes' && Number(user.userId) % 5 > 0);
    const row = toUserRow({
      userId: user.userId,
      ...(told && {
        createdTime: Math.floor(user.createdMs / 1000),
        modifiedTime: Math.floor(user.modifiedMs / 1000),
      }),
    });
    if (!row) throw new Error('a user without an id');
    this.rows.set(user.userId, row);
    return row;
  }
}
