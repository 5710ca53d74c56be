import { oneEach } from '../apply/apply.ts';

import type { ProvenStep } from './readRange.ts';

/*
 * In: the steps of a window, one after the other. Out: the same, those that were read while others were
 * being written joined into one. So reading and writing overlap, and where writing is the slower of the
 * two, a transaction takes several pages.
 */

/** A kill costs a window those being written and those read meanwhile: twice this many pages. */
const MOST_STEPS = 3;
/** Whatever the size of a page: what waits is held in memory. */
const MOST_ROWS = 1_000;

/**
 * Reads on while the caller writes. The first step is given alone, and before the next is asked for: where
 * another reads the same window, writing it fails, and one search was enough to learn that.
 * @param isPatient whether as many steps as may be joined are waited for, though nobody is writing
 * @throws what `source` throws, once everything read before has been given
 */
export async function* ahead(
  source: AsyncGenerator<ProvenStep, void>,
  isPatient: () => boolean,
): AsyncGenerator<ProvenStep, void> {
  const first = await source.next();
  if (first.done) return;
  yield first.value;
  let reading = readOn(source);
  try {
    for (;;) {
      if (!isPatient()) reading.finish();
      const { steps, end } = await reading.read;
      if (!end) reading = readOn(source);
      const joined = joinSteps(steps);
      if (joined) yield joined;
      if (end) {
        end();
        return;
      }
    }
  } finally {
    // Whoever stops writing wants nothing more read.
    reading.finish();
  }
}

/** Steps read, and where there are no more, what ends them: nothing, or a throw. */
interface Read {
  readonly steps: readonly ProvenStep[];
  readonly end?: () => void;
}

/** Reads until it has enough, or is told to finish: then with the step under way. */
function readOn(source: AsyncGenerator<ProvenStep, void>): {
  readonly read: Promise<Read>;
  finish(): void;
} {
  let isWanted = false;
  const read = async (): Promise<Read> => {
    const steps: ProvenStep[] = [];
    let rows = 0;
    try {
      do {
        const { value, done } = await source.next();
        if (done) return { steps, end: () => undefined };
        steps.push(value);
        rows += value.observations.length;
      } while (!isWanted && steps.length < MOST_STEPS && rows < MOST_ROWS);
      return { steps };
    } catch (error) {
      const end = () => {
        throw error;
      };
      return { steps, end };
    }
  };
  return {
    read: read(),
    finish() {
      isWanted = true;
    },
  };
}

/** Steps that follow each other as one; of a user whom several show, the later observation. Pure. */
export function joinSteps(steps: readonly ProvenStep[]): ProvenStep | undefined {
  const [first] = steps;
  const last = steps.at(-1);
  if (!first || !last || first === last) return first;
  return {
    // The oldest look, the first stretch's total: it counts up to the end of the range.
    ...first,
    untilMs: last.untilMs,
    observations: oneEach(steps.flatMap((step) => step.observations)),
    seen: new Map(steps.flatMap((step) => [...step.seen])),
  };
}
