import { z } from 'zod';

/*
 * How the simulated Descope behaves. Wherever the public facts conflict or are missing there is a
 * switch here; every switch may be turned while the simulator runs and takes effect at once.
 */

/** Requests per minute; null is no limit. `users` counts search, load and get together. */
const limits = z.strictObject({
  users: z.number().min(0).nullable(),
  userSearch: z.number().min(0).nullable(),
  userLoad: z.number().min(0).nullable(),
  userGet: z.number().min(0).nullable(),
  audit: z.number().min(0).nullable(),
  other: z.number().min(0).nullable(),
});

const behaviour = z.strictObject({
  /** The unit in which `from…Time` and `to…Time` are understood. Staff say ms, one page says s. */
  timeUnit: z.enum(['ms', 's']),
  fromBound: z.enum(['exclusive', 'inclusive']),
  toBound: z.enum(['exclusive', 'inclusive']),
  /** Both bounds of the audit search, whose kind no source tells. */
  auditBounds: z.enum(['exclusive', 'inclusive']),
  /** Whether user objects carry `modifiedTime`; most published schemas lack it. */
  sendModifiedTime: z.boolean(),
  /** A larger `limit` is silently cut to this. */
  maxPageSize: z.int().min(1),
  /** More ids than this in one load are refused. */
  maxLoadIds: z.int().min(1),
  /** What a load by ids does with ids it does not know. */
  unknownIds: z.enum(['skip', 'fail']),
  /** The HTTP status that carries E112102, "user not found". */
  missingUserStatus: z.union([z.literal(400), z.literal(404), z.literal(200)]),
  /** What the management API says to making an audit webhook connector. */
  connector: z.enum(['made', 'noSuchOperation', 'forbidden']),
  /** `shuffled`: users of one and the same instant change places between requests. */
  tieOrder: z.enum(['stable', 'shuffled']),
  /** Where an event about several users carries their ids. */
  pluralIds: z.enum(['userIds', 'dataUserIds', 'dataUsers', 'none']),
  limits,
  /** Whether a 429 carries `Retry-After`. */
  retryAfterHeader: z.boolean(),
  /** How long a 429 blocks; a request during the block starts it again. 0: until the minute is over. */
  penaltyMs: z.number().min(0),
  /** Between working out an answer and sending it: what arrives is that old. */
  latencyMs: z.number().min(0),
  /** Descope's clock minus ours: in created and modified times, audit `occurred`, and `Date`. */
  clockSkewMs: z.number(),
  /** An audit record cannot be searched before it is this old. */
  auditLagMs: z.number().min(0),
  /** Reads of users answer as things were this long ago. */
  readLagMs: z.number().min(0),
  /** How far back the fault `stale` answers. */
  staleMs: z.number().min(0),
  /** How far back the audit search reaches. */
  retentionDays: z.number().min(0),
});

export type Limits = z.output<typeof limits>;
export type Behaviour = z.output<typeof behaviour>;

/** Some switches, some limits; what is left out stays as it is. */
export const behaviourPatch = behaviour.extend({ limits: limits.partial() }).partial();
export type BehaviourPatch = z.output<typeof behaviourPatch>;

/** What the sources agree on, or where they do not, the best supported. */
export function defaultBehaviour(): Behaviour {
  return {
    timeUnit: 'ms',
    fromBound: 'exclusive',
    toBound: 'inclusive',
    auditBounds: 'inclusive',
    sendModifiedTime: false,
    maxPageSize: 100,
    maxLoadIds: 100,
    unknownIds: 'skip',
    missingUserStatus: 400,
    connector: 'made',
    tieOrder: 'stable',
    pluralIds: 'dataUserIds',
    // The documented limits: 200 a minute for user searches, 10 for the audit search.
    limits: {
      users: 200,
      userSearch: null,
      userLoad: null,
      userGet: null,
      audit: 10,
      other: null,
    },
    retryAfterHeader: true,
    penaltyMs: 60_000,
    latencyMs: 0,
    clockSkewMs: 0,
    auditLagMs: 0,
    readLagMs: 0,
    staleMs: 30_000,
    retentionDays: 30,
  };
}

/** Turns the switches named in `patch`, in place. */
export function applyBehaviour(target: Behaviour, patch: BehaviourPatch): void {
  const { limits: limitsPatch, ...rest } = patch;
  Object.assign(target, withoutUndefined(rest));
  Object.assign(target.limits, withoutUndefined(limitsPatch ?? {}));
}

/** A switch given as undefined is one not given. */
function withoutUndefined(patch: object): object {
  return Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== undefined));
}
