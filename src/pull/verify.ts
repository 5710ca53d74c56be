import { sql } from 'drizzle-orm';

import { deleteVerified } from '../apply/deletions.ts';
import { whereWanted } from '../apply/wanted.ts';
import { describeError } from '../errors.ts';
import { rows, textArray, transaction } from '../mirror/database.ts';
import {
  countDrift,
  countRequests,
  keepVerification,
  lookAgain,
  toPpm,
  totalOf,
  type Suspects,
  type Verification,
  type VerifyDeps,
} from './drift.ts';
import { finishRun, openRun } from './ledger.ts';
import { countWithin } from './countWithin.ts';
import { readRange, type ProvenStep } from './readRange.ts';

import type { Call } from '../descope/types.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * The sweep's comparison without its writing: everyone is read, page by page, and held against the
 * mirror. Kept in memory is only who seems to differ.
 */

/** How far the reading has come. */
export interface VerifyProgress {
  readonly users: number;
  /** Users of the directory, as Descope counted them at the start. */
  readonly total: number;
  readonly requests: number;
}

/** So many suspects mean that the mirror is not a little off: sweep it. */
const MOST_SUSPECTS = 100_000;

/**
 * Compares everyone and, with `repair`, mends what differs.
 * @throws the client's errors, WindowUnproven, Stopping
 */
export async function verifyMirror(
  deps: VerifyDeps,
  repair: boolean,
  signal: AbortSignal,
  onRead: (progress: VerifyProgress) => void = () => undefined,
): Promise<Verification> {
  const { mirror } = deps;
  const call: Call = { priority: 'sweep', signal };
  const { client, requests } = countRequests(deps.client);
  const asking = { ...deps, client };
  const { runId } = await transaction(mirror, (tx) => openRun(tx, mirror, 'verify', 'everyone'));
  try {
    const read = await compareRange(asking, { fromMs: 0 }, call, ({ users, total }) => {
      onRead({ users, total, requests: requests() });
    });
    const { drift, gone, repaired } = await lookAgain(asking, read, repair, call);
    const { deleted, held } = repair
      ? await transaction(mirror, (tx) => deleteVerified(tx, mirror, { runId, gone, ...deps }))
      : { deleted: 0, held: 0 };
    const counts = countDrift(drift);
    const found = { runId, compared: read.users + drift.extra.length, requests: requests() };
    const left = repair ? held : totalOf(counts);
    await keepVerification(mirror, { ...found, ...counts, deleted, left });
    const driftPpm = toPpm(counts, found.compared);
    return { ...found, drift, driftPpm, repaired: repaired + deleted, held };
  } catch (error) {
    await finishRun(mirror.db, mirror, runId, 'blocked', describeError(error));
    throw error;
  }
}

/** Users of a range of the directory, and those of them, or of the mirror, that seem to differ. */
export interface RangeComparison extends Suspects {
  readonly users: number;
}

/** Reads a range of creation times (epoch ms, closed; without `toMs` towards now) and finds suspects. */
export async function compareRange(
  deps: PullDeps,
  range: { readonly fromMs: number; readonly toMs?: number },
  call: Call,
  onRead: (progress: Pick<VerifyProgress, 'users' | 'total'>) => void = () => undefined,
): Promise<RangeComparison> {
  const suspects = new Set<string>();
  const beyond = new Set<string>();
  let users = 0;
  let total: number | undefined;
  const reading = readRange(
    { client: deps.client, pageSize: deps.pageSize },
    { field: 'createdTime', ...range },
    call,
  );
  for await (const step of reading) {
    const untilMs = step.untilMs ?? (range.toMs === undefined ? null : range.toMs + 1);
    const stretch = { ...step, untilMs };
    users += countWithin(stretch);
    for (const { userId, isBeyond } of await findSuspects(deps, stretch)) {
      suspects.add(userId);
      if (isBeyond) beyond.add(userId);
    }
    total ??= step.total;
    onRead({ users, total });
    if (suspects.size > MOST_SUSPECTS) {
      throw new Error(`more than ${MOST_SUSPECTS} users differ: run \`rollcall backfill\``);
    }
  }
  return { users, suspects: [...suspects].sort(), beyond };
}

/** Users of a proven stretch that the mirror has not (but for the erased), has otherwise, or has beyond it. */
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
      where (u.user_id is null or u.content_hash <> told.content_hash)
        and not exists (select from ${t.erasures} e where e.user_id = told.user_id)
      union
      select user_id, true from ${t.users}
      where deleted_at is null and ${whereWanted(deps)}
        and created_time >= to_timestamp(${step.fromMs / 1000}::float8) and ${until}
        and user_id not in (select unnest(${textArray([...step.seen.keys()])}))`,
  );
}
