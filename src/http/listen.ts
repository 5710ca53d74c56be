import { createServer, type RequestListener } from 'node:http';

import { UsageError } from '../errors.ts';

import type { AddressInfo, Socket } from 'node:net';

/** An HTTP server that answers. */
export interface RunningServer {
  /** The port it listens on, also where 0 was asked for. */
  readonly port: number;
  /** Accepts nothing more, lets answers under way finish for up to 4 s, then closes. Safe twice. */
  stop(): Promise<void>;
}

export interface ListenOptions {
  readonly port: number;
  /** Every interface where absent. */
  readonly host?: string;
}

/** Longer than the 60 s most load balancers keep idle connections: we never close one they just used. */
const KEEP_ALIVE_MS = 65_000;
/** A whole request, body included, must have arrived by then. */
const REQUEST_TIMEOUT_MS = 30_000;
/** There are two servers, and all of a stop together has 15 s. */
const STOP_DEADLINE_MS = 4_000;
const CLOSE_IDLE_EVERY_MS = 50;
/** Browsers open connections ahead of need, and Node does not count those as idle. */
const UNUSED_GRACE_MS = 500;

/** EADDRNOTAVAIL is none of them: an interface that is not up yet mends itself, so a restart helps. */
const UNUSABLE_ADDRESS = new Set(['EADDRINUSE', 'EACCES', 'ENOTFOUND']);

/**
 * Starts a server.
 * @throws UsageError where the address cannot be used; Error where this machine does not have it (yet)
 */
export async function startListening(
  listener: RequestListener,
  { port, host }: ListenOptions,
): Promise<RunningServer> {
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, listener);
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  // Must exceed the keep-alive time, or Node closes a connection that just became busy again.
  server.headersTimeout = KEEP_ALIVE_MS + 1_000;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const unusable = UNUSABLE_ADDRESS.has(error.code ?? '');
      const where = `${host ?? 'port'} ${port}`;
      const remedy = 'PORT, ADMIN_PORT and ADMIN_HOST say where; port 0 takes a free one';
      const mistake = `cannot listen on ${where}: ${error.code ?? ''}. ${remedy}`;
      reject(unusable ? new UsageError(mistake) : new Error(mistake, { cause: error }));
    });
    server.listen({ port, ...(host === undefined ? {} : { host }) }, resolve);
  });

  const unused = new Set<Socket>();
  server.on('connection', (socket) => {
    unused.add(socket);
    socket.once('close', () => unused.delete(socket));
  });
  server.on('request', (request) => unused.delete(request.socket));

  let stopping: Promise<void> | undefined;
  function stop(): Promise<void> {
    return new Promise((resolve) => {
      // A connection that falls idle after its last answer would else keep the server for a minute.
      const idle = setInterval(() => {
        server.closeIdleConnections();
      }, CLOSE_IDLE_EVERY_MS);
      const grace = setTimeout(() => {
        for (const socket of unused) socket.destroy();
      }, UNUSED_GRACE_MS);
      const deadline = setTimeout(() => {
        server.closeAllConnections();
      }, STOP_DEADLINE_MS);
      server.close(() => {
        clearInterval(idle);
        clearTimeout(grace);
        clearTimeout(deadline);
        resolve();
      });
      server.closeIdleConnections();
    });
  }

  return {
    port: (server.address() as AddressInfo).port,
    stop: () => (stopping ??= stop()),
  };
}
