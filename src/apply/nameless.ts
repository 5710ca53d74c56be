import { sql } from 'drizzle-orm';

import { rows, type Executor } from '../mirror/database.ts';
import { hintOf, type Judged } from './hints.ts';

import type { EventDeps } from './events.ts';

/*
 * Events that name nobody. In: what was judged of a flight. Out: a window or a sweep opened for those
 * without any id, in the flight's own transaction, and when to come back to those that have to wait.
 */

/** By then every replica at the provider has heard of a deletion that an event told at once. */
const SETTLED_MS = 2_000;
/** A sweep takes seconds to hours; what waits for its end asks this often. */
const SWEEP_AGAIN_MS = 2_000;

/** Opens what events without a name ask for. Deletions wait for the end of a sweep that is under way. */
export async function openWhatNamesNobody(
  deps: EventDeps,
  tx: Executor,
  judged: readonly Judged[],
): Promise<{ judged: readonly Judged[]; opened: boolean }> {
  const lost = judged.filter(
    ({ event }) => event.userIds.length === 0 && event.loginIds.length === 0,
  );
  const deletes = lost.filter(({ event }) => hintOf(event.action) === 'deleted');
  const others = lost.filter((j) => !deletes.includes(j));
  // A sweep now could still be shown these users, by a replica that lags behind the event.
  const young = new Set(deletes.filter(({ event }) => event.looks === 0 && !event.isLate));
  const ripe = new Set(deletes.filter((j) => !young.has(j)));
  // The one under way may have read past these users before they were deleted: another has to follow.
  const mustWait = ripe.size > 0 && (await isSweeping(deps, tx));
  const opensSweep = ripe.size > 0 && !mustWait;
  if (opensSweep) await deps.openSweep(tx, 'users deleted, the event does not say which');
  for (const moment of new Set(others.map(({ event }) => event.occurredAt.slice(0, 16)))) {
    // One window a minute of such events, whatever their number.
    await deps.openWindow(tx, Date.parse(`${moment}:30Z`));
  }
  const wait = (j: Judged): Judged => {
    if (young.has(j)) {
      return { ...j, againMs: SETTLED_MS, outcome: 'names nobody: waiting before a sweep' };
    }
    if (!mustWait || !ripe.has(j)) return j;
    return {
      ...j,
      againMs: SWEEP_AGAIN_MS,
      outcome: 'names nobody: waiting for the end of a sweep',
    };
  };
  return { judged: judged.map(wait), opened: others.length > 0 || opensSweep };
}

async function isSweeping({ mirror }: EventDeps, tx: Executor): Promise<boolean> {
  const open = await rows(
    tx,
    sql`select 1 from ${mirror.t.syncRuns} where pull = 'sweep' and outcome is null limit 1`,
  );
  return open.length > 0;
}
