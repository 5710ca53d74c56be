import type { Directory } from '../../src/simulator/directory.ts';
import type { UserContent } from '../../src/simulator/generate.ts';
import type { History, Operation } from './convergenceHistory.ts';

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
  /** Whether the user was there before this history, so that even answers of the past show them. */
  isOld(userId: string): boolean;
}

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
  const moved = new Map<string, Moved>();
  const silent = new Set<string>();
  const nameless = new Set<string>();
  let lastMark = 0;
  // Test users are not mirrored, and so nobody's business here.
  let live = [...directory.users()].filter((user) => !user.test).map((user) => user.userId);
  const old = new Set(live);

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

  function gone(userIds: readonly string[], isTold: boolean): void {
    live = live.filter((userId) => !userIds.includes(userId));
    note(userIds, isTold, false);
  }

  /** Every other time someone who came or changed a moment ago: answers of the past still show them. */
  function chooseLeaver(operation: Operation): string | undefined {
    const recent = [...moved.keys()].filter((userId) => live.includes(userId)).slice(-5);
    const isRecent = operation.who % 2 === 0 && recent.length > 0;
    return isRecent ? recent[operation.who % recent.length] : choose(operation, 1)[0];
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
    note(userIds, isTold && !isAgeless, moveModifiedTime);
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

  return {
    moved,
    isOld: (userId) => old.has(userId),
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
      else if (one !== undefined) performOn(one, some, operation);
    },
  };

  function performOn(one: string, some: readonly string[], operation: Operation): void {
    const { kind, event, who } = operation;
    if (kind === 'change') change(operation, [one], false);
    else if (kind === 'changeBatch') change(operation, some, true);
    else if (kind === 'delete') {
      const leaver = chooseLeaver(operation) ?? one;
      directory.deleteMany([leaver], { event });
      gone([leaver], event);
    } else if (kind === 'deleteBatch') {
      directory.deleteBatch(some, { event });
      gone(some, event);
      if (event && pluralIds === 'none') for (const userId of some) nameless.add(userId);
    } else if (kind === 'recreate') recreate(one, event);
    else if (kind === 'transfer') transfer(one);
    else if (kind === 'rumour') directory.emit(RUMOURS[who % RUMOURS.length] ?? '', [one]);
    else directory.emit('LoginSucceed', [one]);
  }
}

const RUMOURS = ['UserDeleted', 'UserDeleted', 'UserCreated', 'UserModified'];

const PATCHES: readonly Partial<UserContent>[] = [
  { name: 'Somebody Else' },
  { status: 'disabled' },
  { status: 'enabled', roleNames: ['editor'] },
  { picture: '', customAttributes: { plan: 'pro', seats: 12 } },
  { userTenants: [] },
];
