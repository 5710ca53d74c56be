import { orStop } from '../abort.ts';
import { Stopping } from '../errors.ts';
import { applyLearnt, loadLearnt } from './learnt.ts';

import type { Mirror } from '../mirror/database.ts';
import type { Call, TimeField } from './types.ts';

/** What the time filters of the user search count since 1970. */
export type TimeUnit = 'ms' | 's';

export interface TimeUnitDeps {
  readonly mirror: Pick<Mirror, 'db' | 't'>;
  /** `DESCOPE_TIME_UNIT`: anything but `auto` is believed and never probed. */
  readonly setting: 'auto' | TimeUnit;
  /** How many users a search with this one bound reports. */
  readonly count: (bound: TimeBound, call: Call) => Promise<number>;
}

/** One bound of a user search as it goes on the wire. */
export interface TimeBound {
  readonly field: TimeField;
  readonly side: 'from' | 'to';
  readonly value: number;
}

const DAY_S = 86_400;

/**
 * Finds out which unit the time filters take: every SDK says milliseconds, one page of the
 * documentation says seconds, and a wrong guess fails silently.
 *
 * The probe is *tomorrow, in seconds*: read as milliseconds it is a day of January 1970. Users from
 * then on: everyone where milliseconds are meant, nobody where seconds are. Users until then: the
 * other way round. Both verdicts so take a positive answer, which no fault gives by accident; a day's
 * margin forgives the clocks. What is found is remembered for all processes. Where there is nobody to
 * count it stays open: milliseconds until the next time.
 */
export function createTimeUnit(
  deps: TimeUnitDeps,
): (field: TimeField, call: Call) => Promise<TimeUnit> {
  let known: TimeUnit | undefined = deps.setting === 'auto' ? undefined : deps.setting;
  let inFlight: Promise<TimeUnit> | undefined;

  async function find(field: TimeField, call: Call): Promise<TimeUnit> {
    const learnt = await loadLearnt(deps.mirror, 'timeUnit');
    if (learnt === 'ms' || learnt === 's') return (known = learnt);
    const found = await probeTimeUnit(deps.count, call, field);
    if (found === undefined) return 'ms';
    await applyLearnt(deps.mirror, 'timeUnit', found);
    return (known = found);
  }

  return async (field, call) => {
    while (known === undefined) {
      inFlight ??= find(field, call).finally(() => {
        inFlight = undefined;
      });
      try {
        return await orStop(inFlight, call.signal);
      } catch (error) {
        // Whoever began the probe may stop without us: then it is ours to begin.
        if (!(error instanceof Stopping) || call.signal.aborted) throw error;
      }
    }
    return known;
  };
}

/** The probe itself: one request, two where it is not milliseconds. Undefined where nobody can be counted. */
export async function probeTimeUnit(
  count: TimeUnitDeps['count'],
  call: Call,
  field: TimeField = 'createdTime',
): Promise<TimeUnit | undefined> {
  const value = Math.floor(Date.now() / 1000) + DAY_S;
  if ((await count({ field, side: 'from', value }, call)) > 0) return 'ms';
  if ((await count({ field, side: 'to', value }, call)) > 0) return 's';
  return undefined;
}

/**
 * The bounds to ask for so that everything from `fromMs` to `toMs` comes, whether Descope's bounds
 * include their own instant or not: one unit more on each side. A lower bound at or before 1970 is
 * left out, for 0 means "not set" on the wire.
 */
export function toBounds(
  unit: TimeUnit,
  fromMs: number | undefined,
  toMs: number | undefined,
): { readonly from?: number; readonly to?: number } {
  const unitMs = unit === 'ms' ? 1 : 1000;
  const from = fromMs === undefined ? 0 : Math.floor(fromMs / unitMs) - 1;
  return {
    ...(from > 0 ? { from } : {}),
    ...(toMs === undefined ? {} : { to: Math.ceil(toMs / unitMs) + 1 }),
  };
}
