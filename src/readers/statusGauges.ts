import type { Gauge } from 'prom-client';
import type { Metrics } from '../metrics.ts';
import type { StatusState, StatusView } from './statusView.ts';

/*
 * What Postgres knows, as gauges: the same for every process, so aggregate them with `max`, not `sum`.
 * A value that is not known is absent: 0 would say that nothing was lost, or that all is proven.
 */

/** Sets every gauge that shows the status; with null, where it cannot be read, all of them are absent. */
export function setStatusGauges(metrics: Metrics, status: StatusView | null): void {
  setState(metrics, status);
  setCoverage(metrics, status);
  setRuns(metrics, status);
  setEvents(metrics, status);
  setQueues(metrics, status);
  setBudget(metrics, status);
  setConsumers(metrics, status);
  setOutgoing(metrics, status);
}

const STATES: readonly StatusState[] = ['complete', 'filling', 'behind', 'blocked'];
const OUTCOMES = ['complete', 'partial', 'blocked'] as const;

function setState(metrics: Metrics, status: StatusView | null): void {
  metrics.state.reset();
  for (const state of status ? STATES : []) {
    metrics.state.set({ state }, state === status?.state ? 1 : 0);
  }
  setOne(metrics.lag, status?.lagSeconds);
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

function setRuns({ lastRun, sweepUsers, sweepWindows }: Metrics, status: StatusView | null): void {
  for (const meter of [lastRun, sweepUsers, sweepWindows]) meter.reset();
  for (const { pull, outcome: ended } of status?.lastRuns ?? []) {
    for (const outcome of OUTCOMES) lastRun.set({ pull, outcome }, outcome === ended ? 1 : 0);
  }
  if (!status?.sweep) return;
  const { rowsRead, total, windowsOpen, windowsProven } = status.sweep;
  sweepUsers.set({ kind: 'read' }, rowsRead);
  if (total !== null) sweepUsers.set({ kind: 'total' }, total);
  sweepWindows.set({ state: 'open' }, windowsOpen);
  sweepWindows.set({ state: 'proven' }, windowsProven);
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

function setQueues({ queueJobs }: Metrics, status: StatusView | null): void {
  queueJobs.reset();
  for (const { name, ...counts } of status?.queues ?? []) {
    for (const [state, jobs] of Object.entries(counts)) queueJobs.set({ queue: name, state }, jobs);
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

/** Of the one furthest behind: their names would be labels without end. */
function setConsumers(metrics: Metrics, status: StatusView | null): void {
  const consumers = status?.consumers ?? [];
  const [lagging] = consumers.map(({ lagSeconds }) => lagSeconds).sort((a, b) => b - a);
  setOne(metrics.consumerLag, lagging);
  const used = consumers.flatMap(({ usedRatio }) => (usedRatio === null ? [] : [usedRatio]));
  setOne(metrics.consumerUsed, used.length === 0 ? null : Math.max(...used));
}

function setOutgoing(metrics: Metrics, status: StatusView | null): void {
  const endpoints = status?.endpoints ?? [];
  const isKnown = endpoints.length > 0;
  const served = endpoints.filter(({ state }) => state === 'active');
  const sumOf = (key: 'waiting' | 'parked') =>
    endpoints.reduce((sum, endpoint) => sum + endpoint[key], 0);
  const oldest = Math.max(0, ...served.map(({ oldestSeconds }) => oldestSeconds ?? 0));
  setOne(metrics.outgoingWaiting, isKnown ? sumOf('waiting') : null);
  setOne(metrics.outgoingParked, isKnown ? sumOf('parked') : null);
  setOne(metrics.outgoingStopped, isKnown ? endpoints.length - served.length : null);
  setOne(metrics.outgoingOldest, isKnown ? oldest : null);
}

/** A gauge without labels shows 0 from its creation on, unless it is removed. */
function setOne(gauge: Gauge, value: number | null | undefined): void {
  if (value == null) gauge.remove();
  else gauge.set(value);
}
