import type { ProvenStep } from './readRange.ts';

/**
 * Users of a step of creation times who lie within it: an answer also holds a few from beyond its
 * stretch, who come again in the next one. Pure.
 */
export function countWithin({ seen, fromMs, untilMs }: ProvenStep): number {
  const isWithin = (ms: number | null) =>
    ms === null || (ms >= fromMs && ms < (untilMs ?? Infinity));
  return [...seen.values()].filter(isWithin).length;
}
