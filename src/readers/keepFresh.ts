import { setTimeout as delay } from 'node:timers/promises';

/*
 * In: a reading that is dear. Out: the same, read once for all who ask, and again when it has grown old.
 */

export interface RefreshTiming {
  /** A monotonic clock. */
  readonly nowMs?: () => number;
  /** So long is waited for a newer value where there is an older one. */
  readonly patienceMs?: number;
}

/**
 * With millions of users a count takes a second of Postgres, and pages and scrapers ask all the time. A value is
 * told for ten times as long as reading it took, so that Postgres is busy with it a tenth of the time at most,
 * and what is cheap is never old.
 */
const TIMES_ITS_COST = 10;
const OLDEST_FRESH_MS = 15_000;
const PATIENCE_MS = 100;
/** Older than that is not told any more, however long the next one takes. */
const OLDEST_MS = 5 * 60_000;

interface Aged<T> {
  readonly value: T;
  /** How long ago its reading began. */
  readonly ageMs: number;
}

/**
 * Shares one reading among all who ask while it is under way or soon after it (15 s at most). Who asks
 * later waits a moment for the next one, then takes the one before: an answer comes at once.
 */
export function keepFresh<T>(
  read: () => Promise<T>,
  { nowMs = () => performance.now(), patienceMs = PATIENCE_MS }: RefreshTiming = {},
): () => Promise<Aged<T>> {
  interface Reading {
    readonly startedMs: number;
    readonly tookMs: number;
    readonly value: T;
  }
  let known: Reading | undefined;
  let underWay: Promise<Reading> | undefined;

  function begin(): Promise<Reading> {
    const startedMs = nowMs();
    const mine = read().then((value) => {
      known = { startedMs, tookMs: nowMs() - startedMs, value };
      return known;
    });
    underWay = mine;
    const end = () => {
      underWay = undefined;
    };
    // A failure is told to those who waited for it, and kept for nobody else.
    mine.then(end, end);
    return mine;
  }

  return async () => {
    const ageOf = (reading: Reading) => nowMs() - reading.startedMs;
    const last = known;
    const freshMs = Math.min(OLDEST_FRESH_MS, TIMES_ITS_COST * (last?.tookMs ?? 0));
    let told: Reading;
    if (last && !underWay && ageOf(last) < freshMs) told = last;
    else {
      const next = underWay ?? begin();
      told = last && ageOf(last) < OLDEST_MS ? await soon(next, patienceMs, last) : await next;
    }
    return { value: told.value, ageMs: ageOf(told) };
  };
}

/** What comes within so long, else what there is. */
async function soon<T>(next: Promise<T>, patienceMs: number, last: T): Promise<T> {
  const enough = new AbortController();
  const patience = delay(patienceMs, last, { signal: enough.signal }).catch(() => last);
  try {
    return await Promise.race([next, patience]);
  } finally {
    enough.abort();
  }
}
