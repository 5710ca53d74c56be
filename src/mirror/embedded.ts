import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, open, readFile, stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

export interface EmbeddedOptions {
  /** Absolute path; created where missing, kept between runs (`.rollcall/` of the checkout). */
  readonly folder: string;
  /** More flags for the server, such as `-c`, `fsync=off`. */
  readonly postgresFlags?: readonly string[];
  /** The compiled `embeddedHost.ts`; differs only where this file itself is run uncompiled (tests). */
  readonly hostFile?: string;
}

export interface RunningPostgres {
  /** Of role `rollcall`, owner of the database `rollcall` and no superuser. Holds a password. */
  readonly url: string;
  /** Of the superuser, for what only that one may do. Holds a password. */
  readonly adminUrl: string;
  /** Gives it up; resolves once Postgres has stopped, or at once where another process still uses it. */
  stop(): Promise<void>;
}

/** The first start runs initdb, which takes half a minute on a slow disk. */
const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 30_000;
/** A host answers the first line at once; a stranger who got its port does not. */
const ANSWER_TIMEOUT_MS = 2_000;
const LOG_MAX_BYTES = 5_000_000;

/**
 * Starts the embedded Postgres of a folder, or joins the one already running there: processes that
 * use the same folder share it, and the last to stop (or die) ends it. See `embeddedHost.ts`.
 * @throws one line that says why, when it cannot be started
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<RunningPostgres> {
  await makeFolder(options.folder);
  const deadlineMs = Date.now() + START_TIMEOUT_MS;
  let host: SpawnedHost | undefined;
  while (Date.now() < deadlineMs) {
    const door = await knock(options.folder, deadlineMs);
    if (door) {
      host?.forget();
      return running(options.folder, door);
    }
    const failure = host?.failure();
    if (failure !== undefined) throw new Error(failure);
    // Ended without a failure: another host was first, and has gone meanwhile.
    if (!host || host.hasEnded()) host = await spawnHost(options);
    await delay(50);
  }
  throw new Error(
    `the embedded Postgres was not ready within ${START_TIMEOUT_MS / 1000} s; see ${join(options.folder, 'postgres.log')}`,
  );
}

/** Whether a folder has had an embedded Postgres; makes none. */
export function hasEmbeddedPostgres(folder: string): Promise<boolean> {
  return stat(join(folder, 'passwords.json')).then(
    () => true,
    () => false,
  );
}

/** The folder is for us alone; parents we make can be passed, as root by user `postgres`. */
async function makeFolder(folder: string): Promise<void> {
  const parent = dirname(folder);
  const firstMade = await mkdir(parent, { recursive: true });
  if (firstMade !== undefined) {
    // Whatever our umask.
    for (let path = parent; path.length >= firstMade.length; path = dirname(path)) {
      await chmod(path, 0o711);
    }
  }
  await mkdir(folder, { recursive: true, mode: 0o700 });
}

interface Door {
  readonly socket: Socket;
  readonly port: number;
}

async function running(folder: string, { socket, port }: Door): Promise<RunningPostgres> {
  const text = await readFile(join(folder, 'passwords.json'), 'utf8');
  const passwords = JSON.parse(text) as { admin: string; rollcall: string };
  // Our claim must not keep a process alive that has nothing else to do.
  socket.unref();
  let stopped: Promise<void> | undefined;
  return {
    url: `postgres://rollcall:${passwords.rollcall}@127.0.0.1:${port}/rollcall`,
    adminUrl: `postgres://postgres:${passwords.admin}@127.0.0.1:${port}/postgres`,
    stop() {
      stopped ??= leave(socket);
      return stopped;
    },
  };
}

async function leave(socket: Socket): Promise<void> {
  if (socket.closed) return;
  socket.ref();
  const closed = once(socket, 'close').catch(() => undefined);
  socket.end();
  const patience = new AbortController();
  // The host goes on stopping by itself; it does not need us for that.
  await Promise.race([
    closed,
    delay(STOP_TIMEOUT_MS, undefined, { signal: patience.signal }).catch(() => undefined),
  ]);
  patience.abort();
  socket.destroy();
}

/** Asks the folder's host for its Postgres; null where there is none, or it has just stopped. */
async function knock(folder: string, deadlineMs: number): Promise<Door | null> {
  const text = await readFile(join(folder, 'door.json'), 'utf8').catch(() => null);
  // A power cut can leave the file empty.
  if (text?.endsWith('}') !== true) return null;
  const { port, token } = JSON.parse(text) as { port: number; token: string };
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port }, () => socket.write(`${token}\n`));
    let timer = setTimeout(() => socket.destroy(), ANSWER_TIMEOUT_MS);
    let said = '';
    socket.on('data', (chunk) => {
      said += chunk.toString('latin1');
      clearTimeout(timer);
      const ready = /^ready (\d+)$/m.exec(said);
      if (ready) resolve({ socket, port: Number(ready[1]) });
      else timer = setTimeout(() => socket.destroy(), Math.max(0, deadlineMs - Date.now()));
    });
    socket.on('error', () => socket.destroy());
    // Without `ready` before it, this is a host that stopped, failed or never was.
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(null);
    });
  });
}

interface SpawnedHost {
  hasEnded(): boolean;
  /** Why it ended, in its own words; undefined while it runs or where it had nothing to do. */
  failure(): string | undefined;
  /** Lets this process end before the host does. */
  forget(): void;
}

async function spawnHost(options: EmbeddedOptions): Promise<SpawnedHost> {
  const logFile = join(options.folder, 'postgres.log');
  const size = await stat(logFile).then(
    (found) => found.size,
    () => 0,
  );
  const log = await open(logFile, size > LOG_MAX_BYTES ? 'w' : 'a', 0o600);
  const hostFile = options.hostFile ?? join(import.meta.dirname, 'embeddedHost.js');
  const child = spawn(
    process.execPath,
    [hostFile, options.folder, ...(options.postgresFlags ?? [])],
    // A session of its own: a Ctrl-C in our terminal is for us alone.
    { detached: true, cwd: options.folder, stdio: ['ignore', 'pipe', log.fd] },
  );
  let reason = '';
  let failure: string | undefined;
  let ended = false;
  child.stdout?.on('data', (chunk: Buffer) => {
    reason += chunk.toString();
  });
  child.on('error', (error) => {
    failure = `the embedded Postgres did not start: ${error.message}`;
    ended = true;
  });
  child.on('close', (code) => {
    if (code !== 0) failure ??= reason.trim() || `the embedded Postgres failed; see ${logFile}`;
    ended = true;
  });
  await log.close();
  return {
    hasEnded: () => ended,
    failure: () => failure,
    forget() {
      child.unref();
      child.stdout?.destroy();
    },
  };
}
