import { rm } from 'node:fs/promises';
import { join } from 'node:path';

import { pause } from '../abort.ts';
import { parseConfig, type Config } from '../config.ts';
import { createLogger } from '../log.ts';
import { openMirror } from '../mirror/database.ts';
import { startEmbeddedPostgres } from '../mirror/embedded.ts';
import { createStatusReader } from '../readers/status.ts';
import { createReleaseStack, type ReleaseStack } from '../release.ts';
import { startService } from '../service.ts';
import { startSimulator, type Simulator } from '../simulator/server.ts';
import { startTraffic } from '../simulator/traffic.ts';
import { compareWithDirectory } from './compare.ts';
import { createProgressView } from './progress.ts';
import { untilAborted } from './untilAborted.ts';

import type { DemoView } from '../readers/statusView.ts';
import type { Mirror } from '../mirror/database.ts';
import type { CommandContext, ExitCode } from './command.ts';

/*
 * Everything on this machine: a simulated Descope whose webhook loses, doubles and throttles, a
 * Postgres of its own, the whole service, and a comparison of the two that never stops.
 */

const USERS = 5_000;
const SEED = 11;
/** Things that happen in the directory a second. */
const EVENTS_A_SECOND = 4;
const COMPARE_EVERY_MS = 2_000;
/** A user that changed within this time may be on its way: lost webhooks are found by the next pulls. */
const SETTLING_MS = 30_000;

/** `rollcall demo`: until a signal. */
export async function run(context: CommandContext): Promise<ExitCode> {
  const releases = createReleaseStack();
  try {
    await runDemo(context, releases);
    return 0;
  } finally {
    await releases.release();
  }
}

async function runDemo(context: CommandContext, releases: ReleaseStack): Promise<void> {
  const { signal } = context;
  const say = (line: string) => {
    if (!context.json) context.stdout(line);
  };
  // The directory begins anew each time, so the mirror does too.
  const folder = join(context.folder, 'demo');
  await rm(folder, { recursive: true, force: true });
  const simulator = await startSimulator({
    users: USERS,
    sameInstant: 340,
    seed: SEED,
    behaviour: { limits: { users: 1_200, audit: 60 }, latencyMs: 30 },
  });
  releases.push('simulated Descope', () => simulator.stop());
  say(`a simulated Descope with ${USERS} users answers at ${simulator.url}`);
  const postgres = await startEmbeddedPostgres({ folder });
  releases.push('Postgres', () => postgres.stop());
  const config = demoConfig(context.config, simulator);
  const mirror = openMirror({
    databaseUrl: postgres.url,
    schema: config.MIRROR_SCHEMA,
    maxConnections: 2,
    onError: () => undefined,
  });
  releases.push('comparison', () => mirror.pool.end());
  let view: DemoView | undefined;
  const service = await startService({
    config,
    log: createLogger({ level: config.LOG_LEVEL }),
    databaseUrl: postgres.url,
    role: 'all',
    demo: () => view,
  });
  releases.push('service', () => service.stop());
  const page = `http://127.0.0.1:${service.adminPort}/`;
  say(`status page   ${page}`);
  say(
    `the mirror    psql '${postgres.url}' -c 'select * from ${config.MIRROR_SCHEMA}.live_users limit 5'`,
  );
  if (context.json) {
    context.stdout(JSON.stringify({ page, databaseUrl: postgres.url, simulator: simulator.url }));
  }
  const compare = startComparing(simulator, mirror, (next) => {
    view = next;
  });
  releases.push('comparing', compare.stop);
  startLiving(simulator, service.publicPort, releases);
  await showFill(context, mirror);
  if (!signal.aborted) {
    say('filled; people sign up, change and leave, and some webhooks are lost. Ctrl-C ends');
  }
  await untilAborted(signal);
  say('stopping');
}

const DEMO_SECRET = 'a-secret-of-the-demo-that-only-this-machine-sees';

/** The demo's own settings; of the person's only those about this machine. */
function demoConfig(given: Config, simulator: Simulator): Config {
  return parseConfig({
    DESCOPE_PROJECT_ID: simulator.projectId,
    DESCOPE_MANAGEMENT_KEY: simulator.managementKey,
    DESCOPE_BASE_URL: simulator.url,
    WEBHOOK_HMAC_SECRETS: DEMO_SECRET,
    PORT: '0',
    ADMIN_PORT: String(given.ADMIN_PORT),
    API_BUDGET_PER_MINUTE: '600',
    AUDIT_BUDGET_PER_MINUTE: '30',
    PULL_MODIFIED_CRON: '*/5 * * * * *',
    PULL_AUDIT_CRON: '*/5 * * * * *',
    PULL_OVERLAP_SECONDS: '30',
    PULL_SETTLE_SECONDS: '1',
    LOG_LEVEL: given.LOG_LEVEL === 'info' ? 'warn' : given.LOG_LEVEL,
  });
}

function startLiving(simulator: Simulator, webhookPort: number, releases: ReleaseStack): void {
  simulator.delivery.configure({
    url: `http://127.0.0.1:${webhookPort}/webhooks/descope`,
    hmacSecret: DEMO_SECRET,
    envelope: 'array',
    policy: {
      dropRate: 0.1,
      doubleRate: 0.1,
      reorderRate: 0.1,
      delayMs: [0, 800],
      throttlePerMinute: 400,
    },
  });
  const traffic = startTraffic(simulator, { perSecond: EVENTS_A_SECOND });
  releases.push('traffic', () => {
    traffic.stop();
  });
}

/** Compares without end; users in motion are left out until they have had time to arrive. */
function startComparing(
  simulator: Simulator,
  mirror: Mirror,
  publish: (view: DemoView) => void,
): { stop: () => void } {
  const { directory } = simulator;
  const movedAt = new Map<string, number>();
  const forget = directory.onEvent((event) => {
    for (const userId of event.userIds) movedAt.set(userId, Date.now());
  });
  const isSettling = (userId: string) => (movedAt.get(userId) ?? 0) > Date.now() - SETTLING_MS;
  let comparing = false;
  const timer = setInterval(() => {
    if (comparing) return;
    comparing = true;
    compareWithDirectory(directory, mirror, false, isSettling)
      .then(({ differences }) => {
        publish({
          equal: differences.length === 0,
          checkedAt: new Date().toISOString(),
          differences: differences.length,
        });
      })
      .catch(() => undefined)
      .finally(() => {
        comparing = false;
      });
  }, COMPARE_EVERY_MS);
  return {
    stop() {
      clearInterval(timer);
      forget();
    },
  };
}

/** The first fill as a progress bar, until it is complete. */
async function showFill(context: CommandContext, mirror: Mirror): Promise<void> {
  const view = createProgressView(context);
  const readStatus = createStatusReader(mirror);
  try {
    while (!context.signal.aborted) {
      const status = await readStatus();
      if (status.sweep) {
        const { rowsRead, total, requests } = status.sweep;
        view.show({ users: rowsRead, total, requests });
      }
      if (status.asOf !== null) {
        const { rowsRead = 0, requests = 0 } = status.lastSweep ?? {};
        view.show({ users: rowsRead, total: rowsRead, requests });
        return;
      }
      await pause(200, context.signal);
    }
  } catch {
    // Stopped while waiting.
  } finally {
    view.stop();
  }
}
