import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { inject } from 'vitest';

import { startEmbeddedPostgres } from '../../src/mirror/embedded.ts';
import { openPlace, type Place } from '../../src/mirror/embeddedPlace.ts';
import { openMirror } from '../../src/mirror/database.ts';
import { removeEmbeddedFolder } from './embeddedHost.ts';
import { eventually } from './eventually.ts';
import { query } from './query.ts';
import { freePort } from './redisServer.ts';

import type { TestDatabase } from './database.ts';

/** A Postgres of a test's own, that may crash: always on the same port and the same data. */
export interface PostgresServer {
  /** An empty database on it, of a role that is no superuser. */
  createDatabase(): Promise<TestDatabase>;
  /** Kills the postmaster and all its children with SIGKILL; resolves once they are gone. */
  crash(): Promise<void>;
  /** Starts it again; resolves once it has recovered and answers. */
  start(): Promise<void>;
  /** Ends it and removes its data. */
  stop(): Promise<void>;
}

/** Initialises and starts one, as user `postgres` where we are root. */
export async function startPostgresServer(): Promise<PostgresServer> {
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-postgres-'));
  const { url, adminUrl } = await initialise(folder);
  const place = await openPlace(folder);
  const port = await freePort();
  let postmaster: ChildProcess | undefined;

  const onPort = (given: string, database?: string): string => {
    const address = new URL(given);
    address.port = String(port);
    if (database !== undefined) address.pathname = `/${database}`;
    return address.toString();
  };
  const administer = (statement: string) => query(onPort(adminUrl), statement);

  const server: PostgresServer = {
    async createDatabase() {
      const name = `test_${randomBytes(8).toString('hex')}`;
      await administer(`create database ${name} owner rollcall`);
      const databaseUrl = onPort(url, name);
      const mirror = openMirror({
        databaseUrl,
        schema: 'descope',
        maxConnections: 5,
        // The crash ends them all.
        onError: () => undefined,
      });
      return {
        url: databaseUrl,
        mirror,
        async drop() {
          await mirror.pool.end();
          await administer(`drop database ${name} with (force)`);
        },
      };
    },
    async crash() {
      const { pid } = postmaster ?? {};
      if (pid === undefined) throw new Error('it does not run');
      const children = await childrenOf(pid);
      // The postmaster first: it would take the death of a child for a crash to recover from.
      await end(postmaster, 'SIGKILL');
      for (const child of children) killIfThere(child);
      await eventually(async () => {
        const left = (await listProcesses()).filter(({ pid: one }) => children.includes(one));
        if (left.length > 0) throw new Error(`${left.length} processes of Postgres live on`);
      });
    },
    async start() {
      await eventually(
        async () => {
          // One that died a moment ago can hold up its successor's start: then once more.
          if (!isRunning(postmaster)) postmaster = launch(place, port);
          await administer('select 1');
        },
        { timeoutMs: 60_000, everyMs: 100 },
      );
    },
    async stop() {
      await end(postmaster, 'SIGINT');
      await removeEmbeddedFolder(folder);
    },
  };
  await server.start();
  return server;
}

/** Lets the embedded Postgres make data, role and passwords in the folder. */
async function initialise(folder: string): Promise<{ url: string; adminUrl: string }> {
  const made = await startEmbeddedPostgres({ folder, hostFile: inject('embeddedHostFile') });
  await made.stop();
  return made;
}

/** With Postgres' own settings of durability: what it has committed is to be there after the crash. */
function launch(place: Place, port: number): ChildProcess {
  const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories='];
  return spawn(
    join(place.programs, 'postgres'),
    ['-D', place.dataFolder, '-p', String(port), ...settings.flatMap((one) => ['-c', one])],
    { ...place.user, cwd: place.base, stdio: 'ignore' },
  );
}

function isRunning(child: ChildProcess | undefined): boolean {
  return child?.exitCode === null && child.signalCode === null;
}

async function end(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (!child || !isRunning(child)) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}

interface Listed {
  readonly pid: number;
  readonly parent: number;
}

/** Every process that runs; of those dead and not reaped, none. */
async function listProcesses(): Promise<Listed[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=,stat=']);
  return stdout
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , state = 'Z']) => !state.startsWith('Z'))
    .map(([pid, parent]) => ({ pid: Number(pid), parent: Number(parent) }));
}

/** Postgres gives each a session of its own, so no signal to a group reaches them. */
async function childrenOf(pid: number): Promise<number[]> {
  const all = await listProcesses();
  return all.filter(({ parent }) => parent === pid).map((child) => child.pid);
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It saw the postmaster die and has ended by itself.
  }
}
