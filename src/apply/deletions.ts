import { sql, type SQL } from 'drizzle-orm';

import { asInstant, rows, textArray, type Executor, type Mirror } from '../mirror/database.ts';
import { applyObservations, isNotErased } from './apply.ts';
import { whereWanted } from './wanted.ts';

import type { ApplySummary } from './batch.ts';
import type { Witness } from '../observation.ts';
import type { Absence, LookUp } from './lookUp.ts';

/*
 * suspected → verified → breaker → tombstoned, or held until a person decides. Every step leaves its
 * evidence in the table `deletions`.
 */

export interface Breaker {
  readonly maxCount: number;
  readonly maxPercent: number;
}

/** Below this many, a percentage means nothing. */
const SMALL = 10;

/** Whether so many deletions together wait for a person. Pure. */
export function isHeld(count: number, liveUsers: number, breaker: Breaker): boolean {
  if (count > breaker.maxCount) return true;
  return count > SMALL && count > (liveUsers * breaker.maxPercent) / 100;
}

type Db = Pick<Mirror, 't'>;

/**
 * How many live users have to be counted, at most, to tell whether so many deletions are held: from
 * there on more of them change nothing. Pure.
 */
export function mostToCount(count: number, { maxCount, maxPercent }: Breaker): number {
  if (count > maxCount || count <= SMALL || maxPercent === 0) return 0;
  // One more than the share asks for: no rounding decides then.
  return Math.ceil((count * 100) / maxPercent) + 1;
}

/** As `isHeld`, of the users who are live now and of `recent` that were; counts no more than it needs. */
async function isHeldNow(
  tx: Executor,
  { t }: Db,
  count: number,
  recent: number,
  breaker: Breaker,
): Promise<boolean> {
  const most = mostToCount(count, breaker);
  if (most === 0) return isHeld(count, 0, breaker);
  const [row] = await rows<{ live: number }>(
    tx,
    sql`select count(*)::float8 as live
        from (select 1 from ${t.users} where deleted_at is null limit ${most}) as counted`,
  );
  return isHeld(count, (row?.live ?? 0) + recent, breaker);
}

/** Users the mirror holds as live. Reads an index whole: not for every event. */
export async function countLive(db: Executor, { t }: Db): Promise<number> {
  const [row] = await rows<{ live: string }>(
    db,
    sql`select count(*) as live from ${t.users} where deleted_at is null`,
  );
  return Number(row?.live ?? 0);
}

/** Tombstones written in the last hour because of events. */
async function countRecent(tx: Executor, { t }: Db): Promise<number> {
  const [row] = await rows<{ recent: string }>(
    tx,
    sql`select count(*) as recent from ${t.deletions}
        where state = 'tombstoned' and run_id is null
          -- By when it was reported: what a person approved later must not trip the breaker again.
          -- A time that stands still within the statement, or no index could serve it.
          and decided_at > statement_timestamp() - interval '1 hour'
          and nominated_at > statement_timestamp() - interval '1 hour'`,
  );
  return Number(row?.recent ?? 0);
}

/**
 * Suspects the live users of a proven stretch of a sweep that its answer did not hold: a statement for
 * `advanceWindow`, which completes it.
 */
export function nominateMissing(
  { t }: Db,
  stretch: {
    readonly runId: number;
    readonly fromMs: number;
    readonly untilMs: number | null;
    readonly seen: readonly string[];
    readonly observedAt: string;
    readonly includeTestUsers: boolean;
  },
): SQL {
  const until =
    stretch.untilMs === null
      ? sql`true`
      : sql`created_time < to_timestamp(${stretch.untilMs / 1000}::float8)`;
  return sql`
    insert into ${t.deletions} (user_id, state, witness, run_id)
    select user_id, 'suspected', 'sweep', ${stretch.runId}
    from ${t.users}
    where deleted_at is null and ${whereWanted(stretch)}
      and created_time >= to_timestamp(${stretch.fromMs / 1000}::float8) and ${until}
      and observed_at < ${stretch.observedAt}::timestamptz
      and user_id not in (select unnest(${textArray(stretch.seen)}))`;
}

/** What became of users that loads say are gone. */
export interface Decided {
  readonly held: boolean;
  /** Whose deletion waits for a person, from now or before. */
  readonly waiting: readonly string[];
  readonly summary: ApplySummary;
}

/**
 * Tombstones users reported gone by events, or holds them where the last hour saw too many.
 * Runs in the transaction that marks the events done.
 */
export async function deleteReported(
  tx: Executor,
  db: Db,
  absences: readonly Absence[],
  witness: Witness,
  breaker: Breaker,
): Promise<Decided> {
  const { live, waiting } = await sortLive(tx, db, absences);
  if (live.length > 0) {
    // One at a time to the end of its transaction: side by side, neither would count the other's.
    // Mirrors in other schemas of the database have their own.
    const lock = `rollcall breaker ${db.t.schema.schemaName}`;
    await tx.execute(sql`select pg_advisory_xact_lock(hashtextextended(${lock}, 0))`);
  }
  const recent = live.length > 0 ? await countRecent(tx, db) : 0;
  const held = live.length > 0 && (await isHeldNow(tx, db, recent + live.length, recent, breaker));
  // Whom a person is to decide about, no second report decides.
  const kept = new Set(held ? [...live, ...waiting] : waiting);
  const toWrite = absences.filter((absence) => !kept.has(absence));
  const summary = await tombstone(tx, db, toWrite, witness);
  await recordReported(tx, db, live, witness, held ? null : summary.deleted);
  return { held, waiting: [...kept].map((absence) => absence.userId), summary };
}

/** Keeps what was decided: `deleted` were tombstoned, of the others something newer was seen; null: all held. */
async function recordReported(
  tx: Executor,
  { t }: Db,
  live: readonly Absence[],
  witness: Witness,
  deleted: readonly string[] | null,
): Promise<void> {
  if (live.length === 0) return;
  await tx.execute(sql`
    insert into ${t.deletions} (user_id, state, witness, verified_at, decided_at, evidence)
    select user_id,
           case when ${deleted === null} then 'held'
             when user_id = any(${textArray(deleted ?? [])}) then 'tombstoned' else 'superseded' end,
           ${witness}, at, case when ${deleted !== null} then clock_timestamp() end, evidence
    from ${asRecords(live)}`);
}

/** Of these, the ones the mirror holds as live, apart from those whose deletion is held already. */
async function sortLive(
  tx: Executor,
  { t }: Db,
  absences: readonly Absence[],
): Promise<{ live: Absence[]; waiting: Absence[] }> {
  if (absences.length === 0) return { live: [], waiting: [] };
  const found = await rows<{ userId: string; isHeld: boolean }>(
    tx,
    sql`select user_id as "userId",
               exists (select 1 from ${t.deletions} d
                       where d.user_id = u.user_id and d.state = 'held') as "isHeld"
        from ${t.users} u
        where deleted_at is null and user_id = any(${textArray(absences.map((a) => a.userId))})`,
  );
  const known = new Map(found.map((row) => [row.userId, row.isHeld]));
  return {
    live: absences.filter((a) => known.get(a.userId) === false),
    waiting: absences.filter((a) => known.get(a.userId) === true),
  };
}

/** Absences as rows `r` of a statement: `user_id`, `at`, `evidence`. */
export function asRecords(absences: readonly Absence[]): SQL {
  const records = absences.map((a) => ({
    user_id: a.userId,
    at: a.observedAt,
    evidence: a.evidence,
  }));
  return sql`jsonb_to_recordset(${JSON.stringify(records)}::jsonb)
    as r(user_id text, at timestamptz, evidence text)`;
}

/** Keeps what loads say of a sweep's suspects; those who are there after all are written as seen. */
export async function settleSuspects(
  tx: Executor,
  { t }: Db,
  runId: number,
  { present, absent }: LookUp,
): Promise<void> {
  await applyObservations(tx, t, present, 'sweep');
  await tx.execute(sql`
    update ${t.deletions}
    set state = 'present', decided_at = clock_timestamp(), evidence = 'a load by id found the user'
    where run_id = ${runId} and state = 'suspected'
      and user_id = any(${textArray(present.map((o) => o.userId))})`);
  await tx.execute(sql`
    update ${t.deletions} as d
    set state = 'verified', verified_at = r.at, evidence = 'missing from a proven window, ' || r.evidence
    from ${asRecords(absent)} where d.user_id = r.user_id and d.run_id = ${runId} and d.state = 'suspected'`);
}

/** Decides users that a verification found gone, all together, as a sweep's are. */
export async function deleteVerified(
  tx: Executor,
  db: Db,
  found: {
    readonly runId: number;
    readonly gone: readonly Absence[];
    readonly breaker: Breaker;
  },
): Promise<{ deleted: number; held: number }> {
  await tx.execute(sql`
    insert into ${db.t.deletions} (user_id, state, witness, run_id, verified_at, evidence)
    select user_id, 'verified', 'manual', ${found.runId}, at,
           'missing from a proven window, ' || evidence
    from ${asRecords(found.gone)} where ${isNotErased(db.t)}`);
  return decideSuspects(tx, db, found.runId, found.breaker, 'manual');
}

/**
 * What a run found is decided together when it ends: all of it, or all held. Whom a person is to decide
 * about, or has refused to delete, no run decides: the person is asked again.
 */
export async function decideSuspects(
  tx: Executor,
  db: Db,
  runId: number,
  breaker: Breaker,
  witness: Witness = 'sweep',
): Promise<{ deleted: number; held: number }> {
  const { t } = db;
  const verified = await rows<Absence & { readonly isAsked: boolean }>(
    tx,
    sql`select distinct on (d.user_id) d.user_id as "userId", d.evidence,
               ${asInstant(sql`d.verified_at`)} as "observedAt",
               exists (select 1 from ${t.deletions} other
                       where other.user_id = d.user_id and other.state in ('held', 'rejected')
                         and other.run_id is distinct from ${runId}) as "isAsked"
        from ${t.deletions} d join ${t.users} u on u.user_id = d.user_id and u.deleted_at is null
        where d.run_id = ${runId} and d.state = 'verified' order by d.user_id, d.verified_at desc`,
  );
  const tooMany = await isHeldNow(tx, db, verified.length, 0, breaker);
  const held = verified.filter(({ isAsked }) => tooMany || isAsked);
  const free = verified.filter(({ isAsked }) => !tooMany && !isAsked);
  const { deleted } = await tombstone(tx, db, free, witness);
  // A newer finding takes the place of an older one that still waits.
  await tx.execute(sql`
    update ${t.deletions}
    set state = 'superseded', decided_at = clock_timestamp()
    where state = 'held' and run_id is distinct from ${runId}
      and user_id = any(${textArray(verified.map((a) => a.userId))})`);
  await tx.execute(sql`
    update ${t.deletions} set state = 'held'
    where run_id = ${runId} and state = 'verified'
      and user_id = any(${textArray(held.map((a) => a.userId))})`);
  await tx.execute(sql`
    update ${t.deletions} set state = 'tombstoned', decided_at = clock_timestamp()
    where run_id = ${runId} and state = 'verified' and user_id = any(${textArray(deleted)})`);
  // Those that something newer was seen of, or that an event removed meanwhile, are nobody's business now.
  await tx.execute(sql`
    update ${t.deletions} set state = 'superseded', decided_at = clock_timestamp()
    where run_id = ${runId} and state = 'verified'`);
  return { deleted: deleted.length, held: held.length };
}

/** Writes the tombstones. */
export async function tombstone(
  tx: Executor,
  { t }: Db,
  absences: readonly Absence[],
  witness: Witness,
): Promise<ApplySummary> {
  return applyObservations(
    tx,
    t,
    absences.map(({ userId, observedAt }) => ({ kind: 'absent', userId, observedAt })),
    witness,
  );
}
