import { sql, type SQL } from 'drizzle-orm';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';

import { findCode } from '../errors.ts';
import { NO_TRACES, type Traces } from '../traces.ts';
import { mirrorTables, type MirrorTables } from './schema.ts';

import type { Instant } from '../observation.ts';

/** Anything a statement can be sent through: the pool, or one transaction. */
export type Executor = Pick<NodePgDatabase, 'execute'>;

/** The mirror: a pool of connections and the tables in their schema. */
export interface Mirror {
  readonly pool: pg.Pool;
  readonly db: NodePgDatabase;
  readonly t: MirrorTables;
  /** The Postgres schema everything lives in (`MIRROR_SCHEMA`). */
  readonly schema: string;
  /** Told of every transaction. */
  readonly traces?: Traces;
  /** Told after each transaction that may have written to the feed. */
  readonly onCommit?: (() => void) | undefined;
}

export interface MirrorOptions {
  readonly databaseUrl: string;
  readonly schema: string;
  /** Most connections this process opens for the mirror (the queue has its own). */
  readonly maxConnections: number;
  /** Told of connections that died while idle; without a listener they would end the process. */
  readonly onError: (error: Error) => void;
  readonly traces?: Traces;
  readonly onCommit?: (() => void) | undefined;
}

/** Postgres ends a statement that takes longer. */
const STATEMENT_TIMEOUT_MS = 60_000;
/**
 * By then Postgres has ended the statement itself, so this breaks none, however long: only an answer that
 * the network swallowed is given up. Without it that takes the kernel a quarter of an hour.
 */
const ANSWER_TIMEOUT_MS = STATEMENT_TIMEOUT_MS + 10_000;
/** Idle connections are asked for this often: shorter than the few minutes after which networks forget them. */
const KEEP_ALIVE_AFTER_MS = 30_000;

/** How every connection of ours to Postgres notices that nobody is there any more, the queue's too. */
export const CONNECTION_LIMITS = {
  // A database that does not answer at all must not hold a webhook open for ever.
  connectionTimeoutMillis: 5_000,
  statement_timeout: STATEMENT_TIMEOUT_MS,
  query_timeout: ANSWER_TIMEOUT_MS,
  keepAlive: true,
  keepAliveInitialDelayMillis: KEEP_ALIVE_AFTER_MS,
} as const;

/** Opens a pool; connects lazily. Whoever opens it closes it with `mirror.pool.end()`. */
export function openMirror(options: MirrorOptions): Mirror {
  const pool = new pg.Pool({
    connectionString: options.databaseUrl,
    max: options.maxConnections,
    application_name: 'rollcall',
    ...CONNECTION_LIMITS,
  });
  pool.on('error', options.onError);
  // The pool listens only to its idle connections: one lost between two statements of a transaction
  // would end the process.
  pool.on('connect', (client) => {
    client.on('error', options.onError);
  });
  const { schema, traces = NO_TRACES, onCommit } = options;
  return { pool, db: drizzle(pool), t: mirrorTables(schema), schema, traces, onCommit };
}

/** Rows of one statement. The shape is the caller's promise about its own SQL. */
export async function rows<Row>(executor: Executor, query: SQL): Promise<Row[]> {
  const result = await executor.execute(query);
  return result.rows as Row[];
}

/** One bound parameter, whatever the number of texts. */
export function textArray(texts: readonly string[]): SQL {
  return sql`${sql.param(texts)}::text[]`;
}

/**
 * Begins a transaction that may write to the feed. The lock, which writers share, is taken before the
 * transaction has a number of its own: by it `changes_since()` knows which numbers may still bring rows.
 */
export function beginOf({ schema }: Pick<Mirror, 'schema'>): string {
  return `begin; lock table only ${pg.escapeIdentifier(schema)}.user_changes in row exclusive mode`;
}

/**
 * Begins a transaction beside which nobody writes users, feed, deletions, events or the log of what people
 * do: whoever is at it is waited for, and whoever comes later sees what it did. In the order in which all of
 * us take these locks, so that nobody waits in a circle.
 */
function beginAlone({ schema }: Pick<Mirror, 'schema'>): string {
  const tables = ['user_changes', 'deletions', 'events', 'admin_log'].map(
    (table) => `only ${pg.escapeIdentifier(schema)}.${table}`,
  );
  return [
    ...['begin', `set local lock_timeout = ${LOCK_TIMEOUT_MS}`],
    `lock table ${tables.join(', ')} in share row exclusive mode`,
    // By this one `changes_since()` knows us.
    `lock table ${tables[0] ?? ''} in row exclusive mode`,
  ].join('; ');
}

/** While it waits for a lock whoever comes later waits behind it: deliveries too, which give up after 5 s. */
const LOCK_TIMEOUT_MS = 3_000;

/** Postgres says: nothing is wrong with the work, two transactions met. 40P01 deadlock, 40001 serialization. */
const CLASHES = new Set(['40P01', '40001']);
/** And 55P03: a lock not had in time. */
const CLASHES_ALONE = new Set([...CLASHES, '55P03']);

/**
 * Runs `work` in one transaction; a throw rolls all of it back. Run again (twice at most) where two
 * transactions clashed. Never hold one across a request to Descope.
 */
export function transaction<T>(
  mirror: Pick<Mirror, 'pool' | 'schema' | 'traces' | 'onCommit'>,
  work: (tx: Executor) => Promise<T>,
): Promise<T> {
  return run(mirror, { begin: beginOf(mirror), clashes: CLASHES }, work);
}

/**
 * The same, alone: no transaction of ours is under way meanwhile, and no event comes in. Every writer waits
 * for it, so it must be short.
 * @throws 55P03 where somebody else's transaction does not end within seconds
 */
export function transactionAlone<T>(
  mirror: Pick<Mirror, 'pool' | 'schema' | 'traces' | 'onCommit'>,
  work: (tx: Executor) => Promise<T>,
): Promise<T> {
  return run(mirror, { begin: beginAlone(mirror), clashes: CLASHES_ALONE }, work);
}

async function run<T>(
  mirror: Pick<Mirror, 'pool' | 'schema' | 'traces' | 'onCommit'>,
  { begin, clashes }: { readonly begin: string; readonly clashes: ReadonlySet<string> },
  work: (tx: Executor) => Promise<T>,
): Promise<T> {
  const { traces = NO_TRACES } = mirror;
  for (let attempt = 1; ; attempt++) {
    try {
      const result = await traces.span('write', () => runOnce(mirror, begin, work));
      mirror.onCommit?.();
      return result;
    } catch (error) {
      if (attempt === 3 || !clashes.has(findCode(error) ?? '')) throw error;
    }
  }
}

/**
 * Not drizzle's own: that one never gives a connection back whose `begin` failed, so a few blinks of
 * Postgres would use up the pool.
 */
async function runOnce<T>(
  mirror: Pick<Mirror, 'pool' | 'schema'>,
  begin: string,
  work: (tx: Executor) => Promise<T>,
): Promise<T> {
  const client = await mirror.pool.connect();
  let isBroken = false;
  try {
    await client.query(begin);
    const result = await work(drizzle(client));
    await client.query('commit');
    return result;
  } catch (error) {
    // A connection that cannot even roll back is thrown away, not handed to the next.
    await client.query('rollback').catch(() => {
      isBroken = true;
    });
    throw error;
  } finally {
    client.release(isBroken);
  }
}

/** A `timestamptz` as the fixed-width text that all our instants have; such texts compare as instants do. */
export function asInstant(timestamp: SQL): SQL {
  return sql`to_char(${timestamp} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
}

/** Now, by the one clock that all replicas share. */
export async function databaseNow(mirror: Pick<Mirror, 'db'>): Promise<Instant> {
  const [row] = await rows<{ now: Instant }>(
    mirror.db,
    sql`select ${asInstant(sql`clock_timestamp()`)} as now`,
  );
  if (!row) throw new Error('the database did not tell the time');
  return row.now;
}

/** The id this mirror gave itself when it was first used: tells it from others that share a Redis. */
export async function readMirrorId({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<string> {
  await db.execute(sql`
    insert into ${t.learnt} (name, value) values ('mirrorId', to_jsonb(gen_random_uuid()::text))
    on conflict (name) do nothing`);
  const [row] = await rows<{ id: string }>(
    db,
    sql`select value #>> '{}' as id from ${t.learnt} where name = 'mirrorId'`,
  );
  if (!row) throw new Error('the mirror has no id');
  return row.id;
}
