import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Redis } from 'ioredis';

import { eventually } from './eventually.ts';
import { freePort } from './redisServer.ts';

/** Three masters on loopback that share the slots of one Redis Cluster. */
export interface RedisCluster {
  /** As REDIS_URL takes it. */
  readonly url: string;
  /** How many keys each node holds. */
  keyCounts(): Promise<number[]>;
  flush(): Promise<void>;
  /** Kills the node that holds the most keys; resolves to how to start it again, empty. */
  killFullest(): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

const SLOTS = 16_384;
const NODES = 3;

interface Node {
  readonly port: number;
  readonly busPort: number;
  readonly folder: string;
  child: ChildProcess;
}

/** Needs an installed `redis-server`. */
export async function startRedisCluster(): Promise<RedisCluster> {
  const nodes: Node[] = [];
  for (let nth = 0; nth < NODES; nth++) {
    const folder = await mkdtemp(join(tmpdir(), 'rollcall-cluster-'));
    const place = { port: await freePort(), busPort: await freePort(), folder };
    nodes.push({ ...place, child: launch(place) });
  }
  await Promise.all(nodes.map(meet(nodes)));
  await untilWhole(nodes);

  const keyCounts = () => Promise.all(nodes.map((node) => ask(node, (redis) => redis.dbsize())));
  return {
    url: nodes.map(({ port }) => `redis://127.0.0.1:${port}`).join(','),
    keyCounts,
    async flush() {
      await Promise.all(nodes.map((node) => ask(node, (redis) => redis.flushall())));
    },
    async killFullest() {
      const counts = await keyCounts();
      const fullest = nodes[counts.indexOf(Math.max(...counts))];
      if (!fullest) throw new Error('no node');
      await kill(fullest);
      return async () => {
        fullest.child = launch(fullest);
        await untilWhole(nodes);
      };
    },
    async stop() {
      for (const node of nodes) {
        await kill(node);
        await rm(node.folder, { recursive: true, force: true });
      }
    },
  };
}

function launch({
  port,
  busPort,
  folder,
}: Pick<Node, 'port' | 'busPort' | 'folder'>): ChildProcess {
  return spawn(
    'redis-server',
    [
      ...['--port', String(port), '--cluster-port', String(busPort), '--bind', '127.0.0.1'],
      ...['--cluster-enabled', 'yes', '--cluster-node-timeout', '1000', '--dir', folder],
      ...['--save', '', '--appendonly', 'no'],
    ],
    { stdio: 'ignore' },
  );
}

/** Gives a node its share of the slots and the addresses of the others. */
function meet(nodes: readonly Node[]): (node: Node, nth: number) => Promise<void> {
  return async (node, nth) => {
    const first = Math.floor((SLOTS * nth) / NODES);
    const last = Math.floor((SLOTS * (nth + 1)) / NODES) - 1;
    await eventually(() => ask(node, (redis) => redis.ping()));
    await ask(node, async (redis) => {
      await redis.call('CLUSTER', 'ADDSLOTSRANGE', first, last);
      for (const other of nodes.filter((one) => one !== node)) {
        await redis.call('CLUSTER', 'MEET', '127.0.0.1', other.port, other.busPort);
      }
    });
  };
}

/** Waits until every node says that all slots are served. */
async function untilWhole(nodes: readonly Node[]): Promise<void> {
  await eventually(async () => {
    const infos = await Promise.all(
      nodes.map((node) => ask(node, (redis) => redis.cluster('INFO'))),
    );
    if (!infos.every((info) => info.includes('cluster_state:ok'))) throw new Error('not whole');
  });
}

async function ask<T>({ port }: Node, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(port, '127.0.0.1', {
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  redis.on('error', () => undefined);
  try {
    return await question(redis);
  } finally {
    redis.disconnect();
  }
}

async function kill({ child }: Node): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}
