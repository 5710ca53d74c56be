import { sql } from 'drizzle-orm';

import * as backfill from '../../src/commands/backfill.ts';
import { parseConfig, type Config } from '../../src/config.ts';
import { runCommand } from '../commands/context.ts';
import { startForwarder, type Forwarder } from './convergenceForwarder.ts';
import { createNotes, type Notes } from './convergenceNotes.ts';
import { createTroubles, endLeases, type Breakable, type Troubles } from './convergenceTrouble.ts';
import { startProcess, type RunningProcess } from './process.ts';
import { startProxy } from './proxy.ts';
import { startRedisServer } from './redis.ts';
import { createScene, HMAC_SECRET, type Scene } from './world.ts';

import type { History } from './convergenceHistory.ts';

/** The built service in a process of its own, and all that can break around it. */
export interface Rig {
  readonly scene: Scene;
  readonly forwarder: Forwarder;
  readonly troubles: Troubles;
  readonly notes: Notes;
  /** Instants (epoch ms) at which the silence after a 429 was ended by hand. */
  readonly liftedAtMs: readonly number[];
  /** Resolves when nothing is broken any more, and nothing lags. */
  heal(): Promise<void>;
  /** Kills the service and starts it again, as a deployment does. */
  restart(): Promise<void>;
  /** Kills the service for good. */
  kill(): Promise<void>;
  /** `rollcall backfill`; whether it says that the sweep is complete. */
  sweep(): Promise<boolean>;
  /** Why the service ended by itself; undefined while it did not. */
  failure(): string | undefined;
  stop(): Promise<void>;
}

export async function startRig(history: History, seed: number): Promise<Rig> {
  const redis = history.settings.queue === 'redis' ? await startRedisServer() : null;
  const { users, sameInstant, budget } = history.settings;
  const scene = await createScene({
    simulator: { users, sameInstant, seed, behaviour: history.behaviour },
    redisUrl: redis?.url ?? null,
    proxied: true,
    env: toEnv(history),
  });
  const descope = await startProxy(scene.simulator.url);
  const forwarder = await startForwarder();
  const env = {
    ...scene.env,
    LOG_LEVEL: 'warn',
    DESCOPE_BASE_URL: descope.through(scene.simulator.url).replace(/\/$/, ''),
    API_BUDGET_PER_MINUTE: String(budget),
  };
  const notes = await createNotes(scene);
  const parts: Parts = {
    ...{ scene, descope, forwarder, redis, env, notes },
    service: createSupervisor(env, forwarder),
  };
  const troubles = createTroubles(parts);
  parts.service.excuse((fromMs, toMs) => troubles.hit(['cutPostgres'], fromMs, toMs));
  await parts.service.start();
  aim(scene, forwarder, history);
  return createRig(parts, troubles);
}

function toEnv({ behaviour, settings }: History): Record<string, string> {
  return {
    PULL_MODIFIED_CRON: '* * * * * *',
    PULL_AUDIT_CRON: '* * * * * *',
    AUDIT_BUDGET_PER_MINUTE: '600',
    PAGE_SIZE: String(settings.pageSize),
    PULL_OVERLAP_SECONDS: String(settings.overlapSeconds),
    PULL_SETTLE_SECONDS: behaviour.readLagMs > 300 ? '2' : '1',
    BREAKER_MAX_PERCENT: '100',
  };
}

function aim({ simulator }: Scene, forwarder: Forwarder, { delivery }: History): void {
  const { envelope, signOver, batchMax, mostDelayMs, ...policy } = delivery;
  simulator.delivery.configure({
    url: forwarder.url,
    hmacSecret: HMAC_SECRET,
    envelope,
    signOver,
    batchMax,
    policy: { ...policy, delayMs: [0, mostDelayMs] },
  });
}

interface Supervisor {
  start(): Promise<void>;
  kill(): Promise<void>;
  /** Why the service ended by itself; undefined while it did not, or had an excuse. */
  failure(): string | undefined;
  /** Tells whether there was a reason to end in a range of time (epoch ms). */
  excuse(hasReason: (fromMs: number, toMs: number) => boolean): void;
}

/** Postgres must be there while the service starts, its workers a moment longer than its ports. */
const STARTING_MS = 3_000;

/** Starts the service, again where it could not, as an orchestrator does. */
function createSupervisor(env: Readonly<Record<string, string>>, forwarder: Forwarder): Supervisor {
  let current: RunningProcess | undefined;
  let failure: string | undefined;
  let starting: Promise<void> = Promise.resolve();
  let isExcused: (fromMs: number, toMs: number) => boolean = () => false;

  /** Resolves to whether it listens. */
  async function startOnce(): Promise<boolean> {
    const startedAtMs = Date.now();
    const started = startProcess(['start', '--json'], { env });
    current = started;
    const line = await started.waitForLine(/"publicPort":(\d+)/).catch(() => null);
    const listensAtMs = Date.now();
    if (line) forwarder.port = Number(line[1]);
    void started.exit.then((code) => {
      if (current !== started) return;
      const nowMs = Date.now();
      const isStarting = line === null || nowMs < listensAtMs + STARTING_MS;
      if (!isStarting || !isExcused(startedAtMs, nowMs)) {
        failure ??= `the service ended with ${code}: ${started.stderr()}`;
      }
      if (line && isStarting) starting = start();
    });
    return line !== null;
  }

  async function start(): Promise<void> {
    for (let attempt = 0; attempt < 10; attempt++) if (await startOnce()) return;
    failure ??= `the service does not start: ${current?.stderr() ?? ''}`;
  }

  return {
    start,
    async kill() {
      await starting;
      const killed = current;
      current = undefined;
      forwarder.port = undefined;
      killed?.kill('SIGKILL');
      await killed?.exit;
    },
    failure: () => failure,
    excuse: (hasReason) => {
      isExcused = hasReason;
    },
  };
}

interface Parts extends Breakable {
  readonly service: Supervisor;
  readonly notes: Notes;
  readonly env: Readonly<Record<string, string>>;
}

function createRig(parts: Parts, troubles: Troubles): Rig {
  const { scene, descope, forwarder, service, notes, env } = parts;
  const { simulator } = scene;
  const liftedAtMs: number[] = [];

  return {
    ...{ scene, forwarder, troubles, notes, liftedAtMs },
    async heal() {
      await troubles.ended();
      simulator.delivery.configure(undefined);
      simulator.faults.clear();
      simulator.behaviour.readLagMs = 0;
      simulator.behaviour.auditLagMs = 0;
      // Requests that hang would do so for half a minute.
      descope.cut();
      descope.restore();
      liftedAtMs.push(Date.now());
      await scene.query(
        sql`update ${scene.database.mirror.t.budgets}
            set silent_until = null, next_at = clock_timestamp() where silent_until is not null`,
      );
    },
    async restart() {
      await service.kill();
      await endLeases(scene);
      await service.start();
    },
    kill: () => service.kill(),
    sweep: () => sweep(parseConfig(env)),
    failure: () => service.failure(),
    async stop() {
      await troubles.ended().catch(() => undefined);
      await service.kill();
      await forwarder.stop();
      await descope.stop();
      await scene.stop();
      await parts.redis?.stop();
    },
  };
}

/** In this process: starting another would take longer than the sweep. */
async function sweep(config: Config): Promise<boolean> {
  const outcome = await runCommand(backfill, { config, logs: [] }).catch(() => null);
  return outcome?.exitCode === 0;
}
