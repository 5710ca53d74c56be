import { sql, type SQL } from 'drizzle-orm';

import { applyObservations, isUnchanged } from '../apply/apply.ts';
import { emptySummary, type ApplySummary } from '../apply/batch.ts';
import { nominateMissing } from '../apply/deletions.ts';
import { LOAD_LIMIT, lookUp } from '../apply/lookUp.ts';
import { Stopping, WindowUnproven } from '../errors.ts';
import { rows, textArray, transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { ahead } from './ahead.ts';
import { countWithin } from './countWithin.ts';
import { advanceWindow, loadWindow, readOrLeaveGap, type Window } from './ledger.ts';
import { advanceWatermark } from './watermark.ts';
import { sourceNowMs } from './sourceClock.ts';
import { readRange, type ProvenStep, type Range } from './readRange.ts';

import type { Call, DescopeClient } from '../descope/types.ts';
import type { Present } from '../observation.ts';

/*
 * In: the id of a window in the ledger. Out: its users in the mirror and the window proven, or a gap
 * with its reason. A step's rows and its progress are one transaction, so a killed process repeats a
 * step at most. Two readers of one window do no harm: the one whose step comes second stops.
 */

export interface PullDeps {
  readonly mirror: Mirror;
  /** The patient client: it has done what asking again can do. */
  readonly client: DescopeClient;
  readonly pageSize: number;
  readonly includeTestUsers: boolean;
  /** Of a pull: the newest this much is not counted as proven, it may still be settling. */
  readonly settleMs?: number;
  /**
   * Of a pull: a tombstone younger than this is not lifted, page and load may be of the same lagging copy.
   * The window waits for one of them to give way.
   */
  readonly doubtMs?: number;
  /** Told of each step as it is committed. */
  readonly onStep?: (step: { pull: Window['pull']; rows: number; summary: ApplySummary }) => void;
}

/**
 * Windows read at once; more would only crowd the budget. A kill costs each of them up to seven pages (see
 * `ahead`), so that all together stay below one window's.
 */
export const SIDE_BY_SIDE = 7;

/** Reads windows side by side, in their order. @throws what reading one does; the others then go on */
export async function readWindows(
  deps: PullDeps,
  windowIds: readonly number[],
  signal: AbortSignal,
): Promise<void> {
  const todo = [...windowIds];
  const reader = async (): Promise<void> => {
    for (let windowId = todo.shift(); windowId !== undefined; windowId = todo.shift()) {
      await readWindow(deps, windowId, signal);
    }
  };
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, reader));
}

/**
 * Reads a window from where its cursor stands to its end.
 * @throws the client's errors, WindowUnproven, Stopping; the window is then a gap, or open
 */
export async function readWindow(
  deps: PullDeps,
  windowId: number,
  signal: AbortSignal,
): Promise<'proven' | 'left'> {
  const window = await loadWindow(deps.mirror.db, deps.mirror, windowId);
  if (!window || window.state === 'proven') return 'left';
  return readOrLeaveGap(deps.mirror, windowId, () => readSteps(deps, window, signal));
}

/** A sweep's windows and a rebuild's are of everyone, by when they were created. */
function isOfEveryone({ pull }: Window): boolean {
  return pull === 'sweep' || pull === 'rebuild';
}

async function readSteps(deps: PullDeps, window: Window, signal: AbortSignal): Promise<void> {
  const isSweep = isOfEveryone(window);
  const call: Call = { priority: isSweep ? 'sweep' : 'pull', signal };
  const range: Range = {
    field: isSweep ? 'createdTime' : 'modifiedTime',
    fromMs: window.cursorMs ?? window.fromMs,
    ...(window.toMs === null ? {} : { toMs: window.toMs }),
  };
  let requests = 0;
  const counting = {
    searchUsers: (...args: Parameters<DescopeClient['searchUsers']>) => {
      requests++;
      return deps.client.searchUsers(...args);
    },
  };
  const reading = readRange({ client: counting, pageSize: deps.pageSize }, range, call);
  // An event's window may end in the future: what is not yet over is not proven by reading it now.
  const provenToMs =
    isSweep || window.toMs === null
      ? null
      : Math.min(
          window.toMs,
          (await sourceNowMs(deps.mirror, deps.client, call)) - (deps.settleMs ?? 0),
        );
  let at = window;
  let isQuiet = isSweep;
  // Where there is nothing to write, nobody waits for it to be written.
  for await (const step of ahead(reading, () => isQuiet)) {
    const spent = requests;
    requests = 0;
    const summary = await commitStep(
      deps,
      at,
      step,
      { requests: spent, provenToMs, isQuiet },
      call,
    );
    isQuiet = isSweep && summary.unchanged === step.observations.length;
    deps.onStep?.({ pull: window.pull, rows: step.observations.length, summary });
    at = { ...at, cursorMs: step.untilMs };
    if (signal.aborted && step.untilMs !== null) throw new Stopping();
  }
}

/** What a step has cost and, where it ends its window, what it proves. */
interface Progress {
  readonly requests: number;
  /** Of the modified pull: up to where (epoch ms) the window counts as proven. */
  readonly provenToMs: number | null;
  /** Of a sweep: the step before had nothing to write, so this one is likely to have nothing either. */
  readonly isQuiet: boolean;
}

/** A page shows users who have a tombstone: the step is rolled back until a load by id has told. */
class ShowsTombstones extends Error {
  readonly userIds: readonly string[];

  constructor(userIds: readonly string[]) {
    super('a page shows users who have a tombstone');
    this.userIds = userIds;
  }
}

async function commitStep(
  deps: PullDeps,
  window: Window,
  step: ProvenStep,
  progress: Progress,
  call: Call,
): Promise<ApplySummary> {
  const { mirror } = deps;
  try {
    // One statement proves what is as it was; a transaction takes six.
    if (progress.isQuiet) {
      const summary = { ...emptySummary(), unchanged: step.observations.length };
      const onlyIf = isUnchanged(mirror.t, step.observations);
      if (await proveStep(mirror.db, deps, window, step, { ...progress, onlyIf }, summary)) {
        return summary;
      }
    }
    return await writeStep(deps, window, step, progress, null);
  } catch (error) {
    if (!(error instanceof ShowsTombstones)) throw error;
    const reviewed = await review(deps, error.userIds, call);
    return writeStep(deps, window, step, progress, reviewed);
  }
}

/**
 * Writes a step's rows and its progress in one transaction.
 * @param reviewed users with a tombstone whom a load by id has shown since; null before one has looked
 * @throws ShowsTombstones, and what `advanceWindow` throws; nothing is written then
 */
function writeStep(
  deps: PullDeps,
  window: Window,
  step: ProvenStep,
  progress: Progress,
  reviewed: readonly Present[] | null,
): Promise<ApplySummary> {
  const { mirror } = deps;
  const witness = isOfEveryone(window) ? 'sweep' : 'modified';
  return transaction(mirror, async (tx) => {
    const written = await applyObservations(tx, mirror.t, step.observations, witness);
    if (reviewed === null && written.refused.length > 0) throw new ShowsTombstones(written.refused);
    const { restored } = await applyObservations(tx, mirror.t, reviewed ?? [], 'manual');
    await proveStep(tx, deps, window, step, progress, { ...written, restored });
    return written;
  });
}

/**
 * Moves the window on over a step, and with it what the step proves: who is missing, the watermark.
 * Returns whether it did: not where `onlyIf` is false.
 */
async function proveStep(
  tx: Executor,
  deps: PullDeps,
  window: Window,
  step: ProvenStep,
  { requests, provenToMs, onlyIf }: Progress & { readonly onlyIf?: SQL },
  written: ApplySummary,
): Promise<boolean> {
  const { mirror } = deps;
  // The last step ends where its window does, which need not be now.
  const endMs = window.toMs === null ? null : window.toMs + 1;
  const stretch = { ...step, untilMs: step.untilMs ?? endMs };
  // Whom a rebuild has not read is found when all of it is.
  const proof =
    window.pull === 'sweep'
      ? nominateMissing(mirror, {
          runId: window.runId,
          fromMs: step.fromMs,
          untilMs: stretch.untilMs,
          seen: [...step.seen.keys()],
          observedAt: step.observedAt,
          includeTestUsers: deps.includeTestUsers,
        })
      : undefined;
  const counts = {
    rowsRead: isOfEveryone(window) ? countWithin(stretch) : step.observations.length,
    total: step.total,
    requests,
    created: written.created.length,
    updated: written.updated.length + written.restored.length,
  };
  const moved = await advanceWindow(tx, mirror, window, step.untilMs, counts, { proof, onlyIf });
  if (moved && step.untilMs === null && provenToMs !== null) {
    const range = { fromMs: window.fromMs, toMs: provenToMs };
    await advanceWatermark(tx, mirror, 'modified', range);
  }
  return moved;
}

/**
 * Of users with a tombstone, those whom a load by id shows.
 * @throws WindowUnproven where it shows one whose tombstone is too young to be doubted
 */
async function review(
  { client, mirror, doubtMs = 0 }: PullDeps,
  userIds: readonly string[],
  call: Call,
): Promise<Present[]> {
  const shown: Present[] = [];
  for (let at = 0; at < userIds.length; at += LOAD_LIMIT) {
    const { present } = await lookUp(client, userIds.slice(at, at + LOAD_LIMIT), () => true, call);
    shown.push(...present);
  }
  const young = await rows(
    mirror.db,
    sql`select 1 from ${mirror.t.users}
        where user_id = any(${textArray(shown.map((o) => o.userId))})
          and deleted_at > clock_timestamp() - make_interval(secs => ${doubtMs / 1000})`,
  );
  if (young.length > 0) {
    throw new WindowUnproven(`${young.length} users deleted a moment ago are shown`);
  }
  return shown;
}
