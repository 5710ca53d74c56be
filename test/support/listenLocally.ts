import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Lets a test's own server listen on a free port; stopping it ends its connections. */
export async function listenLocally(
  server: Server,
): Promise<{ readonly url: string; stop(): Promise<void> }> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}
