import type { ProvenStep } from './readRange.ts';

/**
 * Users of a step of creation times who lie within it: an answer also holds a few from beyond its
 * stretch, who come again in the next one. Pure.
 */
export function countWithin({ observations, fromMs, untilMs }: ProvenStep): number {
  const isWithin = (time: string | null) =>
    time === null || (Date.parse(time) >= fromMs && Date.parse(time) < (untilMs ?? Infinity));
  return observations.filter(({ row }) => isWithin(row.createdTime)).length;
}
