import * as fc from 'fast-check';

import { ENVELOPES } from '../../src/simulator/envelopes.ts';
import { FAULT_KINDS, type FaultKind } from '../../src/simulator/faults.ts';

import type { Role } from '../../src/service.ts';

/*
 * One random history: how this Descope behaves, how badly its webhooks arrive, what happens in the
 * directory and what breaks meanwhile. Users are chosen by a number, so that a shrunk history means
 * the same.
 */

const pick = <const T>(...choices: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...choices);
const chance = (percent: number) =>
  fc.integer({ min: 0, max: 99 }).map((number) => number < percent);
const upTo = (max: number) => fc.integer({ min: 0, max });

const anyBehaviour = fc.record({
  timeUnit: pick('ms', 's'),
  fromBound: pick('exclusive', 'inclusive'),
  toBound: pick('exclusive', 'inclusive'),
  auditBounds: pick('exclusive', 'inclusive'),
  sendModifiedTime: fc.boolean(),
  maxPageSize: pick(100, 10),
  maxLoadIds: pick(100, 10),
  unknownIds: pick('skip', 'fail'),
  missingUserStatus: pick(400, 404, 200),
  tieOrder: pick('stable', 'shuffled'),
  pluralIds: pick('userIds', 'dataUserIds', 'dataUsers', 'none'),
  retryAfterHeader: fc.boolean(),
  penaltyMs: pick(0, 1_000, 3_000),
  latencyMs: pick(0, 0, 20, 80),
  clockSkewMs: pick(0, -420_000, 420_000),
  auditLagMs: pick(0, 0, 500, 1_500),
  // Below the settle time, whose second half the whole seconds of `Date` may eat up.
  readLagMs: pick(0, 0, 200, 800),
  staleMs: pick(1_500, 4_000),
});

/** Where unknown ids fail a load, each costs several requests: not slow ones as well. */
const behaviour = anyBehaviour.map((drawn) => ({
  ...drawn,
  latencyMs: drawn.unknownIds === 'fail' ? Math.min(drawn.latencyMs, 10) : drawn.latencyMs,
}));

const delivery = fc.record({
  envelope: pick(...ENVELOPES),
  signOver: pick('raw', 'stringified'),
  batchMax: pick(1, 10, 100),
  dropRate: pick(0, 0.1, 0.5, 1),
  doubleRate: pick(0, 0.3),
  reorderRate: pick(0, 0.5),
  mostDelayMs: pick(0, 300, 1_200),
  retries: pick(0, 2),
});

const settings = fc.record({
  queue: pick('redis', 'redis', 'postgres', 'postgres', 'cluster'),
  /** What each process of the service does; answers cross between processes, too. */
  roles: pick<readonly Role[]>(
    ['all'],
    ['all'],
    ['all', 'worker'],
    ['all', 'worker', 'worker'],
    ['web', 'worker', 'worker', 'worker'],
  ),
  pageSize: fc.integer({ min: 5, max: 50 }),
  overlapSeconds: pick(6, 20),
  /** Requests a minute. */
  budget: pick(3_000, 12_000),
  users: fc.integer({ min: 20, max: 150 }),
  sameInstant: pick(1, 12, 60),
  /** Wait for the first sweep; else things happen, and break, while it runs. */
  fillFirst: chance(80),
});

/** What happens to one user or some, and how much of it Descope tells. */
const operation = fc.record({
  kind: pick<OperationKind>(
    ...(['create', 'createBatch', 'import', 'change', 'change', 'change', 'changeBatch'] as const),
    ...(['again', 'again', 'again', 'flicker', 'flicker', 'flicker'] as const),
    ...(['delete', 'delete', 'deleteBatch', 'recreate', 'login', 'brief'] as const),
    ...(['comeBack', 'rumour', 'transfer'] as const),
  ),
  who: upTo(10_000),
  count: fc.integer({ min: 1, max: 12 }),
  event: chance(75),
  moveModifiedTime: chance(80),
});

export type OperationKind =
  | 'create'
  | 'createBatch'
  | 'import'
  | 'change'
  | 'changeBatch'
  /** A change to the one who changes all the time, so that answers about them cross. */
  | 'again'
  | 'delete'
  | 'deleteBatch'
  | 'recreate'
  /** The last to be deleted is there again, under the same id. */
  | 'comeBack'
  /** Deleted, and back a moment later. */
  | 'flicker'
  | 'login'
  /** Created, and deleted right away. */
  | 'brief'
  /** An event that tells of what did not happen. */
  | 'rumour'
  /** Comes with the times of long ago and without an event, as by an import behind the scenes. */
  | 'transfer';

const forMs = fc.integer({ min: 50, max: 900 });
const faults = fc.record({
  kind: fc.constant('faults' as const),
  rate: pick(0.2, 0.5, 1),
  kinds: fc.subarray<FaultKind>([...FAULT_KINDS], { minLength: 1, maxLength: 5 }),
  forMs,
});
const breakage = fc.record({
  kind: pick(
    ...(['kill', 'kill', 'kill', 'cutPostgres', 'cutPostgres'] as const),
    ...(['throttle', 'flushRedis', 'stopRedis', 'cutDescope', 'noEndpoint'] as const),
  ),
  forMs,
});
/** Every other answer takes a second, so that what is asked later is known earlier. */
const late = fc.record({
  kind: fc.constant('late' as const),
  forMs: fc.integer({ min: 2_000, max: 4_000 }),
});
/** Pages of the past, beside loads by id that know better. */
const stalePages = fc.record({
  kind: fc.constant('stalePages' as const),
  forMs: fc.integer({ min: 900, max: 2_500 }),
});
/** No search is allowed, for some pulls; loads by id are. */
const noSearch = fc.record({
  kind: fc.constant('noSearch' as const),
  forMs: fc.integer({ min: 2_000, max: 4_000 }),
});
/** Answers of the past, for as long as a pull or two may meet them. */
const stale = fc.record({
  kind: fc.constant('faults' as const),
  rate: pick(0.5, 1),
  kinds: fc.constant<FaultKind[]>(['stale']),
  forMs: fc.integer({ min: 900, max: 2_500 }),
});
/** Descope is away for some pulls, and what it says first when it is back is wrongly empty. */
const blackout = fc.record({
  kind: fc.constant('blackout' as const),
  answer: pick('emptyPage', 'zeroTotal'),
  forMs: fc.integer({ min: 1_500, max: 3_000 }),
});
const disturbance = fc.oneof(
  { weight: 4, arbitrary: faults },
  { weight: 1, arbitrary: stale },
  { weight: 1, arbitrary: blackout },
  { weight: 3, arbitrary: late },
  { weight: 1, arbitrary: stalePages },
  { weight: 1, arbitrary: noSearch },
  { weight: 8, arbitrary: breakage },
);

const step = fc.record({
  /** Before it, since the last one. */
  pauseMs: pick(0, 0, 20, 60, 150, 400),
  act: fc.oneof({ weight: 8, arbitrary: operation }, { weight: 1, arbitrary: disturbance }),
});

export const history = fc.record({
  behaviour,
  delivery,
  settings,
  steps: fc.array(step, { minLength: 15, maxLength: 60, size: 'max' }),
});

type Value<A> = A extends fc.Arbitrary<infer T> ? T : never;
export type History = Value<typeof history>;
export type Operation = Value<typeof operation>;
export type Disturbance = Value<typeof disturbance>;

export const isOperation = (act: Operation | Disturbance): act is Operation => 'who' in act;
