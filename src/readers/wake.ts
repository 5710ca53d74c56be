import { setTimeout as sleep } from 'node:timers/promises';

import { onAbort } from '../abort.ts';
import { read, type Queryable } from './reader.ts';

/** A connection of its own that can listen, such as a connected `pg.Client`; not one of a pool. */
export interface Listener extends Queryable {
  on(event: 'notification', listener: (message: { readonly channel: string }) => void): unknown;
  off(event: 'notification', listener: (message: { readonly channel: string }) => void): unknown;
}

/** Waits between reads, and is woken when the feed has grown. */
export interface Waker {
  /** Resolves after `ms`, at a wake-up since the last call, or when the signal aborts. */
  wait(ms: number, signal: AbortSignal): Promise<void>;
  stop(): void;
}

/** Listens to the notifications that `FEED_NOTIFY=true` sends; without a connection only time passes. */
export async function createWaker(
  listener: Listener | undefined,
  schema = 'descope',
): Promise<Waker> {
  const channel = `${schema}_changes`;
  let isWoken = false;
  let wake = new AbortController();
  const onNotification = (message: { readonly channel: string }) => {
    if (message.channel !== channel) return;
    isWoken = true;
    wake.abort();
  };
  listener?.on('notification', onNotification);
  const quoted = `"${channel.replaceAll('"', '""')}"`;
  if (listener) await read({ db: listener }, () => `listen ${quoted}`, []);
  return {
    async wait(ms, signal) {
      if (!isWoken) {
        const ignore = onAbort(signal, () => {
          wake.abort();
        });
        await sleep(ms, undefined, { signal: wake.signal }).catch(() => undefined);
        ignore();
      }
      isWoken = false;
      wake = new AbortController();
    },
    stop() {
      listener?.off('notification', onNotification);
    },
  };
}
