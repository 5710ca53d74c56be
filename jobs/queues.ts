import {
  assertSchemaCompatibility,
  createPostgresBackend,
  LATEST_SCHEMA_VERSION,
  Queue,
  runMigrations,
  SchemaMigrationRequiredError,
  type JobsOptions,
  type Telemetry,
} from 'bullmq';
import { Cluster, Redis } from 'ioredis';
import pg from 'pg';

import { findCode, UsageError } from '../src/errors.ts';
import { CONNECTION_LIMITS } from '../src/mirror/database.ts';
import { within } from '../src/within.ts';
import { parsePayload, type JobDefinition, type QueueName } from './define.ts';

/*
 * The queues, on Redis or on the mirror's own Postgres: the same jobs on both. A queue is only a way
 * to be quick. What is to do is known to Postgres, so losing a queue delays work and never loses any.
 */

export const QUEUE_NAMES: readonly QueueName[] = ['events', 'pulls'];

export interface EnqueueOptions {
  readonly delayMs?: number;
  /**
   * Further jobs of the same id within `dedupeMs` (a minute where absent) are dropped. `untilDone`: as long
   * as the first one waits or runs, be it for hours.
   */
  readonly dedupeId?: string;
  readonly dedupeMs?: number | 'untilDone';
}

/** Parses the payload, then adds the job. Rejects where the queue cannot be reached in time. */
export type Enqueue = <Payload>(
  job: JobDefinition<never, Payload>,
  payload: Payload,
  options?: EnqueueOptions,
) => Promise<void>;

export interface QueueSettings {
  /** Nodes of Redis; several mean a cluster. Null: the queue is in Postgres. */
  readonly redisNodes: readonly string[] | null;
  readonly databaseUrl: string;
  /** The mirror's schema: in Postgres the queues have a schema beside it. */
  readonly schema: string;
  /** On Redis, jobs of several mirrors must not mix: their keys begin with the mirror's own id. */
  readonly mirrorId: string;
  /** Told of connections that fail; without a listener they would end the process. */
  readonly onError: (error: Error) => void;
  /** Carries traces from who adds a job to who runs it. */
  readonly telemetry?: Telemetry | undefined;
}

export interface QueueCounts {
  readonly name: string;
  readonly waiting: number;
  readonly active: number;
  readonly delayed: number;
  readonly failed: number;
}

export interface Queues {
  readonly enqueue: Enqueue;
  /** Adds many jobs of one kind in one round trip. */
  readonly enqueueAll: <Payload>(
    job: JobDefinition<never, Payload>,
    payloads: readonly Payload[],
    options?: EnqueueOptions,
  ) => Promise<void>;
  readonly counts: () => Promise<QueueCounts[]>;
  /** BullMQ's own, for the board. */
  readonly opened: readonly Queue[];
  readonly ping: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

/** What BullMQ's classes need to reach the backend; `close` ends a connection that was made for them. */
export interface Backend {
  readonly options: { connection: never; prefix?: string; telemetry?: Telemetry };
  readonly factory: never;
  readonly close: () => Promise<void>;
}

/** Adding takes milliseconds; a queue that does not answer must not hold up a webhook. */
const DEADLINE_MS = 5_000;
const DEDUPE_MS = 60_000;
/** Nothing is lost by closing hard, and the process is waiting to end. */
const CLOSE_DEADLINE_MS = 1_000;
/** Enough for adds and counts; workers have their own. */
const PRODUCER_CONNECTIONS = 3;

/**
 * A connection for one queue or worker. On Redis, keys carry a hash tag so that a cluster keeps them
 * in one slot; in Postgres, the queue has a schema beside the mirror's.
 */
export function connectBackend(
  settings: QueueSettings,
  use: 'producer' | { readonly connections: number },
): Backend {
  const telemetry = settings.telemetry ? { telemetry: settings.telemetry } : {};
  if (settings.redisNodes === null) {
    const max = use === 'producer' ? PRODUCER_CONNECTIONS : use.connections;
    const connection = {
      connectionString: settings.databaseUrl,
      schema: queueSchema(settings.schema),
      max,
      application_name: 'rollcall queue',
      ...CONNECTION_LIMITS,
    };
    return {
      options: { connection: connection as never, ...telemetry },
      factory: createPostgresBackend as never,
      close: () => Promise.resolve(),
    };
  }
  const redis = connectRedis(settings.redisNodes, use === 'producer');
  redis.on('error', settings.onError);
  return {
    options: {
      connection: redis as never,
      prefix: `{rollcall-${settings.mirrorId}}`,
      ...telemetry,
    },
    factory: undefined as never,
    close: () => {
      redis.disconnect();
      return Promise.resolve();
    },
  };
}

function connectRedis(nodes: readonly string[], isProducer: boolean): Redis | Cluster {
  // A producer fails at once when Redis is away, the inbox holds the event anyway; a worker waits.
  const options = isProducer
    ? { maxRetriesPerRequest: 1, enableOfflineQueue: false }
    : { maxRetriesPerRequest: null };
  const [only, ...others] = nodes;
  if (only !== undefined && others.length === 0) {
    return new Redis(only, { ...options, connectTimeout: DEADLINE_MS });
  }
  // Nodes announce themselves under addresses of their own: user, password and TLS are for all of them.
  const first = new URL(only ?? '');
  return new Cluster([...nodes], {
    enableOfflineQueue: !isProducer,
    redisOptions: {
      ...(isProducer ? { maxRetriesPerRequest: 1 } : { maxRetriesPerRequest: null }),
      ...(first.username === '' ? {} : { username: decodeURIComponent(first.username) }),
      ...(first.password === '' ? {} : { password: decodeURIComponent(first.password) }),
      ...(first.protocol === 'rediss:' ? { tls: {} } : {}),
    },
  });
}

function queueSchema(schema: string): string {
  return `${schema}_queue`;
}

/**
 * Creates what the queues need in Postgres; nothing on Redis. Where all is there nothing is written: a role
 * without DDL rights will do.
 * @throws what Postgres throws; UsageError where our role may not
 */
export async function migrateQueues(
  settings: Pick<QueueSettings, 'redisNodes' | 'databaseUrl' | 'schema' | 'onError'>,
): Promise<void> {
  if (settings.redisNodes !== null) return;
  const client = new pg.Client({ connectionString: settings.databaseUrl });
  client.on('error', settings.onError);
  await client.connect();
  try {
    const schema = queueSchema(settings.schema);
    if (!(await isCurrent(client, schema))) await runMigrations(client, schema);
    for (const name of await listUncounted(client, schema)) {
      await client.query(`select ${pg.escapeIdentifier(schema)}.next_job_id($1)`, [name]);
    }
  } catch (error) {
    if (findCode(error) !== '42501') throw error;
    throw new UsageError(
      `schema "${queueSchema(settings.schema)}", the queue's, may not be used, or has to be migrated and the user ` +
        'of DATABASE_URL may not do that: let `rollcall migrate` run as the user who owns it, then start again',
    );
  } finally {
    await client.end();
  }
}

async function isCurrent(client: pg.Client, schema: string): Promise<boolean> {
  try {
    return (await assertSchemaCompatibility(client, schema)) >= LATEST_SCHEMA_VERSION;
  } catch (error) {
    if (error instanceof SchemaMigrationRequiredError) return false;
    throw error;
  }
}

/**
 * Queues whose jobs have no sequence for their numbers. BullMQ makes it when the first job is added, by whoever
 * adds it; who works the queues may not have the right to.
 */
async function listUncounted(client: pg.Client, schema: string): Promise<QueueName[]> {
  const name = `${pg.escapeIdentifier(schema)}.job_id_seq_name`;
  const [known] = (await client.query(`select to_regproc($1) is not null as there`, [name]))
    .rows as { there: boolean }[];
  if (known?.there !== true) return [];
  const { rows } = await client.query(
    `select name from unnest($1::text[]) as name where to_regclass(format('%I.%I', $2::text, ${name}(name))) is null`,
    [QUEUE_NAMES, schema],
  );
  return (rows as { name: QueueName }[]).map((row) => row.name);
}

/** Opens the queues for adding. Returns at once, also while Redis is away. */
export function openQueues(settings: QueueSettings): Queues {
  const opened = QUEUE_NAMES.map((name) => {
    const backend = connectBackend(settings, 'producer');
    const queue = new Queue(name, backend.options, backend.factory);
    queue.on('error', settings.onError);
    return { name, queue, backend };
  });
  const queueOf = (name: QueueName): Queue => {
    const found = opened.find((one) => one.name === name);
    if (!found) throw new Error(`there is no queue ${name}`);
    return found.queue;
  };
  const enqueueAll: Queues['enqueueAll'] = async (job, payloads, options) => {
    const jobs = payloads.map((payload) => ({
      name: job.name,
      data: parsePayload(job, payload),
      opts: toJobOptions(job.options, options),
    }));
    const queue = queueOf(job.queue);
    const [only, ...others] = jobs;
    // In Postgres BullMQ makes two temporary tables for many jobs, which costs ten times what adding one does.
    if (!only) return;
    if (others.length === 0) await inTime(queue.add(only.name, only.data, only.opts));
    else await inTime(queue.addBulk(jobs));
  };
  return {
    enqueue: (job, payload, options) => enqueueAll(job, [payload], options),
    enqueueAll,
    opened: opened.map(({ queue }) => queue),
    counts: () => inTime(Promise.all(opened.map(countOne))),
    async ping() {
      await inTime(Promise.all(opened.map(countOne)));
    },
    async stop() {
      await Promise.all(
        opened.map(async ({ queue, backend }) => {
          const closing = queue.close().catch(() => undefined);
          await within(CLOSE_DEADLINE_MS, closing, () => undefined);
          await backend.close();
        }),
      );
    },
  };
}

function toJobOptions(base: JobsOptions, options: EnqueueOptions | undefined): JobsOptions {
  const { delayMs, dedupeId, dedupeMs = DEDUPE_MS } = options ?? {};
  const ttl = dedupeMs === 'untilDone' ? {} : { ttl: dedupeMs };
  return {
    ...base,
    ...(delayMs === undefined ? {} : { delay: delayMs }),
    ...(dedupeId === undefined ? {} : { deduplication: { id: dedupeId, ...ttl } }),
  };
}

async function countOne({ name, queue }: { name: string; queue: Queue }): Promise<QueueCounts> {
  const counts = await queue.getJobCounts('waiting', 'prioritized', 'active', 'delayed', 'failed');
  return {
    name,
    waiting: (counts['waiting'] ?? 0) + (counts['prioritized'] ?? 0),
    active: counts['active'] ?? 0,
    delayed: counts['delayed'] ?? 0,
    failed: counts['failed'] ?? 0,
  };
}

/** @throws whatever `work` rejects with; an error where the queue does not answer in time */
function inTime<T>(work: Promise<T>): Promise<T> {
  return within(DEADLINE_MS, work, () => {
    throw new Error(`the queue did not answer within ${DEADLINE_MS / 1000} s`);
  });
}
