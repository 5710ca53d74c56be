import { AuditLog } from './audit.ts';
import { generateContent, isTestUser, userIdOf } from './generate.ts';
import { LoginIds } from './loginIds.ts';
import { populate } from './populate.ts';
import { below, idOf } from './random.ts';
import { Timeline } from './timeline.ts';

import type { AuditEvent } from './audit.ts';
import type { Behaviour } from './behaviour.ts';
import type { UserAnswer, UserContent } from './generate.ts';
import type { Random } from './random.ts';
import type { StoredUser } from './timeline.ts';

/** What a new user may be given; the rest is generated. */
export type NewUser = Partial<UserContent> & {
  /** Epoch ms of Descope's clock; now where absent. */
  readonly createdMs?: number;
};

export interface MutationOptions {
  /** False: no audit record and so no webhook, as some changes of Descope may be. */
  readonly event?: boolean;
  /** False: the change does not move the user's modified time. */
  readonly moveModifiedTime?: boolean;
}

export interface CreateManyOptions extends MutationOptions {
  /** All of them with one and the same creation instant, as a bulk import leaves them. */
  readonly sameInstant?: boolean;
  /** Content they have in common. */
  readonly content?: Partial<Omit<UserContent, 'loginIds' | 'externalIds'>>;
}

export interface DirectoryOptions {
  readonly users: number;
  readonly seed: number;
  readonly projectId: string;
  /** How many of the initial users share one creation instant. */
  readonly sameInstant: number;
  /** Epoch ms, without the simulated skew. */
  readonly now: () => number;
  readonly behaviour: Behaviour;
}

/** The Descope project's users and what happened to them. Changes show at once; reads over HTTP may lag. */
export class Directory {
  readonly audit = new AuditLog();
  /** For the API's reads: call its `seek` first. */
  readonly timeline: Timeline;
  readonly seed: number;
  readonly projectId: string;
  private readonly behaviour: Behaviour;
  private readonly now: () => number;
  private readonly loginIds: LoginIds;
  private readonly listeners = new Set<(event: AuditEvent) => void>();
  private nextSerial: number;
  private nextEvent = 1;
  private testUsers: number;

  constructor(options: DirectoryOptions) {
    this.seed = options.seed;
    this.loginIds = new LoginIds(options.seed);
    this.projectId = options.projectId;
    this.behaviour = options.behaviour;
    this.now = options.now;
    this.nextSerial = options.users + 1;
    const initial = populate({ ...options, endMs: this.clockMs() });
    this.testUsers = initial.filter((user) => user.test).length;
    this.timeline = new Timeline(initial, {
      now: options.now,
      lagMs: () => this.behaviour.readLagMs,
      keepMs: () => Math.max(this.behaviour.readLagMs, this.behaviour.staleMs),
    });
  }

  /** Live users, test users included. */
  get size(): number {
    return this.timeline.size;
  }

  /** Live users without test users: what a search without filters counts. */
  get realSize(): number {
    return this.timeline.size - this.testUsers;
  }

  /** Descope's clock, epoch ms: ours and the simulated skew. */
  clockMs(): number {
    return this.now() + this.behaviour.clockSkewMs;
  }

  get(userId: string): StoredUser | undefined {
    return this.timeline.current(userId);
  }

  /** Any live user; now and then none, while reads lag. */
  pick(random: Random): StoredUser | undefined {
    const everyone = this.timeline.list('createdTime', 'all');
    const user = everyone.at(below(random, everyone.length));
    return user && this.timeline.current(user.userId);
  }

  /** Every live user as the API answers it, test users included; in no order to rely on. */
  *users(): Generator<UserAnswer> {
    for (const user of this.timeline.everyone()) yield this.toAnswer(user);
  }

  /** The exact object the API answers for a user; undefined where there is none. */
  answer(userId: string): UserAnswer | undefined {
    const user = this.timeline.current(userId);
    return user && this.toAnswer(user);
  }

  content(user: StoredUser): UserContent {
    return { ...generateContent(this.seed, user.serial), ...user.patch };
  }

  toAnswer(user: StoredUser): UserAnswer {
    return {
      userId: user.userId,
      ...this.content(user),
      createdTime: Math.floor(user.createdMs / 1000),
      ...(this.behaviour.sendModifiedTime && {
        modifiedTime: Math.floor(user.modifiedMs / 1000),
      }),
    };
  }

  /** Who has this login id, as of the timeline's last `seek`. */
  holderOf(loginId: string): StoredUser | undefined {
    const likely = this.loginIds
      .likelyHolders(loginId)
      .flatMap((userId) => this.timeline.get(userId) ?? []);
    // The past may have had another holder.
    for (const user of [...likely, ...this.timeline.outdated()]) {
      if (this.content(user).loginIds.includes(loginId)) return user;
    }
    return undefined;
  }

  /** Told of every audit event, in order. Returns how to stop listening. */
  onEvent(listener: (event: AuditEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** @throws Error where another live user has one of the login ids */
  createUser(user: NewUser = {}, options: MutationOptions = {}): StoredUser {
    const created = this.create(user);
    if (options.event !== false) this.publish('UserCreated', [created]);
    return created;
  }

  /** Creates `count` users one by one. */
  createMany(count: number, options: CreateManyOptions = {}): StoredUser[] {
    const created = this.createAll(count, options);
    if (options.event !== false) for (const user of created) this.publish('UserCreated', [user]);
    return created;
  }

  /** Creates `count` users with one call: one `UsersCreated`. */
  createBatch(count: number, options: CreateManyOptions = {}): StoredUser[] {
    const created = this.createAll(count, options);
    if (options.event !== false) this.publish('UsersCreated', created);
    return created;
  }

  /** @throws Error where there is no such user, or another has one of the login ids */
  modifyUser(
    userId: string,
    patch: Partial<UserContent>,
    options: MutationOptions = {},
  ): StoredUser {
    const modified = this.modify(userId, patch, options);
    if (options.event !== false) this.publish('UserModified', [modified], patch);
    return modified;
  }

  /** The same change to several users with one call: one `UsersModified`. */
  modifyBatch(
    userIds: readonly string[],
    patch: Partial<UserContent>,
    options: MutationOptions = {},
  ): StoredUser[] {
    const modified = userIds.map((userId) => this.modify(userId, patch, options));
    if (options.event !== false) this.publish('UsersModified', modified, patch);
    return modified;
  }

  /** False where there was no such user. */
  deleteUser(userId: string, options: MutationOptions = {}): boolean {
    return this.deleteMany([userId], options) === 1;
  }

  /** Deletes one by one; returns how many there were. */
  deleteMany(userIds: readonly string[], options: MutationOptions = {}): number {
    const deleted = this.deleteAll(userIds);
    if (options.event !== false) for (const user of deleted) this.publish('UserDeleted', [user]);
    return deleted.length;
  }

  /** Deletes with one call: one `UsersDeleted`. */
  deleteBatch(userIds: readonly string[], options: MutationOptions = {}): number {
    const deleted = this.deleteAll(userIds);
    if (options.event !== false) this.publish('UsersDeleted', deleted);
    return deleted.length;
  }

  /** Deletes a user and creates another, under a new id, with its login ids. */
  recreateUser(userId: string, options: MutationOptions = {}): StoredUser {
    const user = this.existing(userId);
    const { loginIds } = this.content(user);
    this.deleteUser(userId, options);
    return this.createUser({ loginIds }, options);
  }

  /**
   * Brings a deleted user back under the same id, as an import that keeps ids does.
   * @throws Error where the user is there, or another has one of their login ids
   */
  bringBack(user: StoredUser, options: MutationOptions = {}): void {
    if (this.get(user.userId)) throw new Error(`the directory has a user ${user.userId}`);
    const { loginIds } = this.content(user);
    this.timeline.record(user.userId, user);
    if (user.test) this.testUsers++;
    const back = this.modify(user.userId, { loginIds }, options);
    if (options.event !== false) this.publish('UserCreated', [back]);
  }

  /** Records something that changes no user, such as `LoginSucceed` or an action of one's own. */
  emit(action: string, userIds: readonly string[] = []): AuditEvent {
    const users = userIds.map((userId) => this.existing(userId));
    return this.publish(action, users);
  }

  private create({ createdMs = this.clockMs(), ...content }: NewUser): StoredUser {
    const serial = this.nextSerial++;
    const userId = userIdOf(this.seed, serial);
    const patch = this.claim(userId, content);
    const test = patch.test ?? isTestUser(this.seed, serial);
    const user: StoredUser = { userId, serial, createdMs, modifiedMs: createdMs, test, patch };
    if (test) this.testUsers++;
    this.timeline.record(userId, user);
    return user;
  }

  private createAll(count: number, options: CreateManyOptions): StoredUser[] {
    const shared = options.sameInstant ? { createdMs: this.clockMs() } : {};
    return Array.from({ length: count }, () => this.create({ ...options.content, ...shared }));
  }

  private modify(
    userId: string,
    patch: Partial<UserContent>,
    { moveModifiedTime = true }: MutationOptions,
  ): StoredUser {
    const before = this.existing(userId);
    const after: StoredUser = {
      ...before,
      patch: { ...before.patch, ...this.claim(userId, patch) },
      test: patch.test ?? before.test,
      modifiedMs: moveModifiedTime ? this.clockMs() : before.modifiedMs,
    };
    this.testUsers += Number(after.test) - Number(before.test);
    this.timeline.record(userId, after);
    return after;
  }

  private deleteAll(userIds: readonly string[]): StoredUser[] {
    const users = [...new Set(userIds)].flatMap((userId) => this.timeline.current(userId) ?? []);
    for (const user of users) {
      if (user.test) this.testUsers--;
      this.timeline.record(user.userId, undefined);
    }
    return users;
  }

  private existing(userId: string): StoredUser {
    const user = this.timeline.current(userId);
    if (!user) throw new Error(`the directory has no user ${userId}`);
    return user;
  }

  /** Login ids are unique among live users, and are answered as external ids too. */
  private claim(userId: string, patch: Partial<UserContent>): Partial<UserContent> {
    this.loginIds.claim(userId, patch.loginIds ?? [], (holderId, loginId) => {
      const holder = this.timeline.current(holderId);
      return holder !== undefined && this.content(holder).loginIds.includes(loginId);
    });
    return patch.loginIds ? { externalIds: patch.loginIds, ...patch } : patch;
  }

  private publish(
    action: string,
    users: readonly StoredUser[],
    change: Readonly<Record<string, unknown>> = {},
  ): AuditEvent {
    const serial = this.nextEvent++;
    // A plural event names its users and nothing else of them.
    const [only] = action.startsWith('Users') ? [] : users;
    const content = only && this.content(only);
    const event: AuditEvent = {
      serial,
      auditId: idOf('A', this.seed, serial),
      projectId: this.projectId,
      action,
      type: 'info',
      occurredMs: this.clockMs(),
      actorId: idOf('K', this.seed, serial % 3),
      userIds: users.map((user) => user.userId),
      loginIds: content?.loginIds ?? [],
      tenantIds: content?.userTenants.map((tenant) => tenant.tenantId) ?? [],
      change,
    };
    this.audit.append(event);
    for (const listener of this.listeners) listener(event);
    return event;
  }
}
