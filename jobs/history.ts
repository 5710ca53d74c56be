import { pruneHistory, recordMinute, rollUpHour } from '../src/history/record.ts';
import { startTicks, type Ticks } from './ticks.ts';

import type { Mirror } from '../src/mirror/database.ts';

/*
 * No job of the queue: where the queue is away, the history shows it. Each process asks for the minute more
 * often than there is one, so none is missed where clocks differ; Postgres has it written once.
 */
const TICK_MS = 15_000;

export interface HistorySettings {
  readonly mirror: Mirror;
  readonly onError: (error: unknown) => void;
}

/** Writes the history's row of the last minute at once, then of each; whoever writes it also tidies up. */
export function startHistory({ mirror, onError }: HistorySettings): Ticks {
  const work = async () => {
    if (!(await recordMinute(mirror))) return;
    await rollUpHour(mirror);
    await pruneHistory(mirror);
  };
  return startTicks({ work, everyMs: TICK_MS, onError });
}
