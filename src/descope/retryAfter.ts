/** Where a 429 does not say how long: the documented penalty of the user endpoints is a minute. */
const DEFAULT_MS = 60_000;
const LEAST_MS = 1_000;
/** A wait beyond this is a mistake of somebody's clock. */
const MOST_MS = 15 * 60_000;

/**
 * How long to be silent after a 429, in ms, from 1 s to 15 min. `Retry-After` is seconds or an HTTP
 * date (RFC 9110 §10.2.3); a date is measured against the answer's own `Date`, so that our clock does
 * not matter. A minute where it is absent or makes no sense.
 */
export function toRetryAfterMs(
  retryAfter: string | null,
  date: string | null,
  nowMs: number,
): number {
  const text = retryAfter?.trim() ?? '';
  const waitMs = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) * 1000 : untilDate(text, date, nowMs);
  if (!Number.isFinite(waitMs)) return DEFAULT_MS;
  return Math.min(Math.max(waitMs, LEAST_MS), MOST_MS);
}

function untilDate(text: string, date: string | null, nowMs: number): number {
  // Only dates with a day's name: Date.parse also takes "-5" for a year.
  if (!/^[A-Za-z]{3,9},? /.test(text)) return NaN;
  const serverNowMs = Date.parse(date ?? '');
  return Date.parse(text) - (Number.isNaN(serverNowMs) ? nowMs : serverNowMs);
}
