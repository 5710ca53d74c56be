import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { startEmbeddedPostgres } from '../../src/mirror/embedded.ts';
import { migrateMirror } from '../../src/mirror/migrate.ts';
import { createReleaseStack } from '../../src/release.ts';
import { compileEmbeddedHost, removeEmbeddedFolder } from './embeddedHost.ts';
import { query } from './query.ts';
import { startRedisServer } from './redisServer.ts';

import type { ReleaseStack } from '../../src/release.ts';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** Of a role that may create databases and is no superuser. */
    databaseUrl: string;
    /** A database migrated to schema `descope`, to be cloned. */
    templateDatabase: string;
    redisUrl: string | null;
    /** The compiled host process of the embedded Postgres. */
    embeddedHostFile: string;
  }
}

/** One Postgres and one Redis for the whole run; each test file takes its own part of both. */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const releases = createReleaseStack();
  try {
    const hostFile = compileEmbeddedHost();
    const databaseUrl =
      process.env['TEST_DATABASE_URL'] ?? (await startPostgres(releases, hostFile));
    const templateDatabase = await createTemplate(releases, databaseUrl);
    project.provide('databaseUrl', databaseUrl);
    project.provide('templateDatabase', templateDatabase);
    project.provide('redisUrl', await startRedis(releases));
    project.provide('embeddedHostFile', hostFile);
  } catch (error) {
    await releases.release();
    throw error;
  }
  return () => releases.release();
}

async function startPostgres(releases: ReleaseStack, hostFile: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-test-'));
  releases.push('test folder', () => removeEmbeddedFolder(folder));
  const postgres = await startEmbeddedPostgres({
    folder,
    hostFile,
    // Nothing here has to survive a power cut; several files hold a pool and a queue each. A database
    // with an autovacuum worker in it could not be dropped by its owner.
    postgresFlags: [
      'fsync=off',
      'full_page_writes=off',
      'max_connections=300',
      'autovacuum=off',
    ].flatMap((flag) => ['-c', flag]),
  });
  releases.push('postgres', () => postgres.stop());
  await query(postgres.adminUrl, 'alter role rollcall createdb createrole');
  return postgres.url;
}

/** Named by process: several runs may share the server of TEST_DATABASE_URL. */
async function createTemplate(releases: ReleaseStack, databaseUrl: string): Promise<string> {
  const name = `rollcall_template_${process.pid}`;
  await query(databaseUrl, `drop database if exists ${name}`);
  await query(databaseUrl, `create database ${name}`);
  releases.push('template', async () => {
    await query(databaseUrl, `drop database if exists ${name}`);
  });
  const url = new URL(databaseUrl);
  url.pathname = `/${name}`;
  await migrateMirror({ databaseUrl: url.toString(), schema: 'descope' });
  return name;
}

async function startRedis(releases: ReleaseStack): Promise<string | null> {
  const given = process.env['TEST_REDIS_URL'];
  if (given !== undefined) return given;
  const redis = await startRedisServer();
  if (redis) {
    releases.push('redis', () => redis.stop());
    return redis.url;
  }
  const remedy =
    'install redis-server (apt install redis-server, brew install redis) or set TEST_REDIS_URL';
  if (process.env['CI'] !== undefined) throw new Error(`redis-server is missing: ${remedy}`);
  console.warn(`\nTests of the queue on Redis are skipped. To run them, ${remedy}.\n`);
  return null;
}
