import { Redis } from 'ioredis';
import { sql } from 'drizzle-orm';

import { readMirrorId, rows, type Mirror } from '../../src/mirror/database.ts';

/** Everything that is in this mirror's queue, finished and failed jobs included, as text. */
export async function dumpQueue(mirror: Mirror, redisUrl: string | null): Promise<string> {
  if (redisUrl !== null) return dumpRedis(redisUrl, `{rollcall-${await readMirrorId(mirror)}}*`);
  return dumpSchema(mirror, 'descope_queue');
}

/** Everything in every table of a schema, as text. */
export async function dumpSchema(mirror: Mirror, schema: string): Promise<string> {
  const tables = await rows<{ name: string }>(
    mirror.db,
    sql`select format('%I.%I', schemaname, tablename) as name from pg_tables
        where schemaname = ${schema} order by 1`,
  );
  const texts = await Promise.all(
    tables.map(async ({ name }) => {
      const found = await rows<{ text: string }>(
        mirror.db,
        sql`select row_to_json(r)::text as text from ${sql.raw(name)} as r`,
      );
      return found.map(({ text }) => `${name} ${text}`);
    }),
  );
  return texts.flat().join('\n');
}

/** Every key of a Redis that matches, with all that is in it, as text. */
export async function dumpRedis(url: string, pattern = '*'): Promise<string> {
  const redis = connectOnce(url);
  try {
    const keys = await redis.keys(pattern);
    const texts = await Promise.all(
      keys.map(async (key) => {
        const read: Record<string, () => Promise<unknown>> = {
          string: () => redis.get(key),
          hash: () => redis.hgetall(key),
          list: () => redis.lrange(key, '0', '-1'),
          set: () => redis.smembers(key),
          zset: () => redis.zrange(key, '0', '-1'),
          stream: () => redis.xrange(key, '-', '+'),
        };
        return JSON.stringify([key, await read[await redis.type(key)]?.()]);
      }),
    );
    return texts.join('\n');
  } catch {
    // A test may have stopped its Redis: nothing is in it then.
    return '';
  } finally {
    redis.disconnect();
  }
}

/** Empties a Redis, as an operator might; one that is away holds nothing anyway. */
export async function flushRedis(url: string): Promise<void> {
  const redis = connectOnce(url);
  try {
    await redis.flushall();
  } catch {
    // Stopped at this moment: its contents are gone.
  } finally {
    redis.disconnect();
  }
}

/** A connection that gives up at once. */
function connectOnce(url: string): Redis {
  const redis = new Redis(url, { maxRetriesPerRequest: 0, retryStrategy: () => null });
  redis.on('error', () => undefined);
  return redis;
}
