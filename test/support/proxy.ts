import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

import type { AddressInfo } from 'node:net';

/** A TCP proxy of a test's own, so that a dependency can go away and come back. */
export interface Proxy {
  /** `url` with this proxy's address in place of its own. */
  through(url: string): string;
  /** Resets every connection and each new one, as a server does that crashed. */
  cut(): void;
  /** Keeps every connection and accepts new ones, but carries nothing: a network that swallows all. */
  silence(): void;
  /** Carries again, what was kept back first. */
  restore(): void;
  stop(): Promise<void>;
}

/** Starts a proxy in front of the server that `url` names. */
export async function startProxy(url: string): Promise<Proxy> {
  const target = { host: new URL(url).hostname, port: Number(new URL(url).port) };
  const sockets = new Set<Socket>();
  let state: 'open' | 'cut' | 'silent' = 'open';

  function keep(socket: Socket, other: Socket): void {
    sockets.add(socket);
    // Whatever ended one side ends the other; there is nobody here to tell of it.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      sockets.delete(socket);
      other.destroy();
    });
    socket.pipe(other);
    if (state === 'silent') socket.pause();
  }

  const server = createServer((incoming) => {
    if (state === 'cut') {
      incoming.resetAndDestroy();
      return;
    }
    const outgoing = connect(target);
    keep(incoming, outgoing);
    keep(outgoing, incoming);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  function reset(): void {
    for (const socket of sockets) socket.resetAndDestroy();
  }

  return {
    through(given) {
      const address = new URL(given);
      address.hostname = '127.0.0.1';
      address.port = String(port);
      return address.toString();
    },
    cut() {
      state = 'cut';
      reset();
    },
    silence() {
      state = 'silent';
      for (const socket of sockets) socket.pause();
    },
    restore() {
      state = 'open';
      for (const socket of sockets) socket.resume();
    },
    async stop() {
      reset();
      server.close();
      await once(server, 'close');
    },
  };
}
