import { findCode } from '../errors.ts';
import { read, type Reader } from './reader.ts';
import { createWaker, type Listener } from './wake.ts';

/* The feed, for applications: every change once and in order, from a cursor of theirs or one that we keep. */

/** One row of the feed. */
export interface Change {
  /** To go on from: store it once the change is dealt with. */
  readonly cursor: string;
  readonly userId: string;
  readonly kind: 'created' | 'updated' | 'deleted' | 'restored';
  /** Names of the fields that changed, as Descope's API has them; empty unless `updated`. */
  readonly changed: readonly string[];
  readonly observedAt: Date;
  readonly witness: string;
}

export interface ChangesOptions {
  /** The cursor of the last change dealt with; null or absent: from the beginning. */
  readonly after?: string | null;
  /**
   * In place of `after`: Rollcall keeps the cursor under this name. A change is confirmed once the loop asks
   * for the next one, at the end of a batch or a second after the last time; what was not comes again.
   */
  readonly consumer?: string;
  /** Ends the iteration. Without it the iteration ends once there is nothing more to read. */
  readonly follow?: AbortSignal;
  /** How long to wait before asking again when following, in ms; 1 s where absent, 30 s with `listener`. */
  readonly everyMs?: number;
  /** Asks again at once when this is notified that the feed has grown (`FEED_NOTIFY=true`). */
  readonly listener?: Listener;
  /** Rows a statement; 1,000 where absent. */
  readonly batch?: number;
}

/** Confirming costs a commit: that is not for every change of a fast reader. */
const CONFIRM_EVERY_MS = 1_000;

/** What Postgres answers where the changes after a cursor were pruned. */
/** Pruned, and of another history of the database. */
const LEADS_NOWHERE = new Set(['RC001', 'RC002']);

/** Where an iteration is in the feed. */
interface Place {
  read(most: number): Promise<Change[]>;
  /** Told of each change that was dealt with. */
  pass(cursor: string): Promise<void>;
  /** Everything that was passed need not come again. */
  settle(): Promise<void>;
}

/**
 * The feed: every change once, a user's own in their order, however late a transaction was committed.
 * Deal with a change, then store its cursor, or let it be kept for you: what was not stored comes again.
 * @throws Postgres' error where the cursor leads nowhere (see `needsSnapshot`)
 */
export async function* changes(
  reader: Reader,
  options: ChangesOptions = {},
): AsyncGenerator<Change, void, undefined> {
  const { follow, listener, batch = 1_000 } = options;
  const everyMs = options.everyMs ?? (listener ? 30_000 : 1_000);
  const place = toPlace(reader, options);
  const waker = await createWaker(listener, reader.schema);
  try {
    while (follow?.aborted !== true) {
      const found = await place.read(batch);
      for (const change of found) {
        yield change;
        await place.pass(change.cursor);
      }
      await place.settle();
      if (found.length === batch) continue;
      if (!follow) return;
      await waker.wait(everyMs, follow);
    }
  } finally {
    waker.stop();
    // Where the loop was left, the change it was left at is not passed.
    await place.settle();
  }
}

/** The cursor to begin from after a snapshot of all users: ask for it first, then read them. */
export async function feedHead(reader: Reader): Promise<string> {
  const [row] = await read<{ head: string }>(
    reader,
    (schema) => `select ${schema}.feed_head() as head`,
    [],
  );
  if (!row) throw new Error('the feed did not tell its head');
  return row.head;
}

/**
 * Notes that a consumer has dealt with everything up to a cursor, its snapshot included; returns the cursor
 * that is kept, which never moves back.
 */
export async function confirmChanges(
  reader: Reader,
  consumer: string,
  cursor: string,
): Promise<string> {
  const [row] = await read<{ kept: string }>(
    reader,
    (schema) => `select ${schema}.confirm_changes($1, $2) as kept`,
    [consumer, cursor],
  );
  if (!row) throw new Error('the cursor was not kept');
  return row.kept;
}

/**
 * Whether an error says that the cursor leads nowhere, as changes after it were pruned or the database was
 * restored: take `feedHead()`, then a snapshot, and forget whoever is not in it.
 */
export function needsSnapshot(error: unknown): boolean {
  return LEADS_NOWHERE.has(findCode(error) ?? '');
}

function toPlace(reader: Reader, { after = null, consumer }: ChangesOptions): Place {
  if (consumer === undefined) return placeOf(reader, after);
  if (after !== null) throw new TypeError('changes() takes a cursor or a consumer, not both');
  return keptPlaceOf(reader, consumer);
}

const COLUMNS = 'cursor, user_id as "userId", kind, changed, observed_at as "observedAt", witness';

function placeOf(reader: Reader, from: string | null): Place {
  let after = from;
  return {
    read: (most) =>
      read<Change>(reader, (schema) => `select ${COLUMNS} from ${schema}.changes_since($1, $2)`, [
        after,
        most,
      ]),
    pass(cursor) {
      after = cursor;
      return Promise.resolve();
    },
    settle: () => Promise.resolve(),
  };
}

function keptPlaceOf(reader: Reader, consumer: string): Place {
  let passed: string | null = null;
  let settledAtMs = performance.now();
  const settle = async () => {
    settledAtMs = performance.now();
    if (passed === null) return;
    await confirmChanges(reader, consumer, passed);
    passed = null;
  };
  return {
    read: (most) =>
      read<Change>(reader, (schema) => `select ${COLUMNS} from ${schema}.read_changes($1, $2)`, [
        consumer,
        most,
      ]),
    async pass(cursor) {
      passed = cursor;
      if (performance.now() - settledAtMs >= CONFIRM_EVERY_MS) await settle();
    },
    settle,
  };
}
