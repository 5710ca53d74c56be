import { sql } from 'drizzle-orm';

import { createLogger } from '../../src/log.ts';
import { parseConfig, type Config } from '../../src/config.ts';
import { rows } from '../../src/mirror/database.ts';
import { startService, type Role, type Service } from '../../src/service.ts';
import { signatureOf } from '../../src/simulator/envelopes.ts';
import {
  startSimulator,
  type Simulator,
  type SimulatorOptions,
} from '../../src/simulator/server.ts';
import { compareWithDirectory } from '../../src/commands/compare.ts';
import { createTestDatabase, type TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { startProxy, type Proxy } from './proxy.ts';
import { dumpQueue } from './queueDump.ts';
import { collectSecrets } from './secrets.ts';

import type { DeliveryTarget } from '../../src/simulator/delivery.ts';

export type QueueKind = 'postgres' | 'redis';

export interface WorldOptions {
  readonly simulator?: SimulatorOptions;
  /** Settings over those below. */
  readonly env?: Readonly<Record<string, string>>;
  /** Null: the queue is in Postgres. */
  readonly redisUrl?: string | null;
  /** What the service in this process does; `all` where absent. */
  readonly role?: Role;
  /** The service reaches Postgres through `proxy`. */
  readonly proxied?: boolean;
  /** Of a server of the test's own; where absent, a fresh one on the run's server. */
  readonly database?: TestDatabase;
}

/** A Descope and a database, and what belongs to whoever stands between them. */
export interface Scene {
  readonly simulator: Simulator;
  readonly database: TestDatabase;
  /** Between service and Postgres, where the service goes through it. */
  readonly proxy: Proxy;
  /** Settings of a service in a process of its own, database included. */
  readonly env: Readonly<Record<string, string>>;
  readonly config: Config;
  /** All log lines of all services of this scene. */
  readonly logs: string[];
  /** Fails with the differences between mirror and directory. */
  assertEqual(isSettling?: (userId: string) => boolean): Promise<void>;
  /** Waits until they are equal. */
  untilEqual(timeoutMs?: number): Promise<void>;
  /** Waits until they are equal and no sweep is under way that could go on to mend them. */
  untilFilled(timeoutMs?: number): Promise<void>;
  /** Rows of one statement against the mirror's tables. */
  query<Row>(query: ReturnType<typeof sql>): Promise<Row[]>;
  /** Everything that is in the queue, finished and failed jobs included. */
  queueText(): Promise<string>;
  /** Fails where logs, the given text or the queue show anything personal or secret (guarantee G10). */
  assertPrivate(text?: string): Promise<void>;
  stop(): Promise<void>;
}

/** A Descope, a database and a service between them, in this process. */
export interface World extends Scene {
  service: Service;
  /** Lets the simulator deliver its webhooks to the service. */
  deliver(target?: Partial<DeliveryTarget>): void;
  /** Posts a body to the webhook, rightly signed unless `headers` say otherwise. */
  post(body: string, headers?: Readonly<Record<string, string>>): Promise<Response>;
  restart(): Promise<void>;
}

export const HMAC_SECRET = 'the-webhook-secret-of-this-test';

/** No limit of the provider in the way, no schedule: a test says itself what happens when. */
export function testEnv(
  simulator: Simulator,
  redisUrl: string | null | undefined,
): Record<string, string> {
  return {
    DESCOPE_PROJECT_ID: simulator.projectId,
    DESCOPE_MANAGEMENT_KEY: simulator.managementKey,
    DESCOPE_BASE_URL: simulator.url,
    WEBHOOK_HMAC_SECRETS: HMAC_SECRET,
    API_BUDGET_PER_MINUTE: '100000',
    AUDIT_BUDGET_PER_MINUTE: '100000',
    PORT: '0',
    ADMIN_PORT: '0',
    PULL_MODIFIED_CRON: 'off',
    PULL_AUDIT_CRON: 'off',
    SWEEP_CRON: 'off',
    VERIFY_CRON: 'off',
    LOG_LEVEL: 'debug',
    ...(redisUrl == null ? {} : { REDIS_URL: redisUrl }),
  };
}

/** A webhook body of one record. */
export function bodyOf(action: string, fields: Readonly<Record<string, unknown>>): string {
  return JSON.stringify([{ action, occurred: Date.now(), ...fields }]);
}

/** The header that says a body is Descope's. */
export function signed(body: string): Record<string, string> {
  return { 'x-descope-webhook-s256': signatureOf(body, HMAC_SECRET, 'raw') };
}

/** Posts a body to a service's webhook, rightly signed unless `headers` say otherwise. */
export function postTo(
  port: number,
  body: string,
  headers: Readonly<Record<string, string>> = signed(body),
): Promise<Response> {
  return fetch(`http://127.0.0.1:${port}/webhooks/descope`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  });
}

/** Everything but a service. */
export async function createScene(options: WorldOptions = {}): Promise<Scene> {
  const simulator = await startSimulator({
    ...options.simulator,
    behaviour: {
      ...options.simulator?.behaviour,
      limits: { users: null, audit: null, ...options.simulator?.behaviour?.limits },
    },
  });
  const secrets = collectSecrets(simulator, [HMAC_SECRET]);
  const database = options.database ?? (await createTestDatabase());
  const proxy = await startProxy(database.url);
  const env = {
    ...testEnv(simulator, options.redisUrl),
    DATABASE_URL: options.proxied === true ? proxy.through(database.url) : database.url,
    ...options.env,
  };
  const config = parseConfig(env);
  const scene: Scene = {
    simulator,
    database,
    proxy,
    env,
    config,
    logs: [],
    async assertEqual(isSettling) {
      const { differences } = await compareWithDirectory(
        simulator.directory,
        database.mirror,
        config.INCLUDE_TEST_USERS,
        isSettling,
      );
      if (differences.length > 0) {
        throw new Error(
          `${differences.length} differences, such as ${differences.slice(0, 5).join('; ')}`,
        );
      }
    },
    async untilEqual(timeoutMs = 20_000) {
      await eventually(() => scene.assertEqual(), { timeoutMs, everyMs: 100 });
    },
    async untilFilled(timeoutMs = 20_000) {
      await eventually(
        async () => {
          const outcomes = await scene.query<{ outcome: string | null }>(
            sql`select outcome from ${database.mirror.t.syncRuns} where pull = 'sweep'`,
          );
          if (outcomes.length === 0 || outcomes.some(({ outcome }) => outcome !== 'complete')) {
            throw new Error(`sweeps: ${JSON.stringify(outcomes)}`);
          }
          await scene.assertEqual();
        },
        { timeoutMs, everyMs: 100 },
      );
    },
    query: (query) => rows(database.mirror.db, query),
    queueText: () => dumpQueue(database.mirror, options.redisUrl ?? null),
    async assertPrivate(text = '') {
      const shown = secrets.shownIn([...scene.logs, text, await scene.queueText()].join('\n'));
      if (shown.length > 0) throw new Error(`shown, but private: ${shown.join(', ')}`);
    },
    async stop() {
      await simulator.stop();
      await proxy.stop();
      await database.drop();
    },
  };
  return scene;
}

/** Ids of the users a mirror is to hold, oldest first: everyone but test users. */
export function realUserIds({ simulator }: Pick<Scene, 'simulator'>): string[] {
  return [...simulator.directory.users()].filter((user) => !user.test).map((user) => user.userId);
}

/** A scene with a service in this process. */
export async function createWorld(options: WorldOptions = {}): Promise<World> {
  const scene = await createScene(options);
  const { simulator, config, logs } = scene;
  const destination = { write: (line: string) => void logs.push(line) };
  const log = createLogger({ level: config.LOG_LEVEL, destination });
  const start = () =>
    startService({
      config,
      log,
      databaseUrl: scene.env['DATABASE_URL'] ?? '',
      role: options.role ?? 'all',
    });
  const world: World = {
    ...scene,
    service: await start(),
    deliver(target = {}) {
      simulator.delivery.configure({
        url: `http://127.0.0.1:${world.service.publicPort}/webhooks/descope`,
        hmacSecret: HMAC_SECRET,
        ...target,
      });
    },
    post: (body, headers) => postTo(world.service.publicPort, body, headers),
    async restart() {
      await world.service.stop();
      world.service = await start();
    },
    async stop() {
      await world.service.stop();
      await scene.stop();
    },
  };
  return world;
}
