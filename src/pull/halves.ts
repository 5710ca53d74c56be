import { floorSecond } from './judge.ts';

/** Nothing is cut smaller than this: the precision of the times that come back. */
export const SECOND = 1000;

/**
 * Where the younger half of a closed range (epoch ms) begins: at a second's start, so that both halves
 * are shorter; null where the range lies within one second. Pure.
 */
export function middleOf(fromMs: number, toMs: number): number | null {
  const last = floorSecond(toMs);
  if (last <= floorSecond(fromMs)) return null;
  return Math.min(floorSecond((fromMs + toMs) / 2) + SECOND, last);
}

/** The younger half first: a stack pops the older one next. */
export function halvesAt<R extends object>(range: R, middle: number): [R, R] {
  return [
    { ...range, fromMs: middle },
    { ...range, toMs: middle - 1 },
  ];
}
