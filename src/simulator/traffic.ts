import { below, createRandom, pick } from './random.ts';

import type { Directory } from './directory.ts';
import type { Random } from './random.ts';

/** How often what happens, relative to each other. */
export interface TrafficMix {
  readonly signUp: number;
  readonly change: number;
  readonly delete: number;
  /** Five to fifty users with one call. */
  readonly batchCreate: number;
  readonly batchChange: number;
  readonly batchDelete: number;
  /** Logins: events that change no user. */
  readonly login: number;
}

export const DEFAULT_MIX: TrafficMix = {
  signUp: 20,
  change: 60,
  delete: 6,
  batchCreate: 0.3,
  batchChange: 0.5,
  batchDelete: 0.1,
  login: 15,
};

export interface TrafficOptions {
  /** How many of the things in the mix happen a second, on average. */
  readonly perSecond: number;
  readonly mix?: Partial<TrafficMix>;
  /** Chooses what happens to whom; the same every time where absent. */
  readonly rng?: Random;
}

export interface Traffic {
  /** How much has happened so far. */
  readonly count: number;
  stop(): void;
}

/** Often enough to look alive, seldom enough to cost nothing. */
const TICK_MS = 50;

/** Lets a directory live: people sign up, change and leave until it is stopped. */
export function startTraffic(
  simulator: { readonly directory: Directory },
  { perSecond, mix = {}, rng = createRandom(1) }: TrafficOptions,
): Traffic {
  const weights = { ...DEFAULT_MIX, ...mix };
  let count = 0;
  let owed = 0;
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    owed += ((nowMs - lastMs) / 1000) * perSecond;
    lastMs = nowMs;
    for (; owed >= 1; owed--) {
      actOnce(simulator.directory, weights, rng);
      count++;
    }
  }, TICK_MS);
  return {
    get count() {
      return count;
    },
    stop() {
      clearInterval(timer);
    },
  };
}

/** Does one thing of the mix, chosen by `random`. */
export function actOnce(directory: Directory, weights: TrafficMix, random: Random): void {
  switch (chooseFrom(weights, random)) {
    case 'signUp':
      directory.createUser();
      return;
    case 'change':
      for (const userId of someUsers(directory, 1, random)) {
        directory.modifyUser(userId, changeOf(random));
      }
      return;
    case 'delete':
      directory.deleteMany(someUsers(directory, 1, random));
      return;
    case 'batchCreate':
      directory.createBatch(5 + below(random, 46), { sameInstant: true });
      return;
    case 'batchChange':
      directory.modifyBatch(someUsers(directory, 5 + below(random, 46), random), changeOf(random));
      return;
    case 'batchDelete':
      directory.deleteBatch(someUsers(directory, 5 + below(random, 6), random));
      return;
    case 'login':
      directory.emit('LoginSucceed', someUsers(directory, 1, random));
  }
}

function chooseFrom(weights: TrafficMix, random: Random): keyof TrafficMix {
  const kinds = Object.keys(DEFAULT_MIX) as (keyof TrafficMix)[];
  let left = random() * kinds.reduce((sum, kind) => sum + weights[kind], 0);
  for (const kind of kinds) {
    left -= weights[kind];
    if (left < 0) return kind;
  }
  return 'change';
}

/** Ids of users that are there now, each once; fewer than `count` where there are not as many. */
function someUsers(directory: Directory, count: number, random: Random): string[] {
  const chosen = new Set<string>();
  for (let attempt = 0; attempt < 2 * count && chosen.size < count; attempt++) {
    const user = directory.pick(random);
    if (user) chosen.add(user.userId);
  }
  return [...chosen];
}

function changeOf(random: Random): Parameters<Directory['modifyUser']>[1] {
  return pick(random, [
    { name: `Renamed ${below(random, 1e6)}` },
    { status: pick(random, ['enabled', 'disabled']) },
    { picture: `https://images.example.com/new/${below(random, 1e6)}.png` },
    { roleNames: pick(random, [[], ['editor'], ['Tenant Admin', 'viewer']]) },
    { customAttributes: { plan: pick(random, ['free', 'pro']), seats: below(random, 500) } },
    { verifiedEmail: true, givenName: `Zoë ${below(random, 1e6)}` },
  ]);
}
