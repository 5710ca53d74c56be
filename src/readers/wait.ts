import { sql, type SQL } from 'drizzle-orm';
import { setTimeout as sleep } from 'node:timers/promises';

import { onAbort } from '../abort.ts';
import { asInstant, rows, textArray, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/*
 * In: who waits for which user, as of when. Out: what the mirror holds, once it holds it. One query asks for all
 * who wait, however many: nobody's waiting costs a connection, or a statement of its own.
 */

/** What the mirror has seen of a user. */
export interface Seen {
  readonly userId: string;
  readonly observedAt: Instant;
  /** Known to be right as of then: at or after the instant that was waited for. */
  readonly asOf: Instant;
  /** Whether what was seen is that the user is gone. */
  readonly deleted: boolean;
}

/**
 * Waits until the mirror holds the user as of `since` (ISO 8601, up to microseconds) or later. Null where
 * it is aborted first, `full` at once where as many wait as may.
 * @throws what reading the mirror throws: whoever waits then is told, and asks again
 */
export type WaitForUser = (
  userId: string,
  since: string,
  whileAsked: AbortSignal,
) => Promise<Seen | 'full' | null>;

/** Short beside the 100 ms that may lie between a commit and the answer, cheap on a primary key. */
const EVERY_MS = 25;
/** Watermarks move once a minute, and asking for what they prove of a user costs more. */
const PROOF_EVERY_MS = 1_000;
/** Keeps the query's size, and the sockets of those who wait, within bounds. */
const MOST_WAITING = 1_000;

interface Waiter {
  readonly userId: string;
  readonly since: string;
  settle(seen: Seen | null): void;
  fail(error: unknown): void;
}

/** Waits for all of this process, until `signal` aborts. It asks nothing while nobody waits. */
export function createWaitForUser(
  mirror: Pick<Mirror, 'db' | 't' | 'schema'>,
  signal: AbortSignal,
  mostWaiting = MOST_WAITING,
): WaitForUser {
  const waiting = new Set<Waiter>();
  onAbort(signal, () => {
    for (const waiter of waiting) waiter.settle(null);
  });
  let isLooking = false;
  const look = async () => {
    isLooking = true;
    try {
      await lookWhileAny(mirror, waiting);
    } catch (error) {
      for (const waiter of waiting) waiter.fail(error);
    } finally {
      isLooking = false;
    }
  };
  return (userId, since, whileAsked) => {
    if (signal.aborted || whileAsked.aborted) return Promise.resolve(null);
    if (waiting.size >= mostWaiting) return Promise.resolve('full');
    return new Promise((resolve, reject) => {
      const done = () => {
        waiting.delete(waiter);
        ignore();
      };
      const waiter: Waiter = {
        userId,
        since,
        settle(seen) {
          done();
          resolve(seen);
        },
        fail(error) {
          done();
          reject(error instanceof Error ? error : new Error(String(error)));
        },
      };
      waiting.add(waiter);
      const ignore = onAbort(whileAsked, () => {
        waiter.settle(null);
      });
      if (!isLooking) void look();
    });
  };
}

/**
 * One query of a kind at a time: a slow Postgres is asked less often, not by more at once. The dear kind runs
 * beside the other: a row that was just written is not to wait for the proofs of others.
 */
async function lookWhileAny(
  mirror: Pick<Mirror, 'db' | 't' | 'schema'>,
  waiting: ReadonlySet<Waiter>,
): Promise<void> {
  let provenAtMs = -Infinity;
  let proving: Promise<void> | null = null;
  const failures: unknown[] = [];
  const prove = async () => {
    try {
      settleAll(await findProven(mirror, [...waiting]));
    } catch (error) {
      failures.push(error);
    }
    proving = null;
  };
  for (;;) {
    settleAll(await findObserved(mirror, [...waiting]));
    if (waiting.size === 0) return;
    if (performance.now() - provenAtMs >= PROOF_EVERY_MS) {
      provenAtMs = performance.now();
      proving ??= prove();
    }
    await sleep(EVERY_MS);
    if (failures.length > 0) throw failures[0];
  }
}

type Found = readonly (readonly [waiter: Waiter | undefined, seen: Seen])[];

function settleAll(found: Found): void {
  for (const [waiter, seen] of found) waiter?.settle(seen);
}

interface FoundRow extends Seen {
  readonly place: number;
}

function toFound(asked: readonly Waiter[], found: readonly FoundRow[]): Found {
  return found.map(({ place, ...seen }) => [asked[place - 1], seen]);
}

function askedFor(asked: readonly Waiter[]): SQL {
  return sql`unnest(${textArray(asked.map(({ userId }) => userId))},
                    ${sql.param(asked.map(({ since }) => since))}::timestamptz[])
             with ordinality as asked(user_id, since, place)`;
}

/** Those whose row was looked at since. */
async function findObserved(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  asked: readonly Waiter[],
): Promise<Found> {
  const found = await rows<FoundRow>(
    db,
    sql`select asked.place::int, u.user_id as "userId", u.deleted_at is not null as deleted,
               ${asInstant(sql`u.observed_at`)} as "observedAt", ${asInstant(sql`u.observed_at`)} as "asOf"
        from ${askedFor(asked)} join ${t.users} u on u.user_id = asked.user_id
        where u.observed_at >= asked.since`,
  );
  return toFound(asked, found);
}

/** Those of whom the watermarks prove that the row, looked at before, was still right. */
async function findProven(
  { db, t, schema }: Pick<Mirror, 'db' | 't' | 'schema'>,
  asked: readonly Waiter[],
): Promise<Found> {
  const found = await rows<FoundRow>(
    db,
    sql`select asked.place::int, asked.user_id as "userId", f.deleted,
               ${asInstant(sql`f.observed_at`)} as "observedAt", ${asInstant(sql`f.as_of`)} as "asOf"
        from ${askedFor(asked)}
          cross join lateral ${sql.identifier(schema)}.user_freshness(asked.user_id) as f
        where asked.since <= (select max(complete_to) from ${t.watermarks})
          and f.observed_at is not null and f.as_of >= asked.since`,
  );
  return toFound(asked, found);
}

/** Why the mirror does not hold a user as of an instant. */
export interface NotSeen {
  /** In one line, for people. */
  readonly reason: string;
  /** Null: the mirror knows no such user. */
  readonly observedAt: Instant | null;
  readonly asOf: Instant | null;
  readonly pendingEvents: number;
  readonly parkedEvents: number;
  /** suspected | verified | held; null where there is none. */
  readonly openDeletion: string | null;
}

/** Looks once: whether the mirror holds the user as of an instant, or what stands between. */
export async function lookNow(
  { db, schema }: Pick<Mirror, 'db' | 'schema'>,
  userId: string,
  since: string,
): Promise<Seen | NotSeen> {
  const [look] = await rows<NotSeen & { seen: boolean; deleted: boolean }>(
    db,
    sql`select seen, deleted, reason,
               ${asInstant(sql`observed_at`)} as "observedAt", ${asInstant(sql`as_of`)} as "asOf",
               pending_events::int as "pendingEvents", parked_events::int as "parkedEvents",
               open_deletion as "openDeletion"
        from ${sql.identifier(schema)}.wait_for(${userId}, ${since}::timestamptz, 0)`,
  );
  if (!look) throw new Error('wait_for() told nothing');
  const { seen, deleted, ...why } = look;
  const { observedAt, asOf } = why;
  if (seen && observedAt !== null && asOf !== null) return { userId, observedAt, asOf, deleted };
  return why;
}
