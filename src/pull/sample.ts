import { sql } from 'drizzle-orm';

import { whereWanted } from '../apply/wanted.ts';
import { describeError } from '../errors.ts';
import { rows, transaction } from '../mirror/database.ts';
import { compareCounts, countGap } from './counts.ts';
import {
  countDrift,
  countRequests,
  keepVerification,
  lookAgain,
  toPpm,
  totalOf,
  type Drift,
  type DriftCounts,
  type Verification,
  type VerifyDeps,
} from './drift.ts';
import { finishRun, hasCompletedSweep, openRun } from './ledger.ts';
import { compareRange } from './verify.ts';

import type { Call } from '../descope/types.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * The light, continuous form of verify: Descope's counts against ours, window by window, cut smaller
 * where they differ until a page can tell who it is, and a random sample compared field by field. A few
 * requests whatever the size of the directory, and no writing.
 */

/** As many as one load takes. */
const SAMPLE = 100;
/** So many times the sample is taken from random pages of the table, and the sample from that. */
const DRAWN = 20;

/**
 * Verifies counts and a sample, and keeps what it found in the ledger. Null, and nothing asked, until a
 * first sweep has completed: a mirror that is filling differs everywhere, and that is no drift.
 * @throws the client's errors, WindowUnproven, Stopping
 */
export async function verifySample(
  deps: VerifyDeps,
  signal: AbortSignal,
): Promise<Verification | null> {
  const { mirror } = deps;
  if (!(await hasCompletedSweep(mirror.db, mirror))) return null;
  const { client, requests } = countRequests(deps.client);
  const { runId } = await transaction(mirror, (tx) => openRun(tx, mirror, 'verify', 'sample'));
  try {
    const { drift, estimate, told, sampled } = await measure({ ...deps, client }, signal);
    const found = { runId, compared: told + estimate.extra, requests: requests() };
    const left = totalOf(estimate);
    await keepVerification(mirror, { ...found, ...estimate, deleted: 0, left, sampled });
    const driftPpm = toPpm(estimate, found.compared);
    return { ...found, drift, driftPpm, repaired: 0, held: 0 };
  } catch (error) {
    await finishRun(mirror.db, mirror, runId, 'blocked', describeError(error));
    throw error;
  }
}

/** Who was found to differ, and how many of the `told` users of the directory seem to differ in all. */
async function measure(
  deps: VerifyDeps,
  signal: AbortSignal,
): Promise<{ drift: Drift; estimate: DriftCounts; told: number; sampled: number }> {
  const call: Call = { priority: 'sweep', signal };
  const standing = await readStanding(deps);
  const { told, ours, unequal, narrow } = await compareCounts(deps, call);
  const sample = await readSample(deps, ours);
  const suspects = new Set(sample);
  const beyond = new Set<string>();
  for (const range of narrow) {
    const found = await compareRange(deps, range, call);
    for (const userId of found.suspects) suspects.add(userId);
    for (const userId of found.beyond) beyond.add(userId);
  }
  const { drift } = await lookAgain(deps, { suspects: [...suspects].sort(), beyond }, false, call);
  // Counted once more: what was on its way has arrived, and not all of the rest was found by id.
  const gap = await countGap(deps, unequal, call);
  const named = countDrift(drift);
  const estimate = {
    missing: Math.max(standing.missing, gap.missing, named.missing),
    extra: Math.max(standing.extra, gap.extra, named.extra),
    different: Math.max(standing.different, projected(drift, sample, ours), named.different),
  };
  return { drift, estimate, told, sampled: sample.length };
}

/** How many of all users are of other content, if as many of them are as of the sample. */
function projected({ different }: Drift, sample: readonly string[], users: number): number {
  const drawn = new Set(sample);
  const found = different.filter(({ userId }) => drawn.has(userId)).length;
  return Math.round((found * users) / Math.max(1, drawn.size));
}

/**
 * What the last comparison with everyone found and left, if it was the last: counts and a sample seldom
 * see a single difference again, and must not tell that it is gone.
 */
async function readStanding({ mirror }: PullDeps): Promise<DriftCounts> {
  const { db, t } = mirror;
  const [last] = await rows<DriftCounts>(
    db,
    sql`
      select missing::int, extra::int, different::int from (
        select *, exists (select 1 from ${t.deletions} d where d.run_id = r.run_id) as decided
        from ${t.syncRuns} r
        where (pull = 'sweep' or (pull = 'verify' and reason = 'everyone'))
          and outcome in ('complete', 'partial')
        order by finished_at desc limit 1) as run
      -- Where a repair decided about deletions, the rest is mended and these are held: counts show them.
      where pull = 'verify' and outcome = 'partial' and not decided`,
  );
  return last ?? { missing: 0, extra: 0, different: 0 };
}

/**
 * Live users picked at random; they are loaded and compared like suspects. Random pages of the table,
 * because random instants would hardly ever meet users who were imported together, and to put everyone
 * in a random order would read the whole table.
 */
async function readSample(deps: PullDeps, users: number): Promise<string[]> {
  const { db, t } = deps.mirror;
  const percent = Math.min(100, (100 * SAMPLE * DRAWN) / Math.max(1, users));
  const found = await rows<{ userId: string }>(
    db,
    sql`select user_id as "userId" from ${t.users} tablesample system (${percent}::float4)
        where deleted_at is null and ${whereWanted(deps)}
        order by random() limit ${SAMPLE}`,
  );
  return found.map((row) => row.userId);
}
