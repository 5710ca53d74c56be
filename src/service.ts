import { applyEvents } from '../jobs/applyEvents.ts';
import { deliver } from '../jobs/deliver.ts';
import { prune } from '../jobs/prune.ts';
import { startHistory } from '../jobs/history.ts';
import { pullAudit } from '../jobs/pullAudit.ts';
import { pullModified } from '../jobs/pullModified.ts';
import { openQueues, type Queues, type QueueSettings } from '../jobs/queues.ts';
import { startRecovery } from '../jobs/recover.ts';
import { startSchedules } from '../jobs/schedules.ts';
import { sweep, sweepWindow } from '../jobs/sweep.ts';
import { verify } from '../jobs/verify.ts';
import { startWorkers } from '../jobs/workers.ts';
import { alignExclusion } from './pull/exclusion.ts';
import { startAdministration } from './administration.ts';
import { createEngine, type Engine } from './engine.ts';
import { createHealth, type Health } from './http/health.ts';
import { startPublicServer } from './http/public.ts';
import { createInbox } from './inbox/record.ts';
import { databaseNow, openMirror, readMirrorId } from './mirror/database.ts';
import { claimProject } from './mirror/project.ts';
import { adoptRestoredFeed } from './mirror/restored.ts';
import { migrateService } from './migrateService.ts';
import { createOutgoing, startDeliveries, startNotifier } from './outgoingWork.ts';
import { createReleaseStack, type ReleaseStack } from './release.ts';
import { startTraces, type Traces } from './traces.ts';
import { readVersion } from './version.ts';
import { createWebhookRouter, type DeliveryOutcome } from './webhook/router.ts';
import { within } from './within.ts';

import type { Config } from './config.ts';
import type { DemoView } from './readers/statusView.ts';
import type { Logger } from './log.ts';
import type { DeliverDeps } from './outgoing/deliver.ts';

/* With `startService`, what an application needs that runs the service in its own process. */
export { parseConfig, type Config } from './config.ts';
export { createLogger, type Logger } from './log.ts';

export type Role = 'all' | 'web' | 'worker';

export interface ServiceOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly databaseUrl: string;
  readonly role: Role;
  /** The demo's comparison with its directory, for the status page. */
  readonly demo?: () => DemoView | undefined;
}

export interface Service {
  /** A worker's has the probes only. */
  readonly publicPort: number;
  readonly adminPort: number;
  /** Stops intake first, connections last; safe to call twice. */
  stop(): Promise<void>;
}

/** Connections of one process to the mirror, the queue's apart. */
const MIRROR_CONNECTIONS = 12;

/** What the queue has not heard of by then, a worker's recovery finds in the inbox. */
const TELL_DEADLINE_MS = 1_000;

/** What every part below is built from. */
interface Parts {
  readonly options: ServiceOptions;
  readonly engine: Engine;
  readonly queues: Queues;
  readonly health: Health;
  readonly releases: ReleaseStack;
  readonly traces: Traces;
}

/**
 * The composition root: migrates, then builds everything in order; what is acquired pushes its own
 * undo. Redis may be away (it is only a way to be quick), Postgres may not.
 * @throws what migrating throws: a service never runs on a schema it does not know; UsageError where
 * the mirror is another project's
 */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { config, log, databaseUrl } = options;
  const releases = createReleaseStack();
  try {
    const traces = await startTraces(config, (reason) => {
      log.warn({ reason }, 'traces could not be sent; that is told once');
    });
    // Stopped last: what stops before it is traced too.
    releases.push('traces', () => traces.stop());
    await migrateService({ config, log, databaseUrl });
    const mirror = openMirror({
      databaseUrl,
      schema: config.MIRROR_SCHEMA,
      maxConnections: MIRROR_CONNECTIONS,
      onError: (error) => {
        log.debug({ err: error }, 'an idle database connection failed');
      },
      traces,
      onCommit: () => notifier?.poke(),
    });
    releases.push('mirror', () => mirror.pool.end());
    const notifier = config.FEED_NOTIFY ? startNotifier(mirror, log, releases) : undefined;
    await claimProject(mirror, config.DESCOPE_PROJECT_ID);
    await adoptRestoredFeed(mirror);
    await alignExclusion(mirror, config.MIRROR_EXCLUDE);
    const settings: QueueSettings = {
      redisNodes: config.REDIS_URL,
      databaseUrl,
      schema: config.MIRROR_SCHEMA,
      mirrorId: await readMirrorId(mirror),
      onError: (error) => {
        log.debug({ err: error }, 'a queue connection failed');
      },
      telemetry: traces.telemetry,
    };
    const queues = openQueues(settings);
    releases.push('queues', () => queues.stop());
    const engine = createEngine({ config, log, mirror, queues, traces });
    const parts: Parts = { options, engine, queues, health: createHealth(), releases, traces };
    registerChecks(parts);
    if (options.role !== 'web') startWork(parts, settings);
    const [publicPort, adminPort] = await startServers(parts);
    log.info({ role: options.role, publicPort, adminPort }, 'started');
    return {
      publicPort,
      adminPort,
      stop: () => {
        parts.health.markStopping();
        engine.abort();
        return releases.release();
      },
    };
  } catch (error) {
    await releases.release().catch(() => undefined);
    throw error;
  }
}

function registerChecks({ health, engine, queues, options }: Parts): void {
  // Anyone may ask the public port: the reason is for the log, the name of the dependency for all.
  const register = (dependency: string, ask: () => Promise<unknown>, needed = true) => {
    const check = async () => {
      try {
        await ask();
      } catch (error) {
        options.log.warn({ dependency, err: error }, 'a dependency does not answer');
        throw new Error('does not answer', { cause: error });
      }
    };
    health.register(dependency, check, { needed });
  };
  register('postgres', () => databaseNow(engine.mirror));
  // A delivery is taken without the queue: recovery finds it in the inbox.
  const needsQueue = options.role !== 'web';
  const queue = options.config.REDIS_URL === null ? 'queue' : 'redis';
  register(queue, () => queues.ping(), needsQueue);
}

type WorkDeps = Engine['jobs'] & {
  readonly enqueue: Queues['enqueue'];
  readonly outgoing: DeliverDeps;
};

/** Workers, ticks and recovery. Ticks stop first, workers after them. */
function startWork({ options, engine, queues, releases }: Parts, settings: QueueSettings): void {
  const { config, log } = options;
  const { metrics } = engine;
  const outgoing = createOutgoing({ config, engine, log, mirrorId: settings.mirrorId });
  const workers = startWorkers<WorkDeps>({
    queues: settings,
    jobs: [applyEvents, pullModified, pullAudit, sweep, sweepWindow, verify, prune, deliver],
    deps: { ...engine.jobs, enqueue: queues.enqueue, outgoing },
    log,
    // Deliveries of slow receivers take up to two each, and hold up no pull.
    concurrency: {
      events: config.WORKER_CONCURRENCY,
      pulls: 12 + 2 * outgoing.endpoints.length,
    },
    signal: engine.signal,
    onJob: ({ name, outcome, ms }) => {
      metrics.jobs.inc({ job_name: name, outcome });
      metrics.jobSeconds.observe({ job_name: name }, ms / 1000);
    },
  });
  releases.push('workers', () => workers.stop());
  const onError = (error: unknown) => {
    log.warn({ err: error }, 'could not put work into the queue; it is tried again');
  };
  const recovery = startRecovery({ mirror: engine.mirror, queues, onError });
  releases.push('recovery', () => recovery.stop());
  const history = startHistory({
    mirror: engine.mirror,
    onError: (error) => {
      log.warn({ err: error }, "the last minute's history could not be written");
    },
  });
  releases.push('history', () => history.stop());
  const deliveries = startDeliveries(outgoing, queues, log);
  releases.push('deliveries', () => deliveries.stop());
  const schedules = startSchedules({
    modified: config.PULL_MODIFIED_CRON,
    audit: config.PULL_AUDIT_CRON,
    sweep: config.SWEEP_CRON,
    verify: config.VERIFY_CRON,
    enqueue: queues.enqueue,
    onError,
  });
  releases.push('schedules', () => {
    schedules.stop();
  });
}

async function startServers(parts: Parts): Promise<[number, number]> {
  const { options, engine, health, releases } = parts;
  const { config, log, role } = options;
  const onError = (error: unknown) => {
    log.error({ err: error }, 'a request failed');
  };
  // Deliveries are answered before the queue has heard of them: it hears of the last ones before it is closed.
  releases.push('event queue', () =>
    within(
      TELL_DEADLINE_MS,
      engine.enqueueEvents([]).catch(() => undefined),
      () => undefined,
    ),
  );
  const publicServer = await startPublicServer({
    port: config.PORT,
    health,
    onError,
    ...(role === 'worker' ? {} : { router: createWebhook(parts) }),
  });
  releases.push('public server', () => publicServer.stop());
  engine.metrics.buildInfo.set({ version: readVersion(), node: process.version, role }, 1);
  const admin = await startAdministration({
    config,
    engine,
    queues: parts.queues,
    health,
    demo: options.demo,
    onError,
  });
  releases.push('admin server', () => admin.stop());
  return [publicServer.port, admin.port];
}

function createWebhook(parts: Parts): ReturnType<typeof createWebhookRouter> {
  const { engine, options, traces } = parts;
  const { config } = options;
  const archiveAll = config.EVENT_ARCHIVE === 'all';
  const inbox = createInbox({ mirror: engine.mirror, archiveAll, exclude: config.MIRROR_EXCLUDE });
  return createWebhookRouter({
    authentication: {
      hmacSecrets: config.WEBHOOK_HMAC_SECRETS,
      bearerTokens: config.WEBHOOK_BEARER_TOKENS,
      basic: config.WEBHOOK_BASIC,
      apiKey: config.WEBHOOK_API_KEY,
      allowUnauthenticated: config.WEBHOOK_ALLOW_UNAUTHENTICATED,
    },
    projectId: config.DESCOPE_PROJECT_ID,
    inbox: {
      record: (events) => traces.span('inbox commit', () => inbox.record(events)),
    },
    enqueue: engine.enqueueEvents,
    traces,
    onDelivery: (outcome) => {
      reportDelivery(parts, outcome);
    },
  });
}

function reportDelivery({ engine, options }: Parts, outcome: DeliveryOutcome): void {
  const { metrics } = engine;
  metrics.deliveries.inc({ status: String(outcome.status) });
  metrics.deliverySeconds.observe(outcome.tookMs / 1000);
  metrics.received.inc({ outcome: 'accepted' }, outcome.accepted);
  metrics.received.inc({ outcome: 'duplicate' }, outcome.duplicates);
  metrics.received.inc({ outcome: 'ignored' }, outcome.ignored);
  const { status, accepted, duplicates, ignored, queued } = outcome;
  const line = { status, accepted, duplicates, ignored, queued };
  if (status === 503) options.log.warn({ ...line, err: outcome.error }, 'a delivery was not taken');
  else options.log.debug(line, 'delivery answered');
}
