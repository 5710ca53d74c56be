import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import pg from 'pg';

import { startEmbeddedPostgres } from '../src/mirror/embedded.ts';
import { createReleaseStack } from '../src/release.ts';
import { removeEmbeddedFolder } from '../test/support/embeddedHost.ts';
import { startRedisServer } from '../test/support/redisServer.ts';
import { readCpuSeconds, readParent, ROOT, startPart, type Part } from './programs.ts';

import type { ReleaseStack } from '../src/release.ts';
import type { BehaviourPatch } from '../src/simulator/behaviour.ts';
import type { SimulatorApi } from './simulator.ts';

/*
 * One Postgres and one Redis for all contestants, and a database of its own for each turn.
 */

/** Postgres as it comes, but for: connections of several workers, and commit times to measure by. */
const POSTGRES_SETTINGS = ['max_connections=300', 'track_commit_timestamp=on'];

export interface Database {
  /** Of the role that the product uses: owner, no superuser. */
  readonly url: string;
  /** Of the superuser: the peer's migrations want one. */
  readonly adminUrl: string;
  /** As the superuser; the shape of the rows is the caller's promise. */
  query<Row>(statement: string, values?: readonly unknown[]): Promise<Row[]>;
  drop(): Promise<void>;
}

export interface Directory extends Part<SimulatorApi> {
  readonly users: number;
  /** The settings that point a contestant at it. */
  readonly env: Readonly<Record<string, string>>;
}

export interface Lab {
  /** `SHOW server_version`. */
  readonly postgresVersion: string;
  /** Null where no `redis-server` is installed. */
  readonly redisUrl: string | null;
  createDatabase(): Promise<Database>;
  /** Starts a simulated Descope; the caller stops it. */
  startDirectory(users: number, behaviour?: BehaviourPatch): Promise<Directory>;
  /** Processor seconds of Postgres and all its processes so far, ended ones included. */
  postgresCpuSeconds(): Promise<number>;
  stop(): Promise<void>;
}

export async function openLab(): Promise<Lab> {
  const releases = createReleaseStack();
  try {
    return await build(releases);
  } catch (error) {
    await releases.release().catch(() => undefined);
    throw error;
  }
}

async function build(releases: ReleaseStack): Promise<Lab> {
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-bench-'));
  releases.push('folder', async () => {
    await removeEmbeddedFolder(folder);
    await rm(folder, { recursive: true, force: true });
  });
  const postgres = await startEmbeddedPostgres({
    folder,
    hostFile: join(ROOT, 'dist/src/mirror/embeddedHost.js'),
    postgresFlags: POSTGRES_SETTINGS.flatMap((setting) => ['-c', setting]),
  });
  releases.push('postgres', () => postgres.stop());
  const admin = new pg.Pool({ connectionString: postgres.adminUrl, max: 2 });
  admin.on('error', () => undefined);
  releases.push('administration', () => admin.end());
  const redis = await startRedisServer();
  releases.push('redis', () => redis?.stop());
  const version = await admin.query<{ server_version: string }>('show server_version');
  return {
    postgresVersion: version.rows[0]?.server_version ?? 'unknown',
    redisUrl: redis?.url ?? null,
    createDatabase: () => createDatabase(admin, postgres),
    startDirectory,
    postgresCpuSeconds: () => sumPostgresCpu(admin),
    stop: () => releases.release(),
  };
}

/** Empty, and with no work of the database before it left to be written. */
async function createDatabase(
  admin: pg.Pool,
  urls: { readonly url: string; readonly adminUrl: string },
): Promise<Database> {
  const name = `bench_${randomBytes(6).toString('hex')}`;
  await admin.query(`create database ${name} owner rollcall`);
  await admin.query('checkpoint');
  const adminUrl = inDatabase(urls.adminUrl, name);
  const pool = new pg.Pool({ connectionString: adminUrl, max: 1 });
  pool.on('error', () => undefined);
  return {
    url: inDatabase(urls.url, name),
    adminUrl,
    async query<Row>(statement: string, values: readonly unknown[] = []) {
      return (await pool.query(statement, [...values])).rows as Row[];
    },
    async drop() {
      await pool.end();
      await admin.query(`drop database if exists ${name} with (force)`);
    },
  };
}

function inDatabase(url: string, name: string): string {
  const other = new URL(url);
  other.pathname = `/${name}`;
  return other.toString();
}

async function startDirectory(users: number, behaviour: BehaviourPatch = {}): Promise<Directory> {
  const part = await startPart<SimulatorApi>('simulator');
  const { url, projectId, managementKey } = await part.ask('start', { users, behaviour });
  return {
    ...part,
    users,
    env: {
      DESCOPE_BASE_URL: url,
      DESCOPE_PROJECT_ID: projectId,
      DESCOPE_MANAGEMENT_KEY: managementKey,
    },
  };
}

/** The server's own process reaps its children: what they used is counted there once they have ended. */
async function sumPostgresCpu(admin: pg.Pool): Promise<number> {
  const { rows } = await admin.query<{ pid: number }>('select pg_backend_pid() as pid');
  const server = readParent(rows[0]?.pid ?? 0);
  const all = (await readdir('/proc').catch(() => [])).map(Number).filter((pid) => pid > 0);
  const children = all.filter((pid) => readParent(pid) === server);
  return children.reduce((sum, pid) => sum + readCpuSeconds(pid), readCpuSeconds(server, true));
}
