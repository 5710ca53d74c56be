import { sql } from 'drizzle-orm';

import { rows, type Mirror } from '../mirror/database.ts';

/** Tells listeners that the feed has grown; only a wake-up, and no word of what. */
export interface Notifier {
  /** Something may have been written. Returns at once. */
  readonly poke: () => void;
  /** Waits for what is under way; nothing is told after that. */
  stop(): Promise<void>;
}

/** Four times a second at most, however much is written. */
const EVERY_MS = 250;

/** The channel of a mirror's feed. */
export function channelOf(schema: string): string {
  return `${schema}_changes`;
}

/**
 * Notifies in a transaction of its own, after those that wrote: notifying takes a lock that all of the server's
 * share. A wake-up that fails is made up for by the next, and by readers that ask now and then anyway.
 */
export function createNotifier(
  { db, t, schema }: Pick<Mirror, 'db' | 't' | 'schema'>,
  onError: (error: unknown) => void,
): Notifier {
  let last: string | null = null;
  let sentAtMs = -Infinity;
  let timer: NodeJS.Timeout | undefined;
  let sending: Promise<void> = Promise.resolve();
  let isStopped = false;

  async function send(): Promise<void> {
    // A transaction that wrote nothing to the feed pokes too.
    const [row] = await rows<{ newest: string }>(
      db,
      sql`select newest, case when newest is distinct from ${last}::text
                              then pg_notify(${channelOf(schema)}, '') end
          from (select transaction_id::text || '-' || seq as newest from ${t.userChanges}
                order by transaction_id desc, seq desc limit 1) as feed`,
    );
    last = row?.newest ?? null;
  }

  return {
    poke() {
      if (timer !== undefined || isStopped) return;
      timer = setTimeout(
        () => {
          timer = undefined;
          sentAtMs = performance.now();
          sending = sending.then(send).catch(onError);
        },
        Math.max(0, sentAtMs + EVERY_MS - performance.now()),
      );
    },
    async stop() {
      isStopped = true;
      clearTimeout(timer);
      await sending;
    },
  };
}
