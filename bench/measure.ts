/*
 * Numbers and their words.
 */

/** Several turns of one measurement. */
export interface Turns {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** @throws RangeError where there is none */
export function turnsOf(values: readonly number[]): Turns {
  const sorted = values.toSorted((a, b) => a - b);
  return { median: quantile(sorted, 0.5), min: quantile(sorted, 0), max: quantile(sorted, 1) };
}

/** The value below which `share` of a sorted list lies; between two values, in between. */
export function quantile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) throw new RangeError('nothing was measured');
  const at = (sorted.length - 1) * share;
  const low = sorted[Math.floor(at)] ?? 0;
  const high = sorted[Math.ceil(at)] ?? low;
  return low + (high - low) * (at - Math.floor(at));
}

/** `12,345`, `1,234`, `98.7`, `0.52`: three digits that mean something. */
export function show(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString('en-US', {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** A count, whole. */
export function showCount(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** The median, and the range where turns differ. */
export function showTurns(values: readonly number[], toText = show): string {
  const { median, min, max } = turnsOf(values);
  const range = min === max ? '' : ` (${toText(min)} to ${toText(max)})`;
  return `${toText(median)}${range}`;
}

export function showMegabytes(bytes: number): string {
  return show(bytes / 1024 / 1024);
}

/** One median over another. */
export function ratioOf(ours: readonly number[], theirs: readonly number[]): number {
  return turnsOf(ours).median / turnsOf(theirs).median;
}
