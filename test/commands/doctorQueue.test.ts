import { Redis } from 'ioredis';
import { afterEach, describe, expect, it } from 'vitest';

import { explainFailure } from '../../src/commands/explainFailure.ts';
import { checkPostgres } from '../../src/doctor/postgres.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { openMirror } from '../../src/mirror/database.ts';
import { createReleaseStack } from '../../src/release.ts';
import { createTestDatabase } from '../support/database.ts';
import { startPgbouncer } from '../support/pgbouncer.ts';
import { startRedisServer, testRedisUrl } from '../support/redis.ts';
import { startRedisCluster } from '../support/redisCluster.ts';

import type { Check } from '../../src/doctor/check.ts';

/* What the doctor says of the queue: of Redis, and of a pooler before a Postgres that holds it. */

let releases = createReleaseStack();
afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

function of(checks: readonly Check[], name: string): Check {
  const found = checks.find((check) => check.name === name);
  if (!found) throw new Error(`no ${name} among ${checks.map((check) => check.name).join(', ')}`);
  return found;
}

const verdicts = (checks: readonly Check[]) =>
  Object.fromEntries(checks.map(({ name, verdict }) => [name, verdict]));

describe('Redis', () => {
  it('is not needed', async () => {
    expect(verdicts(await checkRedis(null))).toEqual({ redis: 'ok' });
  });

  it('down', async () => {
    const [only, ...others] = await checkRedis(['redis://:hunter2@127.0.0.1:1']);
    expect(others).toEqual([]);
    expect(only).toMatchObject({
      verdict: 'bad',
      found: expect.stringMatching(/cannot be reached \(127\.0\.0\.1:1: .*ECONNREFUSED/) as string,
      remedy: expect.stringMatching(/start Redis, or set REDIS_URL right/) as string,
    });
    expect(JSON.stringify(only)).not.toContain('hunter2');
  });
});

describe.skipIf(testRedisUrl() === null)('a Redis', () => {
  /** One of the test's own, told some settings. */
  async function start(...settings: readonly (readonly [string, string])[]): Promise<string> {
    const server = await startRedisServer();
    if (!server) throw new Error('no redis-server');
    releases.push('Redis', () => server.stop());
    const redis = new Redis(server.url);
    for (const [name, value] of settings) await redis.config('SET', name, value);
    redis.disconnect();
    return server.url;
  }

  it('as it should be', async () => {
    const checks = await checkRedis([await start()]);
    expect(verdicts(checks)).toEqual({
      ...{ redis: 'ok', 'redis version': 'ok', 'redis eviction': 'ok' },
      ...{ 'redis persistence': 'ok', 'redis cluster': 'ok' },
    });
  });

  it('that evicts', async () => {
    const checks = await checkRedis([await start(['maxmemory-policy', 'allkeys-lru'])]);
    expect(of(checks, 'redis eviction')).toMatchObject({
      verdict: 'warning',
      found: expect.stringContaining('allkeys-lru') as string,
      remedy: expect.stringContaining('config set maxmemory-policy noeviction') as string,
    });
  });

  it('that wants a password', async () => {
    const url = await start(['requirepass', 'of-this-test']);
    expect((await checkRedis([url]))[0]).toMatchObject({
      verdict: 'bad',
      remedy: 'check user and password in REDIS_URL',
    });
    const known = url.replace('://', '://:of-this-test@');
    expect(of(await checkRedis([known]), 'redis').verdict).toBe('ok');
  });

  it('named twice, as if it were a cluster', async () => {
    const url = await start();
    const check = of(await checkRedis([url, url]), 'redis cluster');
    expect(check).toMatchObject({ verdict: 'bad' });
    expect(check.found).toMatch(/names 2 nodes, but .* is in no cluster/);
    expect(check.remedy).toMatch(/name one Redis only/);
  });

  it('that is a single node of a cluster, and the cluster itself', async () => {
    const cluster = await startRedisCluster();
    releases.push('cluster', () => cluster.stop());
    const nodes = cluster.url.split(',');
    expect(verdicts(await checkRedis(nodes))).toMatchObject({ 'redis cluster': 'ok', redis: 'ok' });
    const check = of(await checkRedis(nodes.slice(0, 1)), 'redis cluster');
    expect(check.verdict).toBe('bad');
    expect(check.found).toMatch(/names a single Redis, but that one is a node of a cluster/);
    expect(check.remedy).toMatch(/name several of its nodes in REDIS_URL/);

    const restart = await cluster.killFullest();
    const oneIsDown = of(await checkRedis(nodes), 'redis');
    expect(oneIsDown).toMatchObject({ verdict: 'warning' });
    await restart();
  });
});

describe('a pooler', () => {
  async function start(databaseUrl: string, more?: string): Promise<string | null> {
    const bouncer = await startPgbouncer(databaseUrl, more);
    if (bouncer === null) return null;
    releases.push('pgbouncer', () => bouncer.stop());
    return bouncer.url;
  }

  async function check(databaseUrl: string, queueInPostgres: boolean): Promise<readonly Check[]> {
    const mirror = openMirror({
      ...{ databaseUrl, schema: 'descope', maxConnections: 3, onError: () => undefined },
    });
    try {
      const deps = { mirror, queueInPostgres, isEmbedded: false, projectId: 'P2test' };
      const remedyFor = (error: unknown) => explainFailure(error, {}).remedy ?? 'unknown';
      return (await checkPostgres({ ...deps, remedyFor })).checks;
    } finally {
      await mirror.pool.end();
    }
  }

  it('that lends connections by the transaction', async (context) => {
    const database = await createTestDatabase();
    releases.push('database', () => database.drop());
    const url = await start(database.url);
    if (url === null) {
      context.skip('no pgbouncer is installed');
      return;
    }
    expect(of(await check(database.url, true), 'pooler').verdict).toBe('ok');
    expect(of(await check(url, false), 'pooler').found).toMatch(/pooled by transaction/);
    expect(of(await check(url, true), 'pooler')).toMatchObject({
      verdict: 'bad',
      found: expect.stringMatching(/queue in Postgres listens/) as string,
      remedy: expect.stringMatching(/set REDIS_URL, or .* session/) as string,
    });
  });

  it('that refuses what we ask of a connection', async (context) => {
    const database = await createTestDatabase();
    releases.push('database', () => database.drop());
    const url = await start(database.url, '');
    if (url === null) {
      context.skip('no pgbouncer is installed');
      return;
    }
    expect(await check(url, false)).toMatchObject([
      {
        ...{ name: 'postgres', verdict: 'bad' },
        found: expect.stringMatching(/unsupported startup parameter/) as string,
        remedy: expect.stringMatching(/Set ignore_startup_parameters/) as string,
      },
    ]);
  });
});
