import { UnrecoverableError, Worker, type Job } from 'bullmq';

import {
  describeError,
  DescopeRejected,
  DescopeUnauthorised,
  InvalidPayload,
  Stopping,
} from '../src/errors.ts';
import { within } from '../src/within.ts';
import { parsePayload, type AnyJob, type QueueName } from './define.ts';
import { connectBackend, QUEUE_NAMES, type QueueSettings } from './queues.ts';

import type { Logger } from '../src/log.ts';

export interface WorkerSettings<Deps> {
  readonly queues: QueueSettings;
  readonly jobs: readonly AnyJob<Deps>[];
  readonly deps: Deps;
  readonly log: Logger;
  /** Jobs of one kind run side by side by this process. */
  readonly concurrency: Readonly<Record<QueueName, number>>;
  /** Aborted when the process stops: jobs end at their next safe point. */
  readonly signal: AbortSignal;
  readonly onJob?: (job: {
    /** `unknown` where the job is none of these. */
    readonly name: string;
    readonly outcome: JobOutcome;
    readonly ms: number;
  }) => void;
}

export type JobOutcome = 'done' | 'failed' | 'stopped';

/** A worker's share of Postgres connections where the queue is there. */
const CONNECTIONS: Readonly<Record<QueueName, number>> = { events: 6, pulls: 3 };
/**
 * Jobs end at their next safe point, in well under a second; what takes longer is a queue that is away.
 * All of a stop together has to fit into the ten seconds that Docker grants.
 */
const STOP_DEADLINE_MS = 4_000;

/** Starts a worker a queue; every job goes through the one wrapper below. */
export function startWorkers<Deps>(settings: WorkerSettings<Deps>): { stop(): Promise<void> } {
  const running = QUEUE_NAMES.map((name) => {
    const backend = connectBackend(settings.queues, { connections: CONNECTIONS[name] });
    const worker = new Worker(
      name,
      (job: Job) => run(settings, job),
      { ...backend.options, concurrency: settings.concurrency[name] },
      backend.factory,
    );
    worker.on('error', settings.queues.onError);
    return { worker, backend };
  });
  return {
    async stop() {
      await Promise.all(
        running.map(async ({ worker, backend }) => {
          const closing = worker.close().catch(() => undefined);
          await within(STOP_DEADLINE_MS, closing, () => undefined);
          await backend.close();
        }),
      );
    },
  };
}

/** Parse, process, measure, log once, and turn our errors into what the queue should do. */
async function run<Deps>(settings: WorkerSettings<Deps>, job: Job): Promise<void> {
  const startedAt = performance.now();
  const definition = settings.jobs.find((one) => one.name === job.name);
  const end = (outcome: JobOutcome, error?: unknown) => {
    const ms = Math.round(performance.now() - startedAt);
    settings.onJob?.({ name: definition?.name ?? 'unknown', outcome, ms });
    logOnce(settings.log, job, { outcome, ms, error });
  };
  try {
    if (!definition) throw new InvalidPayload(job.name, 'no such job');
    const payload = parsePayload(definition, job.data) as never;
    await definition.process(settings.deps, payload, settings.signal);
  } catch (error) {
    end(error instanceof Stopping ? 'stopped' : 'failed', error);
    throw toQueueError(error);
  }
  end('done');
}

/**
 * The one line of a job's run, always with the same fields: at debug where it went well, since there may be
 * hundreds a second.
 */
function logOnce(
  log: Logger,
  job: Job,
  { outcome, ms, error }: { outcome: JobOutcome; ms: number; error: unknown },
): void {
  const dueMs = job.timestamp + (job.opts.delay ?? 0);
  const line = {
    job: job.name,
    queue: job.queueName,
    jobId: job.id,
    attempt: job.attemptsMade + 1,
    waitedMs: Math.max(0, (job.processedOn ?? dueMs) - dueMs),
    ms,
    outcome,
  };
  if (outcome !== 'failed') log.debug(line, 'job ended');
  else {
    // A key that is refused stops everything until somebody mends it: the loudest line we have.
    const level = error instanceof DescopeUnauthorised ? 'error' : 'warn';
    log[level]({ ...line, reason: describeError(error) }, 'job ended');
  }
}

/**
 * What a failure means to the queue. What asking again cannot mend is not asked again: the ledger and
 * the inbox still hold it. Everything else is retried with backoff. The message is ours: an error of
 * the database would carry the statement's parameters into the queue.
 */
function toQueueError(error: unknown): Error {
  const final =
    error instanceof InvalidPayload ||
    error instanceof DescopeRejected ||
    error instanceof DescopeUnauthorised;
  return final ? new UnrecoverableError(describeError(error)) : new Error(describeError(error));
}
