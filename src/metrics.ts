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
    watermarkLag: new Gauge({
      name: 'rollcall_watermark_lag_seconds',
      help: 'How far the proven coverage of a pull lies behind now, in seconds',
      labelNames: ['pull'] as const,
      registers,
    }),
    pendingEvents: new Gauge({
      name: 'rollcall_events_pending',
      help: 'Inbox events not yet applied',
      registers,
    }),
    users: new Gauge({
      name: 'rollcall_users',
      help: 'Users in the mirror: live, and tombstones',
      labelNames: ['kind'] as const,
      registers,
    }),
    gaps: new Gauge({
      name: 'rollcall_gaps',
      help: 'Windows that are not proven complete',
      registers,
    }),
  };
}

export type Metrics = ReturnType<typeof createMetrics>;
