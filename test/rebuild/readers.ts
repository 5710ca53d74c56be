import { setTimeout as delay } from 'node:timers/promises';

import pg from 'pg';

/* Applications that read a mirror without a pause, while something is done to it. */

/** One that asks again and again until it is stopped, over a connection of its own. */
export interface Reader {
  /** How often it has been answered. */
  readonly reads: number;
  readonly longestMs: number;
  /** What it was told that it should not have been: errors, and answers that its check refused. */
  readonly complaints: readonly string[];
  stop(): Promise<void>;
}

/** What a reader asks: throws where an answer is not what it should be. */
export type Ask = (client: pg.Client) => Promise<void>;

/** @param everyMs between an answer and the next question */
export async function startReader(url: string, ask: Ask, everyMs: number): Promise<Reader> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  const reader = { isStopped: false, reads: 0, longestMs: 0, complaints: [] as string[] };
  const loop = (async () => {
    while (!reader.isStopped) {
      const startedMs = performance.now();
      try {
        await ask(client);
      } catch (error) {
        reader.complaints.push(String(error));
      }
      reader.reads++;
      reader.longestMs = Math.max(reader.longestMs, performance.now() - startedMs);
      await delay(everyMs);
    }
  })();
  return {
    get reads() {
      return reader.reads;
    },
    get longestMs() {
      return reader.longestMs;
    },
    complaints: reader.complaints,
    async stop() {
      reader.isStopped = true;
      await loop;
      await client.end();
    },
  };
}

/** Asks for one number. @throws where it is below `least` */
export function atLeast(least: number, statement: string, values: readonly unknown[] = []): Ask {
  return async (client) => {
    const { rows } = await client.query<{ n: number }>(statement, [...values]);
    const n = rows[0]?.n ?? -1;
    if (n < least) throw new Error(`${n} where at least ${least} are: ${statement}`);
  };
}

/** A consumer of the feed: keeps for each user the content it finds when a change tells of them. */
export interface Consumer {
  readonly held: ReadonlyMap<string, string>;
  readonly reader: Reader;
  /** Reads to the end of the feed. */
  finish(): Promise<void>;
}

const PAGE = 1_000;

export async function startConsumer(url: string): Promise<Consumer> {
  const held = new Map<string, string>();
  let cursor: string | null = null;
  const readOnce = async (client: pg.Client): Promise<number> => {
    const { rows: changes } = await client.query<{ userId: string; cursor: string }>(
      'select user_id as "userId", cursor from descope.changes_since($1, $2)',
      [cursor, PAGE],
    );
    const userIds = [...new Set(changes.map(({ userId }) => userId))];
    const { rows: users } = await client.query<{ userId: string; hash: string }>(
      `select user_id as "userId", content_hash as hash from descope.live_users
       where user_id = any($1)`,
      [userIds],
    );
    for (const userId of userIds) held.delete(userId);
    for (const { userId, hash } of users) held.set(userId, hash);
    cursor = changes.at(-1)?.cursor ?? cursor;
    return changes.length;
  };
  const reader = await startReader(
    url,
    async (client) => {
      await readOnce(client);
    },
    10,
  );
  return {
    held,
    reader,
    async finish() {
      await reader.stop();
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      try {
        while ((await readOnce(client)) > 0) continue;
      } finally {
        await client.end();
      }
    },
  };
}
