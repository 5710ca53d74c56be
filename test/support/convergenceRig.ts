import { sql } from 'drizzle-orm';

import * as backfill from '../../src/commands/backfill.ts';
import { parseConfig, type Config } from '../../src/config.ts';
import { runCommand } from '../commands/context.ts';
import { startForwarder, type Forwarder } from './convergenceForwarder.ts';
import { createNotes, type Notes } from './convergenceNotes.ts';
import { startHistoryRedis } from './convergenceRedis.ts';
import { createTroubles, endLeases, type Breakable, type Troubles } from './convergenceTrouble.ts';
import { startProxy } from './proxy.ts';
import { createSupervisor, type Supervisor } from './supervisor.ts';
import { createScene, HMAC_SECRET, type Scene } from './world.ts';

import type { History } from './convergenceHistory.ts';

/** The built service in processes of its own, and all that can break around it. */
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
  const { queue, roles, users, sameInstant, budget } = history.settings;
  const redis = await startHistoryRedis(queue);
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
    processes: roles.map((role) =>
      createSupervisor(env, ['--role', role], (port) => {
        if (role !== 'worker') forwarder.port = port;
      }),
    ),
  };
  const troubles = createTroubles(parts);
  for (const one of parts.processes) {
    one.excuse((fromMs, toMs) => troubles.hit(['cutPostgres'], fromMs, toMs));
  }
  // All at once, as a deployment does: one of them brings the schema up to date.
  await Promise.all(parts.processes.map((one) => one.start()));
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

interface Parts extends Breakable {
  readonly processes: readonly Supervisor[];
  readonly notes: Notes;
  readonly env: Readonly<Record<string, string>>;
}

function createRig(parts: Parts, troubles: Troubles): Rig {
  const { scene, descope, forwarder, processes, notes, env } = parts;
  const { simulator } = scene;
  const liftedAtMs: number[] = [];
  const kill = async () => {
    await Promise.all(processes.map((one) => one.kill()));
  };

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
      await kill();
      await endLeases(scene);
      await Promise.all(processes.map((one) => one.start()));
    },
    kill,
    sweep: () => sweep(parseConfig(env)),
    failure: () => processes.map((one) => one.failure()).find((one) => one !== undefined),
    async stop() {
      await troubles.ended().catch(() => undefined);
      await kill();
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
