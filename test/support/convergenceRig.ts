import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';

import { createRandom } from '../../src/simulator/random.ts';
import { startForwarder, type Forwarder } from './convergenceForwarder.ts';
import { startProcess, type RunningProcess } from './process.ts';
import { startProxy, type Proxy } from './proxy.ts';
import { startRedisServer, type RedisServer } from './redis.ts';
import { createScene, flushRedis, HMAC_SECRET, type Scene } from './world.ts';

import type { Disturbance, History } from './convergenceHistory.ts';

/** The built service in a process of its own, and all that can break around it. */
export interface Rig {
  readonly scene: Scene;
  readonly forwarder: Forwarder;
  /** Instants (epoch ms) at which the silence after a 429 was ended by hand. */
  readonly liftedAtMs: readonly number[];
  /** Lets something break for a while, and returns at once. */
  disturb(disturbance: Disturbance, seed: number): void;
  /** Resolves when nothing is broken any more, and nothing lags. */
  heal(): Promise<void>;
  /** Kills the service and starts it again, as a deployment does. */
  restart(): Promise<void>;
  /** Runs a command beside the service; its exit code. */
  run(args: readonly string[]): Promise<number>;
  /** Why the service ended by itself; undefined while it did not. */
  failure(): string | undefined;
  stop(): Promise<void>;
}

/** Some take a second each; more of them prove nothing more. */
const MOST_OF_A_KIND = 2;

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
  const service = createSupervisor(env, forwarder);
  await service.start();
  aim(scene, forwarder, history);
  const rig = createRig({ scene, descope, forwarder, redis, service, env });
  return rig;
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
  failure(): string | undefined;
}

/** Postgres must be there while the service starts, its workers a moment longer than its ports. */
const STARTING_MS = 3_000;

/** Starts the service, again where it could not, as an orchestrator does. */
function createSupervisor(env: Readonly<Record<string, string>>, forwarder: Forwarder): Supervisor {
  let current: RunningProcess | undefined;
  let failure: string | undefined;
  let starting: Promise<void> = Promise.resolve();

  async function startOnce(): Promise<boolean> {
    const started = startProcess(['start', '--json'], { env });
    current = started;
    const line = await started.waitForLine(/"publicPort":(\d+)/).catch(() => null);
    if (!line) return false;
    forwarder.port = Number(line[1]);
    const startedAtMs = Date.now();
    void started.exit.then((code) => {
      if (current !== started) return;
      if (Date.now() < startedAtMs + STARTING_MS) starting = start();
      else failure = `the service ended with ${code}: ${started.stderr()}`;
    });
    return true;
  }

  async function start(): Promise<void> {
    for (let attempt = 0; attempt < 10; attempt++) if (await startOnce()) return;
    failure = `the service does not start: ${current?.stderr() ?? ''}`;
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
  };
}

interface Parts {
  readonly scene: Scene;
  readonly descope: Proxy;
  readonly forwarder: Forwarder;
  redis: RedisServer | null;
  readonly service: Supervisor;
  readonly env: Readonly<Record<string, string>>;
}

function createRig(parts: Parts): Rig {
  const { scene, descope, forwarder, service, env } = parts;
  const { simulator } = scene;
  const liftedAtMs: number[] = [];
  /** Of each kind one at a time, the others in turn. */
  const underWay = new Map<string, { last: Promise<void>; count: number }>();

  return {
    scene,
    forwarder,
    liftedAtMs,
    disturb(disturbance, seed) {
      // A Redis that is away cannot be flushed.
      const kind = disturbance.kind === 'flushRedis' ? 'stopRedis' : disturbance.kind;
      const { last, count } = underWay.get(kind) ?? { last: Promise.resolve(), count: 0 };
      if (count >= MOST_OF_A_KIND) return;
      underWay.set(kind, {
        last: last.then(() => happen(parts, disturbance, seed)),
        count: count + 1,
      });
    },
    async heal() {
      await Promise.all([...underWay.values()].map(({ last }) => last));
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
    run: (args) => startProcess(args, { env }).exit,
    failure: () => service.failure(),
    async stop() {
      await Promise.allSettled([...underWay.values()].map(({ last }) => last));
      await service.kill();
      await forwarder.stop();
      await descope.stop();
      await scene.stop();
      await parts.redis?.stop();
    },
  };
}

/** One thing that breaks, until it is whole again. */
async function happen(parts: Parts, disturbance: Disturbance, seed: number): Promise<void> {
  const { scene, descope, forwarder, service } = parts;
  const { simulator, proxy } = scene;
  const { kind, forMs } = disturbance;
  switch (kind) {
    case 'faults':
      simulator.faults.random(disturbance.rate, disturbance.kinds, createRandom(seed));
      await delay(forMs);
      simulator.faults.clear();
      return;
    case 'kill':
      await service.kill();
      await endLeases(scene);
      await delay(forMs);
      await service.start();
      return;
    case 'throttle':
      Object.assign(simulator.behaviour.limits, { users: 0, audit: 0 });
      await delay(forMs);
      Object.assign(simulator.behaviour.limits, { users: null, audit: null });
      simulator.limits.reset();
      return;
    case 'cutPostgres':
      proxy.cut();
      await delay(forMs);
      proxy.restore();
      return;
    case 'cutDescope':
      descope.cut();
      await delay(forMs);
      descope.restore();
      return;
    case 'blackout':
      descope.cut();
      await delay(forMs);
      // Nobody at all may be believed when it is said twice, so it is said once.
      simulator.faults.next(disturbance.answer, {
        path: 'search',
        times: disturbance.answer === 'zeroTotal' ? 1 : 3,
      });
      descope.restore();
      return;
    case 'noEndpoint':
      forwarder.isAway = true;
      await delay(forMs);
      forwarder.isAway = false;
      return;
    case 'flushRedis':
      if (parts.redis) await flushRedis(parts.redis.url);
      return;
    case 'stopRedis':
      await restartRedis(parts, forMs);
  }
}

async function restartRedis(parts: Parts, forMs: number): Promise<void> {
  if (!parts.redis) return;
  const port = Number(new URL(parts.redis.url).port);
  await parts.redis.stop();
  await delay(forMs);
  parts.redis = await startRedisServer(port);
}

/** As after the minute or two for which a killed process keeps others from pulling. */
async function endLeases(scene: Scene): Promise<void> {
  const { watermarks } = scene.database.mirror.t;
  await scene.query(sql`update ${watermarks} set busy_until = null`);
}
