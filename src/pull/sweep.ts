import { sql } from 'drizzle-orm';

import { decideSuspects, settleSuspects } from '../apply/deletions.ts';
import { LOAD_LIMIT, lookUp } from '../apply/lookUp.ts';
import { bringBackNameless } from '../apply/nameless.ts';
import { rows, transaction, type Executor } from '../mirror/database.ts';
import { AUDIT_RETENTION_MS, finishRun, openRun, unprovenWindows, type Outcome } from './ledger.ts';
import { isPlanned, planWindows } from './plan.ts';
import { countShort, coversTo, forgetUnseen, holdOpenRun, reopenShortWindows } from './recount.ts';
import { beginWatermark, coverBySweep, setWatermark } from './watermark.ts';

import type { Breaker } from '../apply/deletions.ts';
import type { Call } from '../descope/types.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * The sweep reads everyone, by creation time, in windows; the initial backfill is the first one.
 * In: an open run of the ledger. Out: its windows, then the decision about the users it missed.
 * Every step can be taken again: the ledger tells which are done.
 */

export interface SweepDeps extends PullDeps {
  readonly breaker: Breaker;
  /** Coverage by the other pulls begins this long before the first sweep does. */
  readonly overlapMs: number;
}

/** Where a sweep stands: windows still to read, or how it ended. */
export type SweepState =
  | { readonly kind: 'reading'; readonly windowIds: readonly number[] }
  | { readonly kind: 'finished'; readonly outcome: Outcome };

/** Begins a sweep, or joins the one that is under way. */
export async function startSweep(
  deps: Pick<SweepDeps, 'mirror'>,
  reason: string,
): Promise<{ runId: number; isNew: boolean }> {
  return transaction(deps.mirror, (tx) => openRun(tx, deps.mirror, 'sweep', reason));
}

/**
 * Takes a sweep as far as it goes without reading windows: plans it, or tells which windows are to be
 * read, or, when all are proven, decides and ends it.
 */
export async function advanceSweep(
  deps: SweepDeps,
  runId: number,
  signal: AbortSignal,
): Promise<SweepState> {
  const { mirror } = deps;
  const ended = await readOutcome(deps, runId);
  if (ended !== undefined) return { kind: 'finished', outcome: ended };
  const call: Call = { priority: 'sweep', signal };
  if (!(await isPlanned(mirror.db, mirror, runId))) {
    const along = async (tx: Executor, nowMs: number) => {
      // Subscribe first, then fill: what changes from here on is the other pulls' to find.
      await beginWatermark(tx, mirror, 'modified', nowMs - deps.overlapMs);
      await beginWatermark(tx, mirror, 'audit', nowMs - deps.overlapMs);
    };
    const blocked = await planWindows(deps, { runId, pull: 'sweep', along }, call);
    if (blocked !== null) {
      await finishRun(mirror.db, mirror, runId, 'blocked', blocked);
      return { kind: 'finished', outcome: 'blocked' };
    }
  }
  const windowIds = await unprovenWindows(mirror.db, mirror, { runId });
  if (windowIds.length > 0) return { kind: 'reading', windowIds };
  return finish(deps, runId, call);
}

async function readOutcome(deps: SweepDeps, runId: number): Promise<Outcome | undefined> {
  const { db, t } = deps.mirror;
  const [run] = await rows<{ outcome: Outcome | null }>(
    db,
    sql`select outcome from ${t.syncRuns} where run_id = ${runId}`,
  );
  return run?.outcome ?? undefined;
}

/** All windows are proven: look at the users nobody saw, count once more, decide. */
async function finish(deps: SweepDeps, runId: number, call: Call): Promise<SweepState> {
  const { mirror } = deps;
  await verifySuspects(deps, runId, call);
  await forgetUnseen(mirror, runId);
  const reopened = await reopenShortWindows(deps, runId, call);
  if (reopened.length > 0) return { kind: 'reading', windowIds: reopened };
  const short = await countShort(deps, runId, call);
  await transaction(mirror, async (tx) => {
    // Whoever ends it, and whoever opens its windows again, holds the run meanwhile.
    if (!(await holdOpenRun(tx, deps, runId))) return;
    const { deleted, held } = await decideSuspects(tx, mirror, runId, deps.breaker);
    await tx.execute(
      sql`update ${mirror.t.syncRuns} set deleted = deleted + ${deleted} where run_id = ${runId}`,
    );
    if (short <= 0) {
      await setWatermark(tx, mirror, 'sweep', runId);
      // A day less than the trail reaches: it goes on ageing until the next audit pull.
      const auditReachMs = AUDIT_RETENTION_MS - 86_400_000;
      await coverBySweep(tx, mirror, { coversToMs: await coversTo(deps, runId), auditReachMs });
      await bringBackNameless(tx, mirror);
    }
    const left = describeLeft(short, held);
    await finishRun(tx, mirror, runId, left === null ? 'complete' : 'partial', left);
  });
  return { kind: 'finished', outcome: (await readOutcome(deps, runId)) ?? 'partial' };
}

/**
 * What is known to differ when a sweep has ended; null: nothing, and only then it is a proof. Everyone
 * has been read all the same where deletions are held: that does not hold up the watermarks.
 */
function describeLeft(short: number, held: number): string | null {
  if (short > 0) return `the directory counts ${short} users more than the mirror`;
  return held > 0 ? `${held} users are gone, and their deletion waits for a person` : null;
}

/** Loads the suspects of a run by id, a load's worth at a time, and keeps what the answers say. */
async function verifySuspects(deps: SweepDeps, runId: number, call: Call): Promise<void> {
  const { mirror, client } = deps;
  for (;;) {
    const suspects = await rows<{ userId: string }>(
      mirror.db,
      sql`select distinct user_id as "userId" from ${mirror.t.deletions}
          where run_id = ${runId} and state = 'suspected' order by user_id limit ${LOAD_LIMIT}`,
    );
    if (suspects.length === 0) return;
    const ids = suspects.map((row) => row.userId);
    const answer = await lookUp(client, ids, () => true, call);
    await transaction(mirror, (tx) => settleSuspects(tx, mirror, runId, answer));
  }
}
