/*
 * What `/api/status` says and the page shows. Instants are text with a zone, as Postgres prints them;
 * ages and lags are in seconds of the mirror database's clock. Nothing in it is personal but user ids.
 */

/** How complete the mirror is, in one word. */
export type StatusState = 'complete' | 'filling' | 'behind' | 'blocked';

export interface WatermarkView {
  readonly pull: string;
  /** Proven complete up to here; null before the first time. */
  readonly completeTo: string | null;
  readonly lagSeconds: number | null;
}

/** A sweep under way. */
export interface SweepView {
  readonly runId: number;
  readonly startedAt: string;
  /** Users in the directory, as Descope counted at its start; null until then. */
  readonly total: number | null;
  readonly rowsRead: number;
  readonly requests: number;
  readonly windowsOpen: number;
  readonly windowsProven: number;
}

export interface LastSweepView {
  readonly runId: number;
  readonly finishedAt: string;
  /** complete, partial or blocked. */
  readonly outcome: string;
  readonly rowsRead: number;
  readonly requests: number;
}

/** A window that was given up once and is not proven complete yet; it is read again unasked. */
export interface GapView {
  readonly pull: string;
  readonly from: string;
  /** Null: open towards now. */
  readonly to: string | null;
  /** When it first became a gap. */
  readonly since: string;
  readonly reason: string | null;
}

/** How the last run of a pull ended. */
export interface LastRunView {
  readonly pull: string;
  readonly runId: number;
  /** complete, partial or blocked. */
  readonly outcome: string;
  readonly at: string;
  /** Why it is not complete; null where it is, or where the run itself does not say. */
  readonly reason: string | null;
}

/** Users of the mirror. Counting takes a while with millions: they are of the last count, some 15 s old. */
export interface UsersView {
  readonly live: number;
  readonly tombstones: number;
  /** How long ago they were counted. */
  readonly ageSeconds: number;
}

export interface EventsView {
  readonly pending: number;
  readonly parked: number;
  /** Why the newest of the parked was given up; null where none is. */
  readonly parkedReason: string | null;
  /** Whenever they were received. */
  readonly appliedLastHour: number;
  readonly receivedLastHour: number;
  /** Share of events the audit pull found that no webhook brought, 0 to 1; null where not yet known. */
  readonly lossRate: number | null;
  /** The same over a day; as old as the count of users. */
  readonly lossRateDay: number | null;
  /** From an event to its first delivery, the median of the last hour; null where none came. */
  readonly webhookDelaySeconds: number | null;
  /** The same over a day; as old as the count of users. */
  readonly webhookDelayDaySeconds: number | null;
}

export interface QueueView {
  readonly name: string;
  readonly waiting: number;
  readonly active: number;
  readonly delayed: number;
  readonly failed: number;
}

export interface BudgetView {
  readonly name: string;
  /** Requests sent so far. */
  readonly granted: number;
  /** Answers of 429 so far. */
  readonly throttled: number;
  /** Nothing is sent before this; null where not silent. */
  readonly silentUntil: string | null;
  /** How long that is from now; 0 where not silent. */
  readonly silentSeconds: number;
}

/** A consumer of the feed whose cursor is kept. */
export interface ConsumerView {
  readonly name: string;
  /** When it last confirmed something. */
  readonly movedAt: string;
  /** Changes it has not confirmed; 10,000 are counted at most. */
  readonly changes: number;
  /** How old the first of them is; 0 where there is none. */
  readonly lagSeconds: number;
  /** That age as a share of `FEED_RETENTION_DAYS`, 0 to 1; null until something was pruned for the first time. */
  readonly usedRatio: number | null;
  /** Until that change may be pruned; null where none is unread, or the retention is not known yet. */
  readonly leftSeconds: number | null;
  /** Reading on is refused: what follows was pruned, or the database was restored. */
  readonly isCutOff: boolean;
}

/** Somebody whom changes are posted to. */
export interface EndpointView {
  /** A hash of its address. */
  readonly endpointId: string;
  readonly host: string;
  /** active, disabled (it answered 410) or cut off (what it had still to get was pruned). */
  readonly state: string;
  readonly reason: string | null;
  readonly waiting: number;
  readonly parked: number;
  /** How old the oldest change is that it has still to get, parked ones aside; null where there is none. */
  readonly oldestSeconds: number | null;
}

/** The demo's own comparison with its simulated directory. */
export interface DemoView {
  readonly equal: boolean;
  readonly checkedAt: string;
  readonly differences: number;
}

export interface StatusView {
  /** The instant the mirror is complete as of; null before the first sweep. */
  readonly asOf: string | null;
  /** How long ago that is. */
  readonly lagSeconds: number | null;
  /** One sentence for a person: "Complete as of 12 s ago". */
  readonly sentence: string;
  readonly state: StatusState;
  readonly users: UsersView;
  readonly watermarks: readonly WatermarkView[];
  readonly gaps: number;
  /** The oldest of them, 20 at most. */
  readonly gapWindows: readonly GapView[];
  /** Windows that were gaps once and were proven in the last day. */
  readonly gapsRefilledLastDay: number;
  /** Of each pull that has ended a run, by name. */
  readonly lastRuns: readonly LastRunView[];
  readonly sweep: SweepView | null;
  readonly events: EventsView;
  /** None where they were not asked, or did not answer. */
  readonly queues: readonly QueueView[];
  /** Why they did not answer; null where they did. What they hold is known to Postgres in any case. */
  readonly queueProblem: string | null;
  readonly heldDeletions: number;
  readonly budget: readonly BudgetView[];
  /** Those furthest behind first, 100 at most. */
  readonly consumers: readonly ConsumerView[];
  /** Of `OUTGOING_URLS`. */
  readonly endpoints: readonly EndpointView[];
  readonly lastSweep: LastSweepView | null;
  /** When the whole mirror was last proven, by a complete sweep or a verification; null: never. */
  readonly lastProof: string | null;
  readonly lastProofAgeSeconds: number | null;
  /** Users that differed at the last verification, in parts per million; null: none has run. */
  readonly driftPpm: number | null;
  /** Users compared field by field where that is estimated from a sample; null where everyone was. */
  readonly driftSample: number | null;
  /** Whether the latest comparison that could be made, a sweep's or a verification's, left differences. */
  readonly driftRemains: boolean;
  readonly lastError: { readonly at: string; readonly message: string } | null;
  readonly demo?: DemoView;
}

/** One row of the feed, for the page. */
export interface RecentChange {
  readonly seq: number;
  readonly userId: string;
  /** created, updated, deleted or restored. */
  readonly kind: string;
  /** Names of the fields that changed, never their values. */
  readonly changed: readonly string[];
  readonly witness: string;
  readonly observedAt: string;
  readonly ageSeconds: number;
}
