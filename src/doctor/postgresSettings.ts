import { bad, ok, warning, type Check } from './check.ts';

import type pg from 'pg';
import type { Mirror } from '../mirror/database.ts';
import type { PostgresDeps, Server } from './postgres.ts';

/* Settings of the server, and of a pooler before it, that would hurt later. */

/** Most connections of one process, as the README tells ("Connections to Postgres"). */
const WITH_REDIS = 12;
const WITH_QUEUE = 29;
/** A command in the foreground beside it. */
const COMMAND = 6;

export async function checkServerSettings(deps: PostgresDeps, server: Server): Promise<Check[]> {
  return [
    checkConnections(server, deps.queueInPostgres),
    await checkPooler(deps),
    checkDurability(server),
  ];
}

function checkConnections(server: Server, queueInPostgres: boolean): Check {
  const name = 'connections';
  const { maxConnections, reservedConnections, roleLimit, databaseLimit, usedConnections } = server;
  const limits: readonly (readonly [most: number, by: string])[] = [
    [maxConnections - reservedConnections, 'max_connections'],
    ...(roleLimit >= 0 ? [[roleLimit, "the role's connection limit"] as const] : []),
    ...(databaseLimit >= 0 ? [[databaseLimit, "the database's connection limit"] as const] : []),
  ];
  const [most, by] = limits.reduce((a, b) => (b[0] < a[0] ? b : a));
  const one = queueInPostgres ? WITH_QUEUE : WITH_REDIS;
  const advised = 2 * one + COMMAND;
  const found = `${most} by ${by}, ${usedConnections} in use on the server; one process takes up to ${one}`;
  const raise = `raise ${by}`;
  const orRedis = queueInPostgres
    ? ', or set REDIS_URL, which takes the queue out of Postgres'
    : '';
  if (most < one) return bad(name, found, `${raise} above ${one}${orRedis}`);
  if (most >= advised) return ok(name, found);
  return warning(
    name,
    found,
    `${raise} to ${advised} or more: a deployment runs old and new side by side${orRedis}`,
  );
}

async function checkPooler({ mirror, queueInPostgres }: PostgresDeps): Promise<Check> {
  const name = 'pooler';
  if (!(await sharesConnections(mirror))) {
    return ok(name, 'each connection has a session of its own');
  }
  const found = 'connections are pooled by transaction (pgbouncer or the like)';
  if (!queueInPostgres) return ok(name, `${found}, which works with REDIS_URL`);
  return bad(
    name,
    `${found}, but the queue in Postgres listens and needs sessions`,
    'set REDIS_URL, or let DATABASE_URL reach Postgres directly or through pool_mode = session',
  );
}

/**
 * Whether two connections of ours that are open at once are served by one and the same session: then
 * somebody between us and Postgres lends sessions by the transaction.
 */
async function sharesConnections({ pool }: Mirror): Promise<boolean> {
  const one = await pool.connect();
  try {
    const other = await pool.connect();
    try {
      const before = await pidOf(one);
      await other.query('begin');
      const during = await pidOf(other);
      const after = await pidOf(one);
      await other.query('rollback');
      return during === before || after !== before;
    } finally {
      other.release();
    }
  } finally {
    one.release();
  }
}

async function pidOf(client: pg.PoolClient): Promise<number | undefined> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  return rows[0]?.pid;
}

function checkDurability({ isDurable }: Server): Check {
  const name = 'durability';
  if (isDurable) return ok(name, 'what is committed survives a crash of Postgres');
  return warning(
    name,
    'fsync, full_page_writes or synchronous_commit is off: a crash may lose deliveries that were acknowledged',
    'turn them on; the embedded Postgres and Postgres itself have them on unless told otherwise',
  );
}
