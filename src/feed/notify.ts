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
    // A transaction that wrote nothing to the feed pokes too. What readers may read up to is not always the
    // newest row: one that began before it may still be open.
    const [row] = await rows<{ head: string; isHeld: boolean }>(
      db,
      sql`select head, case when head is distinct from ${last}::text
                            then pg_notify(${channelOf(schema)}, '') end,
                 exists (select from ${t.userChanges} c, ${sql.identifier(schema)}.parse_cursor(head) as place
                         where (c.transaction_id, c.seq) > (place.transaction_id, place.seq)) as "isHeld"
          from ${sql.identifier(schema)}.feed_head() as head`,
    );
    last = row?.head ?? null;
    // By a transaction that may end without a poke: rolled back, or another process's.
    if (row?.isHeld) poke();
  }

  function poke(): void {
    if (timer !== undefined || isStopped) return;
    timer = setTimeout(
      () => {
        timer = undefined;
        sentAtMs = performance.now();
        sending = sending.then(send).catch(onError);
      },
      Math.max(0, sentAtMs + EVERY_MS - performance.now()),
    );
  }

  return {
    poke,
    async stop() {
      isStopped = true;
      clearTimeout(timer);
      await sending;
    },
  };
}
