import type { Gauge } from 'prom-client';
import type { Metrics } from '../metrics.ts';
import type { StatusView } from './statusView.ts';

/*
 * What Postgres knows, as gauges: the same for every process, so aggregate them with `max`, not `sum`.
 * A value that is not known is absent: 0 would say that nothing was lost, or that all is proven.
 */

/** Sets every gauge that shows the status; with null, where it cannot be read, all of them are absent. */
export function setStatusGauges(metrics: Metrics, status: StatusView | null): void {
  setCoverage(metrics, status);
  setEvents(metrics, status);
  setBudget(metrics, status);
}

function setCoverage(metrics: Metrics, status: StatusView | null): void {
  metrics.watermarkLag.reset();
  for (const { pull, lagSeconds } of status?.watermarks ?? []) {
    if (lagSeconds !== null) metrics.watermarkLag.set({ pull }, lagSeconds);
  }
  metrics.users.reset();
  if (status) {
    metrics.users.set({ kind: 'live' }, status.users.live);
    metrics.users.set({ kind: 'tombstone' }, status.users.tombstones);
  }
  setOne(metrics.gaps, status?.gaps);
  setOne(metrics.heldDeletions, status?.heldDeletions);
  setOne(metrics.driftPpm, status?.driftPpm);
  setOne(metrics.lastProofAge, status?.lastProofAgeSeconds);
}

function setEvents(metrics: Metrics, status: StatusView | null): void {
  const events = status?.events;
  setOne(metrics.pendingEvents, events?.pending);
  setOne(metrics.parkedEvents, events?.parked);
  const { webhookLoss, webhookDelay } = metrics;
  webhookLoss.reset();
  webhookDelay.reset();
  const windows = [
    ['1h', events?.lossRate, events?.webhookDelaySeconds],
    ['1d', events?.lossRateDay, events?.webhookDelayDaySeconds],
  ] as const;
  for (const [window, lossRate, delaySeconds] of windows) {
    if (lossRate != null) webhookLoss.set({ window }, lossRate);
    if (delaySeconds != null) webhookDelay.set({ window }, delaySeconds);
  }
}

function setBudget(metrics: Metrics, status: StatusView | null): void {
  const { budgetGranted, budgetThrottled, budgetSilence } = metrics;
  for (const meter of [budgetGranted, budgetThrottled, budgetSilence]) meter.reset();
  for (const { name, granted, throttled, silentSeconds } of status?.budget ?? []) {
    const budget = { budget: name };
    budgetGranted.inc(budget, granted);
    budgetThrottled.inc(budget, throttled);
    budgetSilence.set(budget, silentSeconds);
  }
}

/** A gauge without labels shows 0 from its creation on, unless it is removed. */
function setOne(gauge: Gauge, value: number | null | undefined): void {
  if (value == null) gauge.remove();
  else gauge.set(value);
}
