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

export interface EventsView {
  readonly pending: number;
  readonly parked: number;
  readonly appliedLastHour: number;
  readonly receivedLastHour: number;
  /** Share of events the audit pull found that no webhook brought, 0 to 1; null where not yet known. */
  readonly lossRate: number | null;
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
  /** One sentence for a person: "Complete as of 12 s ago". */
  readonly sentence: string;
  readonly state: StatusState;
  readonly users: { readonly live: number; readonly tombstones: number };
  readonly watermarks: readonly WatermarkView[];
  readonly gaps: number;
  readonly sweep: SweepView | null;
  readonly events: EventsView;
  readonly queues: readonly QueueView[];
  readonly heldDeletions: number;
  readonly budget: readonly BudgetView[];
  readonly lastSweep: LastSweepView | null;
  /** When the whole mirror was last proven, by a complete sweep or a verification; null: never. */
  readonly lastProof: string | null;
  /** Users that differed at the last verification, in parts per million; null: none has run. */
  readonly driftPpm: number | null;
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
