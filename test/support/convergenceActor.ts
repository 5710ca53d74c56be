import type { Directory } from '../../src/simulator/directory.ts';
import type { StoredUser } from '../../src/simulator/timeline.ts';
import type { UserContent } from '../../src/simulator/generate.ts';
import type { History, Operation, OperationKind } from './convergenceHistory.ts';

/** What the mirror must show of a user by the modified pull alone. */
export interface Moved {
  /** Epoch ms of Descope's clock. */
  readonly modifiedMs: number;
  /** Every change carries a number of its own, in the given name: later ones are higher. */
  readonly mark: number;
}

/** Changes the directory and remembers what each pull is to find of it. */
export interface Actor {
  perform(operation: Operation): void;
  /** The last change that moved its modified time, of each live user that has one in this history. */
  readonly moved: ReadonlyMap<string, Moved>;
  /** Whether only a sweep can find what happened last to this user. */
  isSilent(userId: string): boolean;
  /** Whether the sweep that an event asked for has to find that this user is gone. */
  isNameless(userId: string): boolean;
  /** Whether the user was there before this history and ever since: even answers of the past show them. */
  isOld(userId: string): boolean;
  /** Whether the user was deleted and came back. */
  isBack(userId: string): boolean;
}

/** Kinds of operations that befall users who are there. */
type OnSomebody = Exclude<
  OperationKind,
  'create' | 'createBatch' | 'import' | 'brief' | 'comeBack'
>;
/** Befalls the first of these users, or all of them. */
type Deed = (operation: Operation, one: string, some: readonly string[]) => void;

/** The number a given name carries; 0 where it is none of ours. */
export function markOf(givenName: string | null): number {
  return Number(/^v(\d+)$/.exec(givenName ?? '')?.[1] ?? 0);
}

export function createActor(
  directory: Directory,
  { behaviour, steps }: Pick<History, 'behaviour' | 'steps'>,
): Actor {
  const { pluralIds } = behaviour;
  /** Whether a read right after an event may show the past without telling its age. */
  const isAgeless =
    !behaviour.sendModifiedTime &&
    (behaviour.readLagMs > 0 ||
      steps.some(({ act }) => act.kind === 'faults' && act.kinds.includes('stale')));
  /** Whether a page may put back what a load by id has already shown. */
  const isPutBack = steps.some(({ act }) => act.kind === 'stalePages');
  const moved = new Map<string, Moved>();
  const silent = new Set<string>();
  const nameless = new Set<string>();
  let lastMark = 0;
  // Test users are not mirrored, and so nobody's business here.
  let live = [...directory.users()].filter((user) => !user.test).map((user) => user.userId);
  const old = new Set(live);
  /** Deleted ones, as they last were. */
  const leavers: StoredUser[] = [];
  const back = new Set<string>();
  /** Who changes again and again. */
  let restless: string | undefined;

  const nextName = (): Pick<UserContent, 'givenName'> => ({ givenName: `v${++lastMark}` });

  function note(userIds: readonly string[], isTold: boolean, isMoved: boolean): void {
    for (const userId of userIds) {
      const user = directory.get(userId);
      // Again at the end: the map is in the order of the changes.
      if (isMoved) moved.delete(userId);
      if (user && isMoved) moved.set(userId, { modifiedMs: user.modifiedMs, mark: lastMark });
      if (!user) moved.delete(userId);
      if (isTold || isMoved) silent.delete(userId);
      else silent.add(userId);
    }
  }

  function created(userIds: readonly string[], isSeen = true): void {
    const real = userIds.filter((userId) => directory.get(userId)?.test === false);
    live.push(...real);
    note(real, isSeen, isSeen);
  }

  /** Deletes them as `how` does, and remembers them. */
  function remove(userIds: readonly string[], isTold: boolean, how: () => void): void {
    leavers.push(...userIds.flatMap((userId) => directory.get(userId) ?? []));
    how();
    gone(userIds, isTold);
  }

  function gone(userIds: readonly string[], isTold: boolean): void {
    live = live.filter((userId) => !userIds.includes(userId));
    for (const userId of userIds) old.delete(userId);
    note(userIds, isTold, false);
  }

  /** Someone who came or changed a moment ago: answers of the past show them otherwise. */
  function chooseRecent({ who }: Operation): string | undefined {
    const recent = [...moved.keys()].filter((userId) => live.includes(userId)).slice(-5);
    return recent[who % recent.length];
  }

  /** The last to leave is back. */
  function comeBack({ event, moveModifiedTime }: Operation): void {
    const user = leavers.pop();
    if (!user) return;
    directory.bringBack(user, { event, moveModifiedTime });
    live.push(user.userId);
    back.add(user.userId);
    nameless.delete(user.userId);
    note([user.userId], event && !isAgeless && !isPutBack, moveModifiedTime);
    // When the mirror shows them again is for a load by id to tell, not for the watermark.
    moved.delete(user.userId);
  }

  function choose({ who, count }: Operation, most: number): string[] {
    const wanted = Math.min(most, count, live.length);
    return Array.from(
      { length: wanted },
      (_, at) => live[(who + at * 7) % live.length] ?? '',
    ).filter((userId, at, all) => all.indexOf(userId) === at);
  }

  function change(operation: Operation, userIds: readonly string[], isBatch: boolean): void {
    const { who, event, moveModifiedTime } = operation;
    const patch = { ...nextName(), ...PATCHES[who % PATCHES.length] };
    const options = { event, moveModifiedTime };
    if (isBatch) directory.modifyBatch(userIds, patch, options);
    else for (const userId of userIds) directory.modifyUser(userId, patch, options);
    // A batch event that names nobody leads to no more than the modified pull finds.
    const isTold = event && !(isBatch && pluralIds === 'none');
    note(userIds, isTold && !isAgeless && !isPutBack, moveModifiedTime);
  }

  function recreate(userId: string, event: boolean): void {
    const user = directory.get(userId);
    if (!user) return;
    const { loginIds } = directory.content(user);
    directory.deleteUser(userId, { event });
    gone([userId], event);
    created([directory.createUser({ loginIds, ...nextName() }, { event }).userId]);
  }

  function brief(event: boolean): void {
    const user = directory.createUser(nextName(), { event });
    directory.deleteUser(user.userId, { event });
    note([user.userId], event, false);
  }

  /** Of the same moment as somebody of long ago, so that nothing but a page of the sweep shows them. */
  function transfer(beside: string): void {
    const createdMs = directory.get(beside)?.createdMs;
    if (createdMs === undefined || !old.has(beside)) return;
    const user = directory.createUser({ createdMs, ...nextName() }, { event: false });
    created([user.userId], false);
  }

  const onSomebody: Record<OnSomebody, Deed> = {
    change: (operation, one) => {
      change(operation, [one], false);
    },
    again(operation, one) {
      if (!live.includes(restless ?? '')) restless = one;
      change(operation, [restless ?? one], false);
    },
    changeBatch: (operation, _, some) => {
      change(operation, some, true);
    },
    delete(operation, one) {
      const { who, event } = operation;
      const leaver = (who % 2 === 0 ? chooseRecent(operation) : undefined) ?? one;
      remove([leaver], event, () => directory.deleteMany([leaver], { event }));
    },
    flicker: (_, one) => {
      remove([one], true, () => directory.deleteMany([one]));
    },
    deleteBatch({ event }, _, some) {
      remove(some, event, () => directory.deleteBatch(some, { event }));
      if (event && pluralIds === 'none') for (const userId of some) nameless.add(userId);
    },
    recreate: ({ event }, one) => {
      recreate(one, event);
    },
    transfer: (_, one) => {
      transfer(one);
    },
    rumour: ({ who }, one) => void directory.emit(RUMOURS[who % RUMOURS.length] ?? '', [one]),
    login: (_, one) => void directory.emit('LoginSucceed', [one]),
  };

  return {
    moved,
    isOld: (userId) => old.has(userId),
    isBack: (userId) => back.has(userId),
    isSilent: (userId) => silent.has(userId),
    isNameless: (userId) => nameless.has(userId),
    perform(operation) {
      const { kind, count, event } = operation;
      const some = choose(operation, 12);
      const [one] = some;
      const idsOf = (users: readonly { readonly userId: string }[]) => users.map((u) => u.userId);
      if (kind === 'create') created([directory.createUser(nextName(), { event }).userId]);
      else if (kind === 'createBatch') {
        created(idsOf(directory.createBatch(count, { content: nextName(), event })));
      } else if (kind === 'import') {
        const content = nextName();
        created(idsOf(directory.createMany(3 * count, { content, event, sameInstant: true })));
      } else if (kind === 'brief') brief(event);
      else if (kind === 'comeBack') comeBack(operation);
      else if (one !== undefined) onSomebody[kind](operation, one, some);
    },
  };
}

const RUMOURS = ['UserDeleted', 'UserDeleted', 'UserCreated', 'UserModified'];

const PATCHES: readonly Partial<UserContent>[] = [
  { name: 'Somebody Else' },
  { status: 'disabled' },
  { status: 'enabled', roleNames: ['editor'] },
  { picture: '', customAttributes: { plan: 'pro', seats: 12 } },
  { userTenants: [] },
];
