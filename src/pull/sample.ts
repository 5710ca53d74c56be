import { sql } from 'drizzle-orm';

import { whereWanted } from '../apply/wanted.ts';
import { describeError } from '../errors.ts';
import { rows, transaction } from '../mirror/database.ts';
import { finishRun, openRun } from './ledger.ts';
import { sourceNowMs } from './sourceClock.ts';
import { compareRange, settle, type Verification, type VerifyDeps } from './verify.ts';

import type { Call } from '../descope/types.ts';

/*
 * The light, continuous form of verify: Descope's counts against ours, cut in halves where they differ
 * until a page can tell who it is, and a random sample compared field by field. A few requests, and no
 * writing.
 */

/** As many as one load takes. */
const SAMPLE = 100;
/** Counting stops here: a mirror that is off in so many places is the sweep's to mend. */
const MOST_COUNTS = 40;
/** Who was created within this time may be on the way. */
const YOUNG_MS = 60_000;

interface Range {
  readonly fromMs: number;
  readonly toMs: number;
}

/**
 * Verifies counts and a sample, and keeps what it found in the ledger.
 * @throws the client's errors, WindowUnproven, Stopping
 */
export async function verifySample(deps: VerifyDeps, signal: AbortSignal): Promise<Verification> {
  const { mirror } = deps;
  const call: Call = { priority: 'sweep', signal };
  const { runId } = await transaction(mirror, (tx) => openRun(tx, mirror, 'verify', 'sample'));
  try {
    const sample = await readSample(deps);
    const suspects = new Set(sample);
    const beyond = new Set<string>();
    let compared = sample.length;
    for (const range of await findUnequal(deps, call)) {
      const found = await compareRange(deps, range, call);
      compared += found.compared;
      for (const userId of found.suspects) suspects.add(userId);
      for (const userId of found.beyond) beyond.add(userId);
    }
    const suspicion = {
      runId,
      compared,
      suspects: [...suspects].sort(),
      beyond,
      repair: false,
      call,
    };
    return await settle(deps, suspicion);
  } catch (error) {
    await finishRun(mirror.db, mirror, runId, 'blocked', describeError(error));
    throw error;
  }
}

/** Live users picked at random; they are loaded and compared like suspects. */
async function readSample(deps: VerifyDeps): Promise<string[]> {
  const { db, t } = deps.mirror;
  // Random ids to start from: ordering everyone at random would read the whole table.
  const found = await rows<{ userId: string }>(
    db,
    sql`
      with bounds as (
        select min(created_time) as low, max(created_time) as high from ${t.users})
      select distinct picked.user_id as "userId"
      from bounds, generate_series(1, ${SAMPLE}) as draw
      cross join lateral (
        select low + random() * (high - low) + draw * interval '0' as at) as moment
      cross join lateral (
        select user_id from ${t.users}
        where created_time >= moment.at and deleted_at is null and ${whereWanted(deps)}
        order by created_time limit 1) as picked`,
  );
  return found.map((row) => row.userId);
}

/** Ranges of creation time, small enough for a page, in which the counts differ. */
async function findUnequal(deps: VerifyDeps, call: Call): Promise<Range[]> {
  const nowMs = (await sourceNowMs(deps.mirror, deps.client, call)) - YOUNG_MS;
  const oldestMs = await readOldestMs(deps);
  const stack: Range[] = [{ fromMs: 0, toMs: Math.floor(nowMs / 1000) * 1000 - 1 }];
  const unequal: Range[] = [];
  for (let counts = 0; counts < MOST_COUNTS; counts++) {
    const range = stack.pop();
    if (!range) return unequal;
    const told = await countTold(deps, range, call);
    const { least, most } = await countOurs(deps, range);
    if (told >= least && told <= most) continue;
    if (Math.max(told, most) <= deps.pageSize || range.toMs - range.fromMs < 2_000) {
      unequal.push(range);
      continue;
    }
    const lowMs = Math.max(range.fromMs, Math.min(oldestMs, range.toMs));
    const middleMs = Math.floor((lowMs + range.toMs) / 2_000) * 1000;
    stack.push({ ...range, fromMs: middleMs }, { ...range, toMs: middleMs - 1 });
  }
  return unequal;
}

async function readOldestMs({ mirror }: VerifyDeps): Promise<number> {
  const [row] = await rows<{ oldestMs: number | null }>(
    mirror.db,
    sql`select (extract(epoch from min(created_time)) * 1000)::float8 as "oldestMs"
        from ${mirror.t.users}`,
  );
  return row?.oldestMs ?? 0;
}

async function countTold(deps: VerifyDeps, range: Range, call: Call): Promise<number> {
  const { total } = await deps.client.searchUsers(
    { field: 'createdTime', ...range, limit: 1 },
    call,
  );
  return total;
}

/**
 * Our own count, with and without the users at the edges: the request asks a unit more on each side,
 * and whether an edge itself is told is not certain.
 */
async function countOurs(
  deps: VerifyDeps,
  range: Range,
): Promise<{ readonly least: number; readonly most: number }> {
  const from = range.fromMs / 1000;
  const to = range.toMs / 1000;
  const [row] = await rows<{ least: number; most: number }>(
    deps.mirror.db,
    sql`select count(*)::int as most,
               count(*) filter (where created_time >= to_timestamp(${from + 1}::float8)
                                  and created_time <= to_timestamp(${to - 1}::float8))::int as least
        from ${deps.mirror.t.users}
        where deleted_at is null and ${whereWanted(deps)}
          and created_time >= to_timestamp(${from - 2}::float8)
          and created_time <= to_timestamp(${to + 2}::float8)`,
  );
  return row ?? { least: 0, most: 0 };
}
