import { collectDefaultMetrics, Registry, type Counter } from 'prom-client';

import { createFeedMeters } from './feedMeters.ts';
import { createMakers, type Makers } from './makeMeters.ts';

/*
 * Every meter we expose, named once. `docs/metrics.md` is this list for people, and tested against it.
 * Labels are closed sets: never a user, an id or an address.
 */

/** Stands for any of the statuses that HTTP knows. */
export const HTTP_STATUS = 'HTTP status';
/** Stands for a value that a process never changes. */
export const ONE_VALUE = 'one a process';

const PULLS = ['modified', 'audit', 'sweep'] as const;
const BUDGETS = ['api', 'audit'] as const;
const RESOURCES = ['user search', 'users load', 'user load', 'audit search', 'license'] as const;
const JOBS = [
  ...['applyEvents', 'pullModified', 'pullAudit'],
  ...['sweep', 'sweepWindow', 'verify', 'prune', 'deliver', 'unknown'],
] as const;
const WINDOWS = ['1h', '1d'] as const;

/** What alerts look for must be there, at 0, before it first happens: a rise from nothing is none. */
const EXPECTED = {
  delivery: ['202', '400', '401', '413', '503'],
  request: ['200', '400', '401', '403', '429', '500', '502', '503', 'error'],
} as const;

/** The meters of one process, in a registry of their own. */
export function createMetrics() {
  const registry = new Registry();
  const make = createMakers(registry);
  const meters = {
    buildInfo: make.gauge('rollcall_build_info', 'Always 1; tells what runs', {
      version: [ONE_VALUE],
      node: [ONE_VALUE],
      role: ['all', 'web', 'worker'],
    }),
    dependencyUp: make.gauge(
      'rollcall_dependency_up',
      'Whether what this process depends on answers: 1 or 0. The queue is in Postgres or on Redis',
      { dependency: ['postgres', 'queue', 'redis'] },
    ),
    statusKnown: make.gauge(
      'rollcall_status_known',
      "Whether this process could read the mirror's status for this answer: 1 or 0; with 0 what Postgres knows is absent",
      {},
    ),
    connections: make.gauge(
      'rollcall_postgres_connections',
      'Connections of this process to the mirror, and how many wait for one; the queue has its own',
      { state: ['busy', 'idle', 'awaited'] },
    ),
    requests: make.counter(
      'rollcall_descope_requests_total',
      'Requests sent to Descope, every attempt counted; error: no complete answer came',
      { resource: RESOURCES, status: ['error', HTTP_STATUS] },
    ),
    requestSeconds: make.histogram(
      'rollcall_descope_request_seconds',
      'From a request on the wire to the last byte of its answer, in seconds',
      [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      { resource: RESOURCES },
    ),
    budgetLimit: make.gauge('rollcall_budget_limit', 'Requests a minute that a budget allows', {
      budget: BUDGETS,
    }),
    budgetWaitSeconds: make.histogram(
      'rollcall_budget_wait_seconds',
      'How long requests of this process waited for their slot of a budget, in seconds',
      [0.01, 0.1, 0.5, 1, 2.5, 5, 15, 60, 300],
      { budget: BUDGETS, priority: ['event', 'pull', 'sweep'] },
    ),
    deliveries: make.counter(
      'rollcall_webhook_deliveries_total',
      'Webhook deliveries answered, by HTTP status',
      { status: [HTTP_STATUS] },
    ),
    deliverySeconds: make.histogram(
      'rollcall_webhook_delivery_seconds',
      'From the request to its answer, in seconds',
      [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      {},
    ),
    received: make.counter(
      'rollcall_events_received_total',
      'Events told by webhook: accepted, duplicate or ignored',
      { outcome: ['accepted', 'duplicate', 'ignored'] },
    ),
    applied: make.counter(
      'rollcall_users_written_total',
      'Users written to the mirror, by what happened to them and by whose word; what a sweep deletes is in rollcall_users',
      {
        change: ['created', 'updated', 'restored', 'deleted'],
        witness: ['event', 'modified', 'sweep'],
      },
    ),
    eventsApplied: make.counter(
      'rollcall_events_applied_total',
      'Inbox events applied or put off',
      {},
    ),
    jobs: make.counter('rollcall_jobs_total', 'Jobs ended, by name and outcome', {
      job_name: JOBS,
      outcome: ['done', 'failed', 'stopped'],
    }),
    jobSeconds: make.histogram(
      'rollcall_job_seconds',
      'How long jobs ran, in seconds',
      [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300],
      { job_name: JOBS },
    ),
    queueJobs: make.gauge(
      'rollcall_queue_jobs',
      'Jobs in a queue, the same for every process; failed ones are kept a day to look at',
      { queue: ['events', 'pulls'], state: ['waiting', 'active', 'delayed', 'failed'] },
    ),
    ...createStatusMeters(make),
    ...createFeedMeters(make),
  };
  startAtZero(meters);
  return { registry, labels: make.labels, ...meters };
}

/** What Postgres knows, the same for every process: `max` over processes, not `sum`. Absent where not known. */
function createStatusMeters({ gauge, counter }: Makers) {
  return {
    state: gauge('rollcall_state', '1 for the state the mirror is in, 0 for the others', {
      state: ['complete', 'filling', 'behind', 'blocked'],
    }),
    lag: gauge(
      'rollcall_lag_seconds',
      'How old the instant is that the mirror is complete as of, in seconds; absent until a first sweep has completed',
      {},
    ),
    watermarkLag: gauge(
      'rollcall_watermark_lag_seconds',
      'How far the proven coverage of a pull lies behind now, in seconds',
      { pull: PULLS },
    ),
    users: gauge(
      'rollcall_users',
      'Users in the mirror, live and tombstones, as last counted, 15 s ago at most where that is quick',
      { kind: ['live', 'tombstone'] },
    ),
    gaps: gauge('rollcall_gaps', 'Windows that are not proven complete', {}),
    lastRun: gauge(
      'rollcall_last_run_outcome',
      '1 for how the last run of a pull ended, 0 for the other ways',
      { pull: [...PULLS, 'verify'], outcome: ['complete', 'partial', 'blocked'] },
    ),
    sweepUsers: gauge(
      'rollcall_sweep_users',
      'Users read by the sweep under way, and how many there were at its start; absent while none is',
      { kind: ['read', 'total'] },
    ),
    sweepWindows: gauge(
      'rollcall_sweep_windows',
      'Windows of the sweep under way; absent while none is',
      { state: ['open', 'proven'] },
    ),
    heldDeletions: gauge('rollcall_deletions_held', 'Deletions that wait for a person', {}),
    driftPpm: gauge(
      'rollcall_drift_ppm',
      'Users that differed at the last verification, in parts per million',
      {},
    ),
    lastProofAge: gauge(
      'rollcall_last_proof_age_seconds',
      'Since the whole mirror was last proven, by a sweep or a verification, in seconds',
      {},
    ),
    pendingEvents: gauge('rollcall_events_pending', 'Inbox events not yet applied', {}),
    parkedEvents: gauge(
      'rollcall_events_parked',
      'Inbox events given up until they are replayed',
      {},
    ),
    webhookLoss: gauge(
      'rollcall_webhook_loss_ratio',
      'Share of the events in the audit trail that no webhook brought, 0 to 1',
      { window: WINDOWS },
    ),
    webhookDelay: gauge(
      'rollcall_webhook_delay_seconds',
      'From an event to its first webhook, the median, in seconds',
      { window: WINDOWS },
    ),
    budgetGranted: counter(
      'rollcall_budget_granted_total',
      'Requests granted by a budget, to all processes together',
      { budget: BUDGETS },
    ),
    budgetThrottled: counter(
      'rollcall_budget_throttled_total',
      'Answers of 429 that silenced a budget, of all processes together',
      { budget: BUDGETS },
    ),
    budgetSilence: gauge(
      'rollcall_budget_silence_seconds',
      'How long a budget is silent yet after an answer of 429, in seconds; 0 where it is not',
      { budget: BUDGETS },
    ),
  };
}

function startAtZero(
  meters: Record<'deliveries' | 'requests' | 'received' | 'jobs' | 'outgoing', Counter>,
): void {
  for (const status of EXPECTED.delivery) meters.deliveries.inc({ status }, 0);
  for (const resource of RESOURCES) {
    for (const status of EXPECTED.request) meters.requests.inc({ resource, status }, 0);
  }
  for (const outcome of ['accepted', 'duplicate', 'ignored']) meters.received.inc({ outcome }, 0);
  for (const outcome of ['delivered', 'failed', 'parked']) meters.outgoing.inc({ outcome }, 0);
  for (const name of JOBS) {
    for (const outcome of ['done', 'failed']) meters.jobs.inc({ job_name: name, outcome }, 0);
  }
}

export type Metrics = ReturnType<typeof createMetrics>;

let ofProcess: Registry | undefined;

/**
 * Memory, CPU, event loop and garbage collection of this process, under the names that every Node program
 * uses. One registry a process: what observes them can be started, but not stopped.
 */
export function processMetrics(): Registry {
  if (ofProcess === undefined) {
    ofProcess = new Registry();
    collectDefaultMetrics({ register: ofProcess });
    // Gauges with a counter's name, and what Node no longer documents: `nodejs_active_resources` tells it all.
    for (const what of [
      'resources_total',
      'handles',
      'handles_total',
      'requests',
      'requests_total',
    ]) {
      ofProcess.removeSingleMetric(`nodejs_active_${what}`);
    }
  }
  return ofProcess;
}
