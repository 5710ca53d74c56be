import { applyEvents } from '../jobs/applyEvents.ts';
import { createEventQueue } from '../jobs/eventQueue.ts';
import { pullModified } from '../jobs/pullModified.ts';
import { sweep } from '../jobs/sweep.ts';
import { createApplier, type Applier } from './apply/applier.ts';
import { createBudget } from './descope/budget.ts';
import { createDescopeClient } from './descope/client.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { openModifiedWindow, type ModifiedDeps } from './pull/modified.ts';
import { openRun } from './pull/ledger.ts';
import { createPatientClient } from './pull/patient.ts';
import { NO_TRACES, type Traces } from './traces.ts';

import type { PruneDeps } from '../jobs/prune.ts';
import type { Queues } from '../jobs/queues.ts';
import type { Applied } from './apply/events.ts';
import type { Config } from './config.ts';
import type { DescopeClient, Priority } from './descope/types.ts';
import type { Logger } from './log.ts';
import type { Mirror } from './mirror/database.ts';
import type { AuditDeps } from './pull/audit.ts';
import type { SweepDeps } from './pull/sweep.ts';
import type { VerifyDeps } from './pull/drift.ts';

/*
 * What does the work, for the service's workers and for commands in the foreground alike: the mirror,
 * the client within its budget, the applier, and what each pull needs.
 */

export interface EngineOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly mirror: Mirror;
  /** Null: a foreground command, whose work does not go through the queue. */
  readonly queues: Queues | null;
  /** Told of each committed step of a pull, for a progress bar. */
  readonly onStep?: SweepDeps['onStep'];
  /** Without a queue: where new inbox events of the audit pull go. */
  readonly onEvents?: (eventIds: readonly string[]) => void;
  readonly traces?: Traces;
}

export interface Engine {
  readonly mirror: Mirror;
  readonly metrics: Metrics;
  readonly applier: Applier;
  readonly jobs: {
    readonly applier: Applier;
    readonly modified: ModifiedDeps;
    readonly audit: AuditDeps;
    readonly sweep: SweepDeps;
    readonly verify: VerifyDeps;
    readonly prune: PruneDeps;
  };
  /** Hands new inbox events to the queue; many callers share a round trip. */
  readonly enqueueEvents: (eventIds: readonly string[]) => Promise<void>;
  readonly signal: AbortSignal;
  /** Ends waits and reads at their next safe point. */
  readonly abort: () => void;
}

export function createEngine(options: EngineOptions): Engine {
  const { config, log, mirror, queues, traces = NO_TRACES } = options;
  const metrics = createMetrics();
  const stopping = new AbortController();
  const client = createClient(config, { mirror, metrics, traces });
  const enqueueEvents = queues
    ? createEventQueue(queues, traces)
    : (eventIds: readonly string[]) => Promise.resolve(options.onEvents?.(eventIds));
  const overlapMs = config.PULL_OVERLAP_SECONDS * 1000;
  const settleMs = config.PULL_SETTLE_SECONDS * 1000;
  const breaker = { maxCount: config.BREAKER_MAX_COUNT, maxPercent: config.BREAKER_MAX_PERCENT };
  const includeTestUsers = config.INCLUDE_TEST_USERS;
  const pulls = {
    mirror,
    client,
    pageSize: config.PAGE_SIZE,
    includeTestUsers,
    onStep: (step: Parameters<NonNullable<SweepDeps['onStep']>>[0]) => {
      countWrites(metrics, step);
      options.onStep?.(step);
    },
  };
  const applier = createApplier({
    mirror,
    client,
    includeTestUsers,
    breaker,
    signal: stopping.signal,
    traces,
    overlapMs,
    openWindow: async (tx, range) => {
      await openModifiedWindow(tx, { mirror }, 'an event that names nobody', range);
    },
    openSweep: async (tx, reason) => {
      await openRun(tx, mirror, 'sweep', reason);
    },
    onApplied: (applied) => {
      countApplied(metrics, applied);
      if (queues) void followUp(queues, applied, log);
    },
  });
  return {
    mirror,
    metrics,
    applier,
    jobs: {
      applier,
      modified: { ...pulls, overlapMs, settleMs },
      audit: {
        mirror,
        client,
        projectId: config.DESCOPE_PROJECT_ID,
        archiveAll: config.EVENT_ARCHIVE === 'all',
        exclude: config.MIRROR_EXCLUDE,
        overlapMs,
        settleMs,
        enqueue: enqueueEvents,
      },
      sweep: { ...pulls, breaker, overlapMs },
      verify: { ...pulls, breaker, settleMs },
      prune: toPruneDeps(config, mirror),
    },
    enqueueEvents,
    signal: stopping.signal,
    abort: () => {
      stopping.abort();
    },
  };
}

function countApplied(metrics: Metrics, applied: Applied): void {
  metrics.eventsApplied.inc(applied.events);
  for (const change of ['created', 'updated', 'deleted'] as const) {
    metrics.applied.inc({ change, witness: 'event' }, applied[change]);
  }
}

function toPruneDeps(config: Config, mirror: Mirror): PruneDeps {
  return {
    mirror,
    eventDays: config.EVENT_RETENTION_DAYS,
    tombstoneDays: config.TOMBSTONE_RETENTION_DAYS,
    feedDays: config.FEED_RETENTION_DAYS,
  };
}

/** The SDK within the budget, patient, every attempt counted. */
function createClient(
  config: Config,
  { mirror, metrics, traces }: Pick<Engine, 'mirror' | 'metrics'> & { readonly traces: Traces },
): DescopeClient {
  const budget = (name: string, perMinute: number) => {
    metrics.budgetLimit.set({ budget: name }, perMinute);
    const onTake = (priority: Priority, waitedMs: number) => {
      metrics.budgetWaitSeconds.observe({ budget: name, priority }, waitedMs / 1000);
    };
    return createBudget({ mirror, name, perMinute, onTake });
  };
  const client = createDescopeClient({
    projectId: config.DESCOPE_PROJECT_ID,
    managementKey: config.DESCOPE_MANAGEMENT_KEY,
    baseUrl: config.DESCOPE_BASE_URL,
    mirror,
    budget: budget('api', config.API_BUDGET_PER_MINUTE),
    auditBudget: budget('audit', config.AUDIT_BUDGET_PER_MINUTE),
    timeUnit: config.DESCOPE_TIME_UNIT,
    includeTestUsers: config.INCLUDE_TEST_USERS,
    exclude: config.MIRROR_EXCLUDE,
    onRequest: ({ resource, status, ms }) => {
      metrics.requests.inc({ resource, status: String(status) });
      metrics.requestSeconds.observe({ resource }, ms / 1000);
      traces.request(`Descope ${resource}`, ms, { status });
    },
  });
  return createPatientClient(client);
}

function countWrites(
  metrics: Metrics,
  { pull, summary }: Parameters<NonNullable<SweepDeps['onStep']>>[0],
): void {
  const witness = pull === 'sweep' ? 'sweep' : 'modified';
  metrics.applied.inc({ change: 'created', witness }, summary.created.length);
  metrics.applied.inc({ change: 'updated', witness }, summary.updated.length);
  metrics.applied.inc({ change: 'restored', witness }, summary.restored.length);
}

/** Of the flights of a burst one asks for a pull; who came too late for it asks again. */
const SOON = { dedupeId: 'soon', dedupeMs: 1_500 };

/** What a flight leaves to do. Postgres knows all of it too: this only makes it quick. */
async function followUp(queues: Queues, applied: Applied, log: Logger): Promise<void> {
  try {
    for (const [delayMs, eventIds] of applied.again) {
      await queues.enqueue(applyEvents, { eventIds: [...eventIds] }, { delayMs: delayMs + 50 });
    }
    if (applied.opened) {
      await queues.enqueue(pullModified, { gapsOnly: true });
      await queues.enqueue(sweep, { reason: 'an event' });
    }
    if (applied.pullSoon) await queues.enqueue(pullModified, { soon: true }, SOON);
  } catch (error) {
    log.debug({ err: error }, 'the queue could not be told; recovery will find it');
  }
}
