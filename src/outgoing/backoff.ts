/** So often a delivery is tried, over about a day. */
export const MOST_ATTEMPTS = 14;

const FIRST_MS = 5_000;
const FACTOR = 3;
const MOST_MS = 4 * 3_600_000;

/**
 * How long to wait after the nth failure, in ms: 5 s, 15 s, 45 s and so on to 4 hours, a tenth more or less,
 * so that those that failed together do not all come back together. `random` is from 0 to 1.
 */
export function backoffMs(attempts: number, random: () => number = Math.random): number {
  const steady = Math.min(FIRST_MS * FACTOR ** (attempts - 1), MOST_MS);
  return Math.round(steady * (0.9 + 0.2 * random()));
}
