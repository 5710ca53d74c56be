import { sql } from 'drizzle-orm';

import { pause } from '../abort.ts';
import { applyObservations } from '../apply/apply.ts';
import { changedFields } from '../apply/batch.ts';
import { deleteVerified, type Breaker } from '../apply/deletions.ts';
import { lookUp, type Absence } from '../apply/lookUp.ts';
import { isWanted, whereWanted } from '../apply/wanted.ts';
import { describeError } from '../errors.ts';
import { rows, textArray, transaction } from '../mirror/database.ts';
import { finishRun, openRun } from './ledger.ts';
import { readRange, type ProvenStep } from './readRange.ts';

import type { Call } from '../descope/types.ts';
import type { Present } from '../observation.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * The sweep's comparison without its writing: everyone is read, window by window, and held against the
 * mirror. What differs may only be on its way, so it is loaded by id once more, a moment later, before
 * it counts as drift.
 */

export interface VerifyDeps extends PullDeps {
  readonly breaker: Breaker;
  /** What differs has this long to arrive by itself before it is looked at again. */
  readonly settleMs: number;
  /** Told how many users have been compared so far. */
  readonly onRead?: (compared: number) => void;
}

/** Users of whom mirror and directory disagree. Ids and names of fields, no values. */
export interface Drift {
  readonly missing: readonly string[];
  readonly extra: readonly string[];
  readonly different: readonly { readonly userId: string; readonly fields: readonly string[] }[];
}

export interface Verification {
  readonly runId: number;
  /** Users of the directory that were compared. */
  readonly compared: number;
  readonly drift: Drift;
  /** Users that differ, of a million compared. */
  readonly driftPpm: number;
  /** Written with `repair`, and deletions that wait for a person. */
  readonly repaired: number;
  readonly held: number;
}

/** So many suspects mean that the mirror is not a little off: sweep it. */
const MOST_SUSPECTS = 100_000;
const LOAD_LIMIT = 100;

/**
 * Compares everyone and, with `repair`, mends what differs.
 * @throws the client's errors, WindowUnproven, Stopping
 */
export async function verifyMirror(
  deps: VerifyDeps,
  repair: boolean,
  signal: AbortSignal,
): Promise<Verification> {
  const { mirror } = deps;
  const call: Call = { priority: 'sweep', signal };
  const { runId } = await transaction(mirror, (tx) => openRun(tx, mirror, 'verify', 'everyone'));
  try {
    const found = await compareRange(deps, { fromMs: 0 }, call);
    return await settle(deps, { runId, ...found, repair, call });
  } catch (error) {
    await finishRun(mirror.db, mirror, runId, 'blocked', describeError(error));
    throw error;
  }
}

/** Reads a range of creation times and lists, by id, whom mirror and directory seem to disagree about. */
export async function compareRange(
  deps: VerifyDeps,
  range: { readonly fromMs: number; readonly toMs?: number },
  call: Call,
): Promise<Suspects> {
  const suspects = new Set<string>();
  const beyond = new Set<string>();
  let compared = 0;
  const reading = readRange(
    { client: deps.client, pageSize: deps.pageSize },
    { field: 'createdTime', ...range },
    call,
  );
  for await (const step of reading) {
    compared += step.observations.length;
    const untilMs = step.untilMs ?? (range.toMs === undefined ? null : range.toMs + 1);
    for (const { userId, isBeyond } of await findSuspects(deps, { ...step, untilMs })) {
      suspects.add(userId);
      if (isBeyond) beyond.add(userId);
    }
    deps.onRead?.(compared);
    if (suspects.size > MOST_SUSPECTS) {
      throw new Error(`more than ${MOST_SUSPECTS} users differ: run \`rollcall backfill\``);
    }
  }
  return { compared, suspects: [...suspects].sort(), beyond };
}

/** Whom mirror and directory seem to disagree about. */
export interface Suspects {
  readonly compared: number;
  readonly suspects: readonly string[];
  /** Those of them that a proven window did not show: only of them is missing from loads enough. */
  readonly beyond: ReadonlySet<string>;
}

/** Users of a proven stretch that the mirror has not, has otherwise, or has beyond it. */
async function findSuspects(
  deps: PullDeps,
  step: ProvenStep,
): Promise<{ userId: string; isBeyond: boolean }[]> {
  const { db, t } = deps.mirror;
  const records = JSON.stringify(
    step.observations.map((o) => ({ user_id: o.userId, content_hash: o.row.contentHash })),
  );
  const until =
    step.untilMs === null
      ? sql`true`
      : sql`created_time < to_timestamp(${step.untilMs / 1000}::float8)`;
  return rows<{ userId: string; isBeyond: boolean }>(
    db,
    sql`
      with told as (
        select * from jsonb_to_recordset(${records}::jsonb) as r(user_id text, content_hash text))
      select told.user_id as "userId", false as "isBeyond" from told
      left join ${t.users} u on u.user_id = told.user_id and u.deleted_at is null
      where u.user_id is null or u.content_hash <> told.content_hash
      union
      select user_id, true from ${t.users}
      where deleted_at is null and ${whereWanted(deps)}
        and created_time >= to_timestamp(${step.fromMs / 1000}::float8) and ${until}
        and user_id not in (select user_id from told)`,
  );
}

export interface Suspicion extends Suspects {
  readonly runId: number;
  readonly repair: boolean;
  readonly call: Call;
}

/** Looks at each suspect once more, a moment later, and counts what still differs. */
export async function settle(deps: VerifyDeps, suspicion: Suspicion): Promise<Verification> {
  const { runId, compared, suspects, beyond, repair, call } = suspicion;
  const { mirror } = deps;
  const drift = { missing: [] as string[], extra: [] as string[], different: [] as Difference[] };
  const gone: Absence[] = [];
  let repaired = 0;
  if (suspects.length > 0) await pause(deps.settleMs, call.signal);
  for (let at = 0; at < suspects.length; at += LOAD_LIMIT) {
    const chunk = suspects.slice(at, at + LOAD_LIMIT);
    const { present, absent } = await lookUp(
      deps.client,
      chunk,
      (userId) => beyond.has(userId),
      call,
    );
    const wanted = present.filter((o) => isWanted(deps, o));
    const mirrored = await readMirrored(deps, chunk);
    const { missing, different } = differences(wanted, mirrored);
    drift.missing.push(...missing);
    drift.different.push(...different);
    const extra = absent.filter((absence) => mirrored.has(absence.userId));
    drift.extra.push(...extra.map((absence) => absence.userId));
    gone.push(...extra);
    if (repair) repaired += await mend(deps, wanted);
  }
  const { deleted, held } = repair
    ? await transaction(mirror, (tx) => deleteVerified(tx, mirror, { runId, gone, ...deps }))
    : { deleted: 0, held: 0 };
  const differing = drift.missing.length + drift.extra.length + drift.different.length;
  const left = repair ? held : differing;
  await mirror.db.execute(sql`
    update ${mirror.t.syncRuns}
    set rows_read = ${compared}, missing = ${drift.missing.length}, extra = ${drift.extra.length},
        different = ${drift.different.length}, deleted = ${deleted}
    where run_id = ${runId}`);
  await finishRun(mirror.db, mirror, runId, left === 0 ? 'complete' : 'partial');
  return {
    runId,
    compared,
    drift,
    driftPpm: (differing * 1_000_000) / Math.max(1, compared),
    repaired: repaired + deleted,
    held,
  };
}

type Difference = Drift['different'][number];
/** `raw` as text: JavaScript's numbers would hide a difference beyond 2^53. */
type Mirrored = ReadonlyMap<string, { contentHash: string; raw: string }>;

async function readMirrored(deps: PullDeps, userIds: readonly string[]): Promise<Mirrored> {
  const { db, t } = deps.mirror;
  const found = await rows<{ userId: string; contentHash: string; raw: string }>(
    db,
    sql`select user_id as "userId", content_hash as "contentHash", raw::text as raw
        from ${t.users}
        where deleted_at is null and user_id = any(${textArray(userIds)})`,
  );
  return new Map(found.map((row) => [row.userId, row]));
}

function differences(
  present: readonly Present[],
  mirrored: Mirrored,
): Pick<Drift, 'missing' | 'different'> {
  const missing: string[] = [];
  const different: Difference[] = [];
  for (const { userId, row } of present) {
    const known = mirrored.get(userId);
    if (!known) missing.push(userId);
    else if (known.contentHash !== row.contentHash) {
      different.push({ userId, fields: changedFields(known.raw, row.raw) });
    }
  }
  return { missing, different };
}

/** Writes what the loads showed: they may also lift a tombstone. Returns how many were written. */
async function mend(deps: PullDeps, present: readonly Present[]): Promise<number> {
  const { mirror } = deps;
  const { created, updated, restored } = await transaction(mirror, (tx) =>
    applyObservations(tx, mirror.t, present, 'manual'),
  );
  return created.length + updated.length + restored.length;
}
