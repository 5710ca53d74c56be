import { Registry } from 'prom-client';

import { processMetrics, type Metrics } from '../metrics.ts';
import { setStatusGauges } from '../readers/statusGauges.ts';
import { inTime } from '../within.ts';

import type { Mirror } from '../mirror/database.ts';
import type { StatusView } from '../readers/statusView.ts';
import type { Health } from './health.ts';

/*
 * The text of `/metrics`. What changes by itself (the status, the dependencies, the pool) is asked when
 * somebody looks; the rest was counted where it happened.
 */

export interface ScrapeDeps {
  readonly metrics: Metrics;
  readonly readStatus: () => Promise<StatusView>;
  readonly health: Health;
  readonly pool: Mirror['pool'];
  /** Told where the status cannot be read. */
  readonly onError: (error: unknown) => void;
}

/** Half of what Prometheus waits as a rule: a Postgres that is silent must not make us look dead. */
const STATUS_DEADLINE_MS = 5_000;

/** Never rejects where a dependency is away: its gauges are absent then, the process's own are there. */
export function createScrape(deps: ScrapeDeps): () => Promise<string> {
  const { metrics, health, pool, onError } = deps;
  const all = Registry.merge([metrics.registry, processMetrics()]);
  const readStatus = async () => {
    try {
      return await inTime(STATUS_DEADLINE_MS, deps.readStatus(), 'the status was not read');
    } catch (error) {
      onError(error);
      return null;
    }
  };
  return async () => {
    const [status, readiness] = await Promise.all([readStatus(), health.readReadiness()]);
    setStatusGauges(metrics, status);
    metrics.statusKnown.set(status === null ? 0 : 1);
    const failing = new Set(readiness.failing.map(({ dependency }) => dependency));
    for (const dependency of health.dependencies()) {
      metrics.dependencyUp.set({ dependency }, failing.has(dependency) ? 0 : 1);
    }
    metrics.connections.set({ state: 'busy' }, pool.totalCount - pool.idleCount);
    metrics.connections.set({ state: 'idle' }, pool.idleCount);
    metrics.connections.set({ state: 'awaited' }, pool.waitingCount);
    return all.metrics();
  };
}
