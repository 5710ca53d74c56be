import { sql } from 'drizzle-orm';
import { expect, onTestFinished } from 'vitest';

import { createApplier } from '../../src/apply/applier.ts';
import { createBudget } from '../../src/descope/budget.ts';
import { createDescopeClient } from '../../src/descope/client.ts';
import { openRun } from '../../src/pull/ledger.ts';
import { openModifiedWindow, pullModified, type ModifiedDeps } from '../../src/pull/modified.ts';
import { createPatientClient } from '../../src/pull/patient.ts';
import { pullAudit, type AuditDeps } from '../../src/pull/audit.ts';
import { readWindow } from '../../src/pull/readWindow.ts';
import { readWatermark } from '../../src/pull/watermark.ts';
import { advanceSweep, startSweep, type SweepDeps } from '../../src/pull/sweep.ts';
import { readRun, type RunView } from '../../src/readers/runs.ts';
import { createScene, type Scene, type WorldOptions } from '../support/world.ts';

import type { Applier } from '../../src/apply/applier.ts';
import type { DescopeClient } from '../../src/descope/types.ts';
import type { Pull } from '../../src/pull/ledger.ts';

export interface PullSceneOptions extends WorldOptions {
  /** Waits between tries, in ms; a few very short ones where absent. */
  readonly waitsMs?: readonly number[];
  readonly requestTimeoutMs?: number;
}

/** The pulls' parts of one process, without queue and schedule: a test says what runs when. */
export interface Process {
  readonly client: DescopeClient;
  readonly modified: ModifiedDeps;
  readonly audit: AuditDeps;
  readonly sweep: SweepDeps;
  readonly applier: Applier;
}

export interface PullScene extends Scene {
  /** Of the simulated Descope, apart from its skew: running, shifted, or standing still. */
  readonly clock: { shiftMs: number; frozenMs: number | null };
  /** Forgets all that a process learns while it runs, as a new one would. */
  restart(): void;
  readonly process: () => Process;
  /** A whole sweep, `lanes` windows side by side. */
  runSweep(lanes?: number): Promise<RunView>;
  pullModified(): ReturnType<typeof pullModified>;
  pullAudit(): ReturnType<typeof pullAudit>;
  /** Applies what is due in the inbox; returns how many events. */
  applyEvents(): Promise<number>;
  /** Lets something happen as if it were so long ago. */
  ago(ms: number, happen: () => void): void;
  /** Of Descope's clock, epoch ms. */
  watermark(pull: Pull): Promise<number | null>;
  windows(pull: Pull): Promise<{ state: string; error: string | null }[]>;
  /** By state. */
  deletions(): Promise<Record<string, number>>;
  countUsers(): Promise<{ live: number; gone: number }>;
}

const SHORT_WAITS_MS = [2, 4, 8, 16, 32];

/** A Descope, a database, and the pulls between them. */
export async function createPullScene(options: PullSceneOptions = {}): Promise<PullScene> {
  const clock: PullScene['clock'] = { shiftMs: 0, frozenMs: null };
  const scene = await createScene({
    ...options,
    simulator: {
      ...options.simulator,
      now: () => clock.frozenMs ?? Date.now() + clock.shiftMs,
    },
  });
  const { mirror } = scene.database;
  const { signal } = new AbortController();
  let current = createProcess(scene, options, signal);
  return {
    ...scene,
    clock,
    restart() {
      current = createProcess(scene, options, signal);
    },
    process: () => current,
    runSweep: (lanes = 4) => runSweep(current, lanes, signal),
    pullModified: () => pullModified(current.modified, signal),
    pullAudit: () => pullAudit(current.audit, signal),
    async applyEvents() {
      const due = await scene.query<{ eventId: string }>(
        sql`select event_id as "eventId" from ${mirror.t.events}
            where state = 'pending' and due_at <= clock_timestamp() order by seq`,
      );
      await Promise.all(due.map(({ eventId }) => current.applier.apply([eventId])));
      return due.length;
    },
    ago(ms, happen) {
      clock.shiftMs -= ms;
      happen();
      clock.shiftMs += ms;
    },
    watermark: (pull) => readWatermark(mirror.db, mirror, pull),
    windows: (pull) =>
      scene.query(
        sql`select state, error from ${mirror.t.syncWindows} where pull = ${pull} order by window_id`,
      ),
    async deletions() {
      const found = await scene.query<{ state: string; n: number }>(
        sql`select state, count(distinct user_id)::int as n from ${mirror.t.deletions} group by state`,
      );
      return Object.fromEntries(found.map(({ state, n }) => [state, n]));
    },
    async countUsers() {
      const [found] = await scene.query<{ live: number; gone: number }>(
        sql`select count(*) filter (where deleted_at is null)::int as live,
                   count(deleted_at)::int as gone from ${mirror.t.users}`,
      );
      return found ?? { live: 0, gone: 0 };
    },
  };
}

/** A scene that ends with its test. */
export async function beginPullScene(options: PullSceneOptions = {}): Promise<PullScene> {
  const scene = await createPullScene(options);
  onTestFinished(() => scene.stop());
  return scene;
}

/** The same with a filled mirror. Pulls settle for two seconds, so that a test need not wait long. */
export async function beginFilled(options: PullSceneOptions): Promise<PullScene> {
  const env = { PULL_SETTLE_SECONDS: '2', ...options.env };
  const scene = await beginPullScene({ ...options, env });
  expect(await scene.runSweep()).toMatchObject({ outcome: 'complete' });
  return scene;
}

function createProcess(scene: Scene, options: PullSceneOptions, signal: AbortSignal): Process {
  const { config, database, simulator } = scene;
  const { mirror } = database;
  const budget = (name: string, perMinute: number) => createBudget({ mirror, name, perMinute });
  const client = createPatientClient(
    createDescopeClient({
      projectId: simulator.projectId,
      managementKey: simulator.managementKey,
      baseUrl: simulator.url,
      mirror,
      budget: budget('api', config.API_BUDGET_PER_MINUTE),
      auditBudget: budget('audit', config.AUDIT_BUDGET_PER_MINUTE),
      timeUnit: config.DESCOPE_TIME_UNIT,
      includeTestUsers: config.INCLUDE_TEST_USERS,
      ...(options.requestTimeoutMs === undefined
        ? {}
        : { requestTimeoutMs: options.requestTimeoutMs }),
    }),
    [...(options.waitsMs ?? SHORT_WAITS_MS)],
  );
  const pulls = {
    mirror,
    client,
    pageSize: config.PAGE_SIZE,
    includeTestUsers: config.INCLUDE_TEST_USERS,
  };
  const breaker = { maxCount: config.BREAKER_MAX_COUNT, maxPercent: config.BREAKER_MAX_PERCENT };
  const overlapMs = config.PULL_OVERLAP_SECONDS * 1000;
  const settleMs = config.PULL_SETTLE_SECONDS * 1000;
  return {
    client,
    modified: { ...pulls, overlapMs, settleMs },
    audit: {
      mirror,
      client,
      projectId: simulator.projectId,
      archiveAll: config.EVENT_ARCHIVE === 'all',
      overlapMs,
      settleMs,
      enqueue: () => Promise.resolve(),
    },
    sweep: { ...pulls, breaker, overlapMs },
    applier: createApplier({
      mirror,
      client,
      includeTestUsers: config.INCLUDE_TEST_USERS,
      breaker,
      signal,
      overlapMs,
      openWindow: async (tx, range) => {
        await openModifiedWindow(tx, { mirror }, 'an event that names nobody', range);
      },
      openSweep: async (tx, reason) => {
        await openRun(tx, mirror, 'sweep', reason);
      },
    }),
  };
}

async function runSweep({ sweep }: Process, lanes: number, signal: AbortSignal): Promise<RunView> {
  const { runId } = await startSweep(sweep, 'a test');
  for (;;) {
    const state = await advanceSweep(sweep, runId, signal);
    if (state.kind === 'finished') return readRun(sweep.mirror, runId);
    const todo = [...state.windowIds];
    const lane = async () => {
      for (let windowId = todo.shift(); windowId !== undefined; windowId = todo.shift()) {
        await readWindow(sweep, windowId, signal);
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
  }
}
