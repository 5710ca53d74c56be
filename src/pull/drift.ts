import { sql } from 'drizzle-orm';

import { pause } from '../abort.ts';
import { applyObservations } from '../apply/apply.ts';
import { changedFields } from '../apply/batch.ts';
import { LOAD_LIMIT, lookUp, type Absence } from '../apply/lookUp.ts';
import { isWanted } from '../apply/wanted.ts';
import { asInstant, rows, textArray, transaction, type Mirror } from '../mirror/database.ts';
import { finishRun } from './ledger.ts';

import type { Breaker } from '../apply/deletions.ts';
import type { Call, DescopeClient } from '../descope/types.ts';
import type { Instant, Present } from '../observation.ts';
import type { PullDeps } from './readWindow.ts';

/*
 * In: ids of users about whom mirror and directory seem to disagree. Out: those about whom they do. What
 * differs may only be on its way, so each is loaded by id once more, a moment later, before it counts.
 */

export interface VerifyDeps extends PullDeps {
  readonly breaker: Breaker;
  /** What differs has this long to arrive by itself before it is looked at again. */
  readonly settleMs: number;
}

/** Users of whom mirror and directory disagree. Ids and names of fields, no values. */
export interface Drift {
  readonly missing: readonly string[];
  readonly extra: readonly string[];
  readonly different: readonly { readonly userId: string; readonly fields: readonly string[] }[];
}

/** How many users are missing here, gone there, of other content. */
export type DriftCounts = Readonly<Record<keyof Drift, number>>;

export interface Verification {
  readonly runId: number;
  /** Users of either side that were held against each other; by a light verification mostly as counts. */
  readonly compared: number;
  readonly requests: number;
  /** Those found by id. */
  readonly drift: Drift;
  /** Users that differ, of a million compared; an estimate where not everyone was read. */
  readonly driftPpm: number;
  /** Written with `repair`, and deletions that wait for a person. */
  readonly repaired: number;
  readonly held: number;
}

/** Whom mirror and directory seem to disagree about. */
export interface Suspects {
  readonly suspects: readonly string[];
  /** Those of them that a proven window did not show: only of them is missing from loads enough. */
  readonly beyond: ReadonlySet<string>;
}

/**
 * Looks at each suspect once more and tells what still differs; with `repair` writes what the loads
 * showed. Who is gone is returned, not deleted: that is decided about all of them together.
 * @throws the client's errors, Stopping
 */
export async function lookAgain(
  deps: VerifyDeps,
  { suspects, beyond }: Suspects,
  repair: boolean,
  call: Call,
): Promise<{ drift: Drift; gone: readonly Absence[]; repaired: number }> {
  const drift = { missing: [] as string[], extra: [] as string[], different: [] as Difference[] };
  const gone: Absence[] = [];
  let repaired = 0;
  if (suspects.length > 0) await pause(deps.settleMs, call.signal);
  for (let at = 0; at < suspects.length; at += LOAD_LIMIT) {
    const chunk = suspects.slice(at, at + LOAD_LIMIT);
    const answer = await lookUp(deps.client, chunk, (userId) => beyond.has(userId), call);
    const erased = await readErased(deps, chunk);
    const wanted = answer.present.filter((o) => isWanted(deps, o) && !erased.has(o.userId));
    const mirrored = await readMirrored(deps, chunk);
    const { missing, different } = differences(wanted, mirrored);
    const extra = answer.absent.filter((absence) => isExtra(absence, mirrored));
    drift.missing.push(...missing);
    drift.different.push(...different);
    drift.extra.push(...extra.map((absence) => absence.userId));
    gone.push(...extra);
    if (repair) repaired += await mend(deps, wanted);
  }
  return { drift, gone, repaired };
}

export function countDrift({ missing, extra, different }: Drift): DriftCounts {
  return { missing: missing.length, extra: extra.length, different: different.length };
}

export function totalOf({ missing, extra, different }: DriftCounts): number {
  return missing + extra + different;
}

/** Parts per million; the same as `sync_status.drift_ppm` works out. */
export function toPpm(counts: DriftCounts, compared: number): number {
  return (totalOf(counts) * 1_000_000) / Math.max(1, compared);
}

/** Keeps in the ledger what a verification found; complete where nothing is left of it. */
export async function keepVerification(
  mirror: Mirror,
  found: DriftCounts & {
    readonly runId: number;
    readonly compared: number;
    readonly requests: number;
    readonly deleted: number;
    readonly left: number;
    /** Users compared field by field, where not everyone was. */
    readonly sampled?: number;
  },
): Promise<void> {
  await transaction(mirror, async (tx) => {
    await tx.execute(sql`
      update ${mirror.t.syncRuns}
      set rows_read = ${found.compared}, requests = ${found.requests}, missing = ${found.missing},
          extra = ${found.extra}, different = ${found.different}, deleted = ${found.deleted},
          sampled = ${found.sampled ?? null}
      where run_id = ${found.runId}`);
    await finishRun(tx, mirror, found.runId, found.left === 0 ? 'complete' : 'partial');
  });
}

/** The same client, and how many requests it was asked for; one that is tried again counts once. */
export function countRequests(client: DescopeClient): {
  readonly client: DescopeClient;
  readonly requests: () => number;
} {
  let asked = 0;
  const counting = <T>(answer: Promise<T>): Promise<T> => {
    asked++;
    return answer;
  };
  return {
    client: {
      searchUsers: (...args) => counting(client.searchUsers(...args)),
      loadUsers: (...args) => counting(client.loadUsers(...args)),
      refusesUnknownIds: () => client.refusesUnknownIds(),
      loadUser: (...args) => counting(client.loadUser(...args)),
      loadUserByLoginId: (...args) => counting(client.loadUserByLoginId(...args)),
      searchAudit: (...args) => counting(client.searchAudit(...args)),
      clockOffsetMs: () => client.clockOffsetMs(),
    },
    requests: () => asked,
  };
}

type Difference = Drift['different'][number];

interface MirroredUser {
  readonly userId: string;
  readonly contentHash: string;
  /** As text: JavaScript's numbers would hide a difference beyond 2^53. */
  readonly raw: string;
  readonly gone: boolean;
  readonly observedAt: Instant;
}

type Mirrored = ReadonlyMap<string, MirroredUser>;

async function readMirrored(deps: PullDeps, userIds: readonly string[]): Promise<Mirrored> {
  const { db, t } = deps.mirror;
  const found = await rows<MirroredUser>(
    db,
    sql`select user_id as "userId", content_hash as "contentHash", raw::text as raw,
               deleted_at is not null as gone, ${asInstant(sql`observed_at`)} as "observedAt"
        from ${t.users} where user_id = any(${textArray(userIds)})`,
  );
  return new Map(found.map((row) => [row.userId, row]));
}

async function readErased(deps: PullDeps, userIds: readonly string[]): Promise<Set<string>> {
  const { db, t } = deps.mirror;
  const found = await rows<{ userId: string }>(
    db,
    sql`select user_id as "userId" from ${t.erasures} where user_id = any(${textArray(userIds)})`,
  );
  return new Set(found.map((row) => row.userId));
}

/** A row written after the load was sent knows more than the load: it is no drift. */
function isNewer(known: MirroredUser | undefined, observedAt: Instant): boolean {
  return known !== undefined && known.observedAt > observedAt;
}

function isExtra({ userId, observedAt }: Absence, mirrored: Mirrored): boolean {
  const known = mirrored.get(userId);
  return known !== undefined && !known.gone && !isNewer(known, observedAt);
}

function differences(
  present: readonly Present[],
  mirrored: Mirrored,
): Pick<Drift, 'missing' | 'different'> {
  const missing: string[] = [];
  const different: Difference[] = [];
  for (const { userId, observedAt, row } of present) {
    const known = mirrored.get(userId);
    if (isNewer(known, observedAt)) continue;
    if (!known || known.gone) missing.push(userId);
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
