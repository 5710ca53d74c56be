import { sql } from 'drizzle-orm';
import { setTimeout as sleep } from 'node:timers/promises';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/** What the mirror has seen of a user. */
export interface Seen {
  readonly userId: string;
  readonly observedAt: Instant;
  /** Whether what was seen is that the user is gone. */
  readonly deleted: boolean;
}

/** Short beside the 100 ms a reader may wait for a row that is there, cheap on a primary key. */
const EVERY_MS = 50;

/**
 * Waits until the mirror has seen a user at or after an instant (read your own writes: note the time,
 * write to Descope, wait, read). Null where the signal is aborted first.
 */
export async function waitForUser(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  userId: string,
  since: string,
  signal: AbortSignal,
): Promise<Seen | null> {
  while (!signal.aborted) {
    const [seen] = await rows<Seen>(
      db,
      sql`select user_id as "userId", ${asInstant(sql`observed_at`)} as "observedAt",
                 deleted_at is not null as deleted
          from ${t.users}
          where user_id = ${userId} and observed_at >= ${since}::timestamptz`,
    );
    if (seen) return seen;
    await sleep(EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
  return null;
}
