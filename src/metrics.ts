import { Counter, Gauge, Histogram, Registry } from 'prom-client';

/** Every meter we expose, named once. Labels are closed sets: never a user, an id or an address. */
export function createMetrics() {
  const registry = new Registry();
  const registers = [registry];
  return {
    registry,
    requests: new Counter({
      name: 'rollcall_descope_requests_total',
      help: 'Requests sent to Descope, every attempt counted',
      labelNames: ['resource', 'status'] as const,
      registers,
    }),
    budgetWaitSeconds: new Histogram({
      name: 'rollcall_budget_wait_seconds',
      help: 'How long requests of this process waited for their slot of a budget, in seconds',
      labelNames: ['budget', 'priority'] as const,
      buckets: [0.01, 0.1, 0.5, 1, 2.5, 5, 15, 60, 300],
      registers,
    }),
    deliveries: new Counter({
      name: 'rollcall_webhook_deliveries_total',
      help: 'Webhook deliveries answered, by HTTP status',
      labelNames: ['status'] as const,
      registers,
    }),
    deliverySeconds: new Histogram({
      name: 'rollcall_webhook_delivery_seconds',
      help: 'From the request to its answer, in seconds',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers,
    }),
    received: new Counter({
      name: 'rollcall_events_received_total',
      help: 'Events told by webhook: accepted, duplicate or ignored',
      labelNames: ['outcome'] as const,
      registers,
    }),
    applied: new Counter({
      name: 'rollcall_users_written_total',
      help: 'Users written to the mirror, by what happened to them and by whose word',
      labelNames: ['change', 'witness'] as const,
      registers,
    }),
    eventsApplied: new Counter({
      name: 'rollcall_events_applied_total',
      help: 'Inbox events applied or put off',
      registers,
    }),
    jobs: new Counter({
      name: 'rollcall_jobs_total',
      help: 'Jobs ended, by name and outcome',
      labelNames: ['job', 'outcome'] as const,
      registers,
    }),
    jobSeconds: new Histogram({
      name: 'rollcall_job_seconds',
      help: 'How long jobs ran, in seconds',
      labelNames: ['job'] as const,
      buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300],
      registers,
    }),
    ...createStatusMeters(registers),
  };
}

/** What Postgres knows, the same for every process: `max` over processes, not `sum`. Absent where not known. */
function createStatusMeters(registers: Registry[]) {
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers });
  return {
    watermarkLag: new Gauge({
      name: 'rollcall_watermark_lag_seconds',
      help: 'How far the proven coverage of a pull lies behind now, in seconds',
      labelNames: ['pull'] as const,
      registers,
    }),
    users: new Gauge({
      name: 'rollcall_users',
      help: 'Users in the mirror, live and tombstones, counted at most 15 s ago',
      labelNames: ['kind'] as const,
      registers,
    }),
    gaps: gauge('rollcall_gaps', 'Windows that are not proven complete'),
    heldDeletions: gauge('rollcall_deletions_held', 'Deletions that wait for a person'),
    driftPpm: gauge(
      'rollcall_drift_ppm',
      'Users that differed at the last verification, in parts per million',
    ),
    lastProofAge: gauge(
      'rollcall_last_proof_age_seconds',
      'Since the whole mirror was last proven, by a sweep or a verification, in seconds',
    ),
    pendingEvents: gauge('rollcall_events_pending', 'Inbox events not yet applied'),
    parkedEvents: gauge('rollcall_events_parked', 'Inbox events given up until they are replayed'),
    webhookLoss: new Gauge({
      name: 'rollcall_webhook_loss_ratio',
      help: 'Share of the events in the audit trail that no webhook brought, 0 to 1',
      labelNames: ['window'] as const,
      registers,
    }),
    webhookDelay: new Gauge({
      name: 'rollcall_webhook_delay_seconds',
      help: 'From an event to its first webhook, the median, in seconds',
      labelNames: ['window'] as const,
      registers,
    }),
    budgetGranted: new Counter({
      name: 'rollcall_budget_granted_total',
      help: 'Requests granted by a budget, to all processes together',
      labelNames: ['budget'] as const,
      registers,
    }),
    budgetThrottled: new Counter({
      name: 'rollcall_budget_throttled_total',
      help: 'Answers of 429 that silenced a budget, of all processes together',
      labelNames: ['budget'] as const,
      registers,
    }),
    budgetSilence: new Gauge({
      name: 'rollcall_budget_silence_seconds',
      help: 'How long a budget is silent yet after an answer of 429, in seconds; 0 where it is not',
      labelNames: ['budget'] as const,
      registers,
    }),
  };
}

export type Metrics = ReturnType<typeof createMetrics>;
