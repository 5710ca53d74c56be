import { createLogger } from '../../src/log.ts';
import { parseConfig, type Config } from '../../src/config.ts';
import { startService, type Service } from '../../src/service.ts';
import {
  startSimulator,
  type Simulator,
  type SimulatorOptions,
} from '../../src/simulator/server.ts';
import { compareWithDirectory } from '../../src/commands/compare.ts';
import { createTestDatabase, type TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';

import type { DeliveryTarget } from '../../src/simulator/delivery.ts';

export type QueueKind = 'postgres' | 'redis';

export interface WorldOptions {
  readonly simulator?: SimulatorOptions;
  /** Settings over those below. */
  readonly env?: Readonly<Record<string, string>>;
  /** Null: the queue is in Postgres. */
  readonly redisUrl?: string | null;
}

/** A Descope, a database and a service between them. */
export interface World {
  readonly simulator: Simulator;
  readonly database: TestDatabase;
  readonly config: Config;
  /** All log lines of all services of this world. */
  readonly logs: string[];
  service: Service;
  /** Lets the simulator deliver its webhooks to the service. */
  deliver(target?: Partial<DeliveryTarget>): void;
  /** Fails with the differences between mirror and directory. */
  assertEqual(): Promise<void>;
  /** Waits until they are equal. */
  untilEqual(timeoutMs?: number): Promise<void>;
  restart(): Promise<void>;
  stop(): Promise<void>;
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

export async function createWorld(options: WorldOptions = {}): Promise<World> {
  const simulator = await startSimulator({
    ...options.simulator,
    behaviour: {
      ...options.simulator?.behaviour,
      limits: { users: null, audit: null, ...options.simulator?.behaviour?.limits },
    },
  });
  const database = await createTestDatabase();
  const config = parseConfig({ ...testEnv(simulator, options.redisUrl), ...options.env });
  const logs: string[] = [];
  const destination = { write: (line: string) => void logs.push(line) };
  const log = createLogger({ level: config.LOG_LEVEL, destination });
  const start = () => startService({ config, log, databaseUrl: database.url, role: 'all' });
  const world: World = {
    simulator,
    database,
    config,
    logs,
    service: await start(),
    deliver(target = {}) {
      simulator.delivery.configure({
        url: `http://127.0.0.1:${world.service.publicPort}/webhooks/descope`,
        hmacSecret: HMAC_SECRET,
        ...target,
      });
    },
    async assertEqual() {
      const { differences } = await compareWithDirectory(
        simulator.directory,
        database.mirror,
        config.INCLUDE_TEST_USERS,
      );
      if (differences.length > 0) {
        throw new Error(
          `${differences.length} differences, such as ${differences.slice(0, 5).join('; ')}`,
        );
      }
    },
    async untilEqual(timeoutMs = 20_000) {
      await eventually(() => world.assertEqual(), { timeoutMs, everyMs: 100 });
    },
    async restart() {
      await world.service.stop();
      world.service = await start();
    },
    async stop() {
      await world.service.stop();
      await simulator.stop();
      await database.drop();
    },
  };
  return world;
}
