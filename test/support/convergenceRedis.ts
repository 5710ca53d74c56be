import { flushRedis } from './queueDump.ts';
import { startRedisCluster } from './redisCluster.ts';
import { startRedisServer } from './redis.ts';

import type { History } from './convergenceHistory.ts';

/** The Redis of one history, of one node or of three. */
export interface HistoryRedis {
  /** As REDIS_URL takes it. */
  readonly url: string;
  /** Empties every node of it. */
  flush(): Promise<void>;
  /** Kills it, of a cluster the node that holds the queue; resolves to how to start that again, empty. */
  kill(): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

/** A history's own, so that no other one flushes it; null where its queue is in Postgres. */
export async function startHistoryRedis(
  queue: History['settings']['queue'],
): Promise<HistoryRedis | null> {
  if (queue === 'postgres') return null;
  if (queue === 'redis') return startSingle();
  const cluster = await startRedisCluster();
  return { ...cluster, kill: () => cluster.killFullest() };
}

async function startSingle(): Promise<HistoryRedis> {
  let server = await startRedisServer();
  if (!server) throw new Error('redis-server is missing');
  const { url } = server;
  return {
    url,
    flush: () => flushRedis(url),
    async kill() {
      await server?.stop();
      return async () => {
        server = await startRedisServer(Number(new URL(url).port));
      };
    },
    async stop() {
      await server?.stop();
    },
  };
}
