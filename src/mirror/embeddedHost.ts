/*
 * A process of its own around one embedded Postgres: started by `embedded.ts`, never imported.
 *
 *   node embeddedHost.js <folder> [postgres flag…]
 *
 * Why a process: a terminal's Ctrl-C reaches every process of the group, and would take the database
 * away from a service that is still finishing its work; and several processes may use one folder.
 * This process is detached, and lives by its door instead:
 *
 * - It listens on a loopback port and writes port and token to `<folder>/door.json`, created
 *   exclusively: who creates it hosts, who finds it answering does not. An answering door is proof
 *   of life where a process id, reused after a reboot or in the next container, is none.
 * - A client sends the token and is told `starting`, `ready <port>` or `stopping`, one line each.
 * - A client's open connection is its claim. The kernel closes it even after `kill -9`; when the
 *   last one is gone, Postgres is stopped. Clients see their connection end once that is done.
 *
 * It tells on stdout why it failed, in one line; what Postgres says goes to stderr (a log file).
 */
import { randomBytes } from 'node:crypto';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { startServer, type Server as Postgres } from './embeddedServer.ts';

/** After the start a client must come within this time; it may have been killed meanwhile. */
const UNCLAIMED_MS = 10_000;

const HOST = '127.0.0.1';
const folder = process.argv[2] ?? '';
const doorFile = join(folder, 'door.json');

const token = randomBytes(24).toString('hex');
const clients = new Set<Socket>();
let state: 'starting' | 'ready' | 'stopping' = 'starting';
let postgres: Promise<Postgres> | undefined;
let readyLine = '';

/** Listens for clients; the port is the kernel's choice. */
async function openDoor(): Promise<number> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    let said = '';
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk) => {
      if (clients.has(socket)) return;
      said += chunk.toString('latin1');
      if (said.trim() === token) admit(socket);
      else if (said.length > token.length) socket.destroy();
    });
    socket.on('end', () => {
      // The last client is kept waiting until Postgres has stopped and this process ends.
      if (!leave(socket) && state !== 'stopping') socket.end();
    });
    socket.on('close', () => leave(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, HOST, resolve);
  });
  return portOf(server);
}

function admit(socket: Socket): void {
  clients.add(socket);
  socket.write(state === 'ready' ? readyLine : `${state}\n`);
}

/** True where this was the last client, so that Postgres is stopped. */
function leave(socket: Socket): boolean {
  const wasLast = clients.delete(socket) && clients.size === 0 && state === 'ready';
  if (wasLast) void stop(0);
  return wasLast;
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** True where this process is now the host of the folder, false where another one answers. */
async function claimFolder(doorPort: number): Promise<boolean> {
  const mine = join(folder, `door-${token.slice(0, 12)}.json`);
  await writeFile(mine, JSON.stringify({ port: doorPort, token }), { mode: 0o600 });
  try {
    for (;;) {
      try {
        // Unlike an exclusive open, a link appears with its content.
        await link(mine, doorFile);
        return true;
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
      }
      const found = await readFile(doorFile, 'utf8').catch(() => null);
      if (found === null) continue;
      if (await isAnswering(found)) return false;
      // Left by a host that was killed. Should two hosts clear it at once, the one that took away
      // the other's fresh door puts it back; Postgres' own lock is the last line of defence.
      const stale = `${mine}.stale`;
      await rename(doorFile, stale).catch(() => undefined);
      const taken = await readFile(stale, 'utf8').catch(() => found);
      if (taken !== found) await link(stale, doorFile).catch(() => undefined);
      await rm(stale, { force: true });
    }
  } finally {
    await rm(mine, { force: true });
  }
}

async function isAnswering(door: string): Promise<boolean> {
  // A power cut can leave the file empty.
  if (!door.endsWith('}')) return false;
  const { port, token: theirs } = JSON.parse(door) as { port: number; token: string };
  return new Promise((resolve) => {
    const socket = connect({ host: HOST, port }, () => socket.write(`${theirs}\n`));
    const settle = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(2_000, () => {
      settle(false);
    });
    socket.once('data', () => {
      settle(true);
    });
    socket.once('error', () => {
      settle(false);
    });
    socket.once('close', () => {
      settle(false);
    });
  });
}

/** Postgres first, then the door, so that nobody finds the folder free too early. */
async function stop(exitCode: number): Promise<void> {
  if (state === 'stopping') return;
  state = 'stopping';
  // A start in progress is waited for; one that failed has nothing to stop.
  const started = await postgres?.catch(() => undefined);
  await started?.stop();
  const door = await readFile(doorFile, 'utf8').catch(() => '');
  if (door.includes(token)) await rm(doorFile, { force: true });
  process.exit(exitCode);
}

function listenForSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => void stop(0));
  }
}

/** Postgres inherits neither our secrets nor settings meant for other Postgres clients. */
function cleanEnvironment(): void {
  const kept = new Set(['PATH', 'HOME', 'LD_LIBRARY_PATH', 'SystemRoot', 'USERPROFILE']);
  for (const name of Object.keys(process.env)) {
    if (!kept.has(name)) Reflect.deleteProperty(process.env, name);
  }
  process.umask(0o077);
}

async function host(): Promise<void> {
  cleanEnvironment();
  listenForSignals();
  const doorPort = await openDoor();
  if (!(await claimFolder(doorPort))) process.exit(0);
  postgres = startServer({
    folder,
    postgresFlags: process.argv.slice(3),
    log: (text) => process.stderr.write(text),
  });
  const { port, ended } = await postgres;
  // Told to stop while starting: `stop` is at it already.
  if (isStopping()) return;
  state = 'ready';
  readyLine = `ready ${port}\n`;
  for (const client of clients) client.write(readyLine);
  // Killed from outside: end as well, so that the next start finds a free folder.
  void ended.then(() => stop(1));
  await delay(UNCLAIMED_MS);
  if (clients.size === 0) await stop(0);
}

function isStopping(): boolean {
  return state === 'stopping';
}

process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);
host().catch(async (error: unknown) => {
  const reason = error instanceof Error ? error.message : String(error);
  const line = `the embedded Postgres did not start: ${reason.split('\n')[0] ?? ''}\n`;
  process.stderr.write(line);
  await new Promise((resolve) => process.stdout.write(line, resolve));
  await stop(1);
});
