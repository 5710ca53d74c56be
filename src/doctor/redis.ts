import { Redis } from 'ioredis';

import { describeError } from '../errors.ts';
import { bad, ok, warning, type Check } from './check.ts';

/* Is Redis there, does it keep what it is given, and is it a cluster where REDIS_URL says so? Only asks. */

/** A node's own account (`INFO`), or why there is none. */
type Node = { readonly address: string } & (
  { readonly info: ReadonlyMap<string, string> } | { readonly failure: string }
);
type Reached = Extract<Node, { info: unknown }>;

const TIMEOUT_MS = 5_000;
/** BullMQ starts on 5.0 and advises this. */
const ADVISED_VERSION = '6.2.0';
const LEAST_VERSION = '5.0.0';

/** @param nodes as REDIS_URL has them; null where the queue is in Postgres */
export async function checkRedis(nodes: readonly string[] | null): Promise<Check[]> {
  if (nodes === null) return [ok('redis', 'REDIS_URL is not set: the queue is in Postgres')];
  const found = await Promise.all(nodes.map((url) => inspect(withCredentials(url, nodes))));
  const reached = found.filter((node): node is Reached => 'info' in node);
  return [
    checkReach(found),
    ...(reached.length === 0
      ? []
      : [
          checkVersion(reached),
          checkEviction(reached),
          checkPersistence(reached),
          checkCluster(reached, nodes.length),
        ]),
  ];
}

/** User and password of the first node are for all of them, as the queue's connections have it. */
function withCredentials(url: string, [first = '']: readonly string[]): string {
  const [node, { username, password }] = [new URL(url), new URL(first)];
  if (node.username === '' && node.password === '') Object.assign(node, { username, password });
  return node.toString();
}

async function inspect(url: string): Promise<Node> {
  const { hostname, port } = new URL(url);
  const address = `${hostname}:${port || '6379'}`;
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: TIMEOUT_MS,
    commandTimeout: TIMEOUT_MS,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  // What `connect` rejects with says only that the connection is closed.
  let cause: unknown;
  redis.on('error', (error) => {
    cause ??= error;
  });
  try {
    await redis.connect();
    return { address, info: parseInfo(`${await redis.info()}\r\n${await clusterInfo(redis)}`) };
  } catch (error) {
    return { address, failure: describeError(cause ?? error) };
  } finally {
    redis.disconnect();
  }
}

/** Empty where it is no cluster, or we may not ask. */
function clusterInfo(redis: Redis): Promise<string> {
  return redis.cluster('INFO').catch(() => '');
}

function parseInfo(text: string): Map<string, string> {
  const lines = text.split(/\r?\n/).filter((line) => /^\w+:/.test(line));
  return new Map(
    lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]),
  );
}

function checkReach(nodes: readonly Node[]): Check {
  const name = 'redis';
  const failed = nodes.flatMap((node) => ('failure' in node ? [node] : []));
  const replica = nodes.find((node) => 'info' in node && node.info.get('role') === 'slave');
  const reasons = failed.map(({ address, failure }) => `${address}: ${failure}`).join('; ');
  if (/NOAUTH|WRONGPASS|NOPERM/.test(reasons)) {
    return bad(name, `refuses us (${reasons})`, 'check user and password in REDIS_URL');
  }
  if (failed.length === nodes.length) {
    return bad(
      name,
      `cannot be reached (${reasons})`,
      'start Redis, or set REDIS_URL right; without REDIS_URL the queue is in Postgres',
    );
  }
  if (failed.length > 0) {
    return warning(
      name,
      `some nodes do not answer (${reasons})`,
      'start them, or take them out of REDIS_URL',
    );
  }
  if (replica !== undefined && nodes.length === 1) {
    return bad(
      name,
      `${replica.address} is a replica and takes no writes`,
      'let REDIS_URL name the master',
    );
  }
  return ok(name, `${nodes.map(({ address }) => address).join(', ')} answers`);
}

function checkVersion(nodes: readonly Reached[]): Check {
  const name = 'redis version';
  const versions = nodes.map(({ info }) => info.get('redis_version') ?? '0').sort(compareVersions);
  const [oldest = '0'] = versions;
  const found = `Redis ${oldest}`;
  if (compareVersions(oldest, LEAST_VERSION) < 0) {
    return bad(name, found, `upgrade it to ${ADVISED_VERSION} or newer`);
  }
  if (compareVersions(oldest, ADVISED_VERSION) >= 0) return ok(name, found);
  return warning(name, found, `${ADVISED_VERSION} or newer is advised`);
}

function compareVersions(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

function checkEviction(nodes: readonly Reached[]): Check {
  const name = 'redis eviction';
  const policies = nodes.map(({ info }) => info.get('maxmemory_policy') ?? 'unknown');
  const evicting = policies.find((policy) => policy !== 'noeviction');
  if (evicting === undefined) return ok(name, 'maxmemory-policy is noeviction');
  return warning(
    name,
    `maxmemory-policy is ${evicting}: when memory is short Redis drops jobs, which are found again only later`,
    '`redis-cli config set maxmemory-policy noeviction`, and the same in redis.conf',
  );
}

function checkPersistence(nodes: readonly Reached[]): Check {
  const name = 'redis persistence';
  const stuck = nodes.find(({ info }) => info.get('rdb_last_bgsave_status') === 'err');
  if (stuck !== undefined) {
    return bad(
      name,
      `${stuck.address} could not save its snapshot, and may refuse writes until it can`,
      'make room on its disk, or switch snapshots off (`config set save ""`): the queue needs none',
    );
  }
  const isKept = nodes.every(({ info }) => info.get('aof_enabled') === '1');
  const aof = isKept ? 'the append-only file is on' : 'the append-only file is off';
  return ok(name, `${aof}; either will do, Postgres knows what is to be done`);
}

function checkCluster(nodes: readonly Reached[], named: number): Check {
  const name = 'redis cluster';
  const inCluster = nodes.filter(({ info }) => info.get('cluster_enabled') === '1');
  if (named === 1) {
    if (inCluster.length === 0) return ok(name, 'a single Redis, as REDIS_URL says');
    return bad(
      name,
      'REDIS_URL names a single Redis, but that one is a node of a cluster',
      'name several of its nodes in REDIS_URL, with commas between (`redis-cli cluster nodes` lists them)',
    );
  }
  const alone = nodes.find((node) => !inCluster.includes(node));
  if (alone !== undefined) {
    return bad(
      name,
      `REDIS_URL names ${named} nodes, but ${alone.address} is in no cluster`,
      'name one Redis only, or make them a cluster (`redis-cli --cluster create`)',
    );
  }
  const failing = nodes.find(({ info }) => info.get('cluster_state') === 'fail');
  if (failing === undefined)
    return ok(name, `${nodes.length} nodes of a cluster, as REDIS_URL says`);
  return bad(
    name,
    `${failing.address} says that the cluster is down: some of its slots are served by no node`,
    'start the missing nodes, or `redis-cli --cluster fix`',
  );
}
