import { sql, type SQL } from 'drizzle-orm';

import { describeError, Stopping } from '../errors.ts';
import { rows, type Executor, type Mirror } from '../mirror/database.ts';

/*
 * The ledger of what has been read (guarantee G5): runs, their windows and the watermarks. Every
 * unit of work is a row here before anybody works on it, so that a flushed queue or a killed process
 * loses nothing; progress moves in the transaction of the rows it stands for.
 */

/** Descope's audit search shows 30 days; a little less, so that the edge does not pass us while we ask. */
export const AUDIT_RETENTION_MS = 30 * 86_400_000 - 600_000;

/** `rebuild` fills tables that nobody reads yet: what it has not read is no gap of the mirror. */
export type Pull = 'modified' | 'audit' | 'sweep' | 'verify' | 'rebuild';
export type Outcome = 'complete' | 'partial' | 'blocked';

/** A window as the ledger holds it; times in epoch ms of Descope's clock. */
export interface Window {
  readonly windowId: number;
  readonly runId: number;
  readonly pull: Pull;
  readonly fromMs: number;
  readonly toMs: number | null;
  /** Everything before it is read and written; null where nothing is yet. */
  readonly cursorMs: number | null;
  readonly state: 'open' | 'proven' | 'gap';
}

export type Db = Pick<Mirror, 't'>;

export const epochMs = (column: string) =>
  sql.raw(`(extract(epoch from ${column}) * 1000)::float8 as "${column}Ms"`);
export const instantOf = (ms: number | null) =>
  ms === null ? sql`null::timestamptz` : sql`to_timestamp(${ms / 1000}::float8)`;

/** Of these there is one run at a time. */
export type OneAtATime = Extract<Pull, 'sweep' | 'rebuild'>;

/** Opens a run of a pull. Of a sweep, or a rebuild, the open one is returned where there is one. */
export async function openRun(
  tx: Executor,
  { t }: Db,
  pull: Pull,
  reason: string,
): Promise<{ runId: number; isNew: boolean }> {
  if (pull === 'sweep' || pull === 'rebuild') {
    // Two processes that start a first sweep at once must end up in the same one.
    const lock = `rollcall ${pull} ${t.schema.schemaName}`;
    await tx.execute(sql`select pg_advisory_xact_lock(hashtextextended(${lock}, 0))`);
    const open = await findOpen(tx, { t }, pull);
    if (open) return { runId: open.runId, isNew: false };
  }
  const [run] = await rows<{ runId: string }>(
    tx,
    sql`insert into ${t.syncRuns} (pull, reason) values (${pull}, ${reason})
        returning run_id as "runId"`,
  );
  return { runId: Number(run?.runId), isNew: true };
}

/** The sweep that has begun and not ended; undefined where there is none. */
export function openSweep(
  db: Executor,
  mirror: Db,
): Promise<{ readonly runId: number } | undefined> {
  return findOpen(db, mirror, 'sweep');
}

/** The run that has begun and not ended; undefined where there is none. */
export async function findOpen(
  db: Executor,
  { t }: Db,
  pull: OneAtATime,
): Promise<{ readonly runId: number } | undefined> {
  const found = await rows<{ runId: number }>(
    db,
    sql`select run_id::float8 as "runId"
        from ${t.syncRuns} where pull = ${pull} and outcome is null order by run_id limit 1`,
  );
  return found[0];
}

/** Whether any sweep has ever read everyone: before that the mirror is still filling. */
export async function hasCompletedSweep(db: Executor, { t }: Db): Promise<boolean> {
  const found = await rows(
    db,
    sql`select 1 from ${t.watermarks} where pull = 'sweep' and complete_to is not null`,
  );
  return found.length > 0;
}

export async function finishRun(
  tx: Executor,
  { t }: Db,
  runId: number,
  outcome: Outcome,
  error: string | null = null,
): Promise<void> {
  await tx.execute(sql`
    update ${t.syncRuns} set outcome = ${outcome}, finished_at = clock_timestamp(), error = ${error}
    where run_id = ${runId} and outcome is null`);
}

/** Adds an open window to a run. */
export async function openWindow(
  tx: Executor,
  { t }: Db,
  window: Pick<Window, 'runId' | 'pull' | 'fromMs' | 'toMs'>,
): Promise<number> {
  const [row] = await rows<{ windowId: string }>(
    tx,
    sql`insert into ${t.syncWindows} (run_id, pull, from_time, to_time)
        values (${window.runId}, ${window.pull}, ${instantOf(window.fromMs)}, ${instantOf(window.toMs)})
        returning window_id as "windowId"`,
  );
  return Number(row?.windowId);
}

export async function loadWindow(
  db: Executor,
  { t }: Db,
  windowId: number,
): Promise<Window | undefined> {
  const [row] = await rows<{
    windowId: number;
    runId: number;
    pull: Pull;
    state: Window['state'];
    from_timeMs: number;
    to_timeMs: number | null;
    cursor_timeMs: number | null;
  }>(
    db,
    sql`select window_id::float8 as "windowId", run_id::float8 as "runId", pull, state,
               ${epochMs('from_time')}, ${epochMs('to_time')}, ${epochMs('cursor_time')}
        from ${t.syncWindows} where window_id = ${windowId}`,
  );
  if (!row) return undefined;
  return {
    windowId: row.windowId,
    runId: row.runId,
    pull: row.pull,
    state: row.state,
    fromMs: Math.round(row.from_timeMs),
    toMs: row.to_timeMs === null ? null : Math.round(row.to_timeMs),
    cursorMs: row.cursor_timeMs === null ? null : Math.round(row.cursor_timeMs),
  };
}

/** Windows that are not proven, oldest first: of one run, or of one pull. */
export async function unprovenWindows(
  db: Executor,
  { t }: Db,
  of: { readonly runId: number } | { readonly pull: Pull },
): Promise<number[]> {
  const where = 'runId' in of ? sql`run_id = ${of.runId}` : sql`pull = ${of.pull}`;
  const found = await rows<{ windowId: number }>(
    db,
    sql`select window_id::float8 as "windowId" from ${t.syncWindows}
        where state <> 'proven' and ${where} order by from_time, window_id`,
  );
  return found.map((row) => row.windowId);
}

export interface Progress {
  readonly rowsRead: number;
  readonly total: number;
  readonly requests: number;
  readonly created: number;
  readonly updated: number;
}

/** Another reader moved the window's cursor: this one's step is rolled back, and it stops. */
class TakenOver extends Error {}

/** What else the statement that moves a window's cursor does. */
export interface Along {
  /** Written only where the cursor moves: an `insert … select` whose `where` the statement goes on. */
  readonly proof?: SQL | undefined;
  /** A boolean; where it is false the cursor stays, and nothing is written. */
  readonly onlyIf?: SQL | undefined;
}

/**
 * Moves a window's cursor from `window.cursorMs` to `untilMs` (null: to its end, which proves it), and
 * counts in the window alone: its run's row would make the windows of a sweep wait for each other.
 * @returns whether it moved: false where `onlyIf` does not hold
 * @throws what `readOrLeaveGap` takes for `left`, where somebody else moved it meanwhile
 */
export async function advanceWindow(
  tx: Executor,
  { t }: Db,
  window: Window,
  untilMs: number | null,
  progress: Progress,
  { proof, onlyIf }: Along = {},
): Promise<boolean> {
  const [step] = await rows<{ holds: boolean; moved: boolean }>(
    tx,
    sql`
      with asked as materialized (select ${onlyIf ?? sql`true`} as holds),
      moved as (
        update ${t.syncWindows}
        set cursor_time = ${instantOf(untilMs)},
            state = ${untilMs === null ? 'proven' : 'open'},
            proven_at = case when ${untilMs === null} then clock_timestamp() end,
            rows_read = rows_read + ${progress.rowsRead}, requests = requests + ${progress.requests},
            created = created + ${progress.created}, updated = updated + ${progress.updated},
            total = coalesce(total, ${progress.total}), updated_at = clock_timestamp(), error = null
        where window_id = ${window.windowId} and state <> 'proven'
          and cursor_time is not distinct from ${instantOf(window.cursorMs)}
          and (select holds from asked)
        returning 1
      )${proof === undefined ? sql`` : sql`, proven as (${proof} and exists (select from moved))`}
      select holds, exists (select from moved) as moved from asked`,
  );
  if (step?.holds !== false && step?.moved !== true) throw new TakenOver();
  return step.moved;
}

/**
 * Reads a window as `read` does, step by step; `left` where another reader has gone on with it. What
 * fails leaves a gap with its reason, a stop leaves it open.
 * @throws what `read` throws
 */
export async function readOrLeaveGap(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  windowId: number,
  read: () => Promise<void>,
): Promise<'proven' | 'left'> {
  try {
    await read();
    return 'proven';
  } catch (error) {
    if (error instanceof TakenOver) return 'left';
    if (!(error instanceof Stopping)) await markGap(db, { t }, windowId, describeError(error));
    throw error;
  }
}

/** Leaves a visible gap, with the reason; it is read again without being asked. */
async function markGap(db: Executor, { t }: Db, windowId: number, reason: string): Promise<void> {
  await db.execute(sql`
    update ${t.syncWindows}
    set state = case when pull = 'rebuild' then state else 'gap' end,
        error = ${reason}, updated_at = clock_timestamp(),
        gap_since = case when pull = 'rebuild' then null
                      else coalesce(gap_since, clock_timestamp()) end
    where window_id = ${windowId} and state <> 'proven'`);
}
