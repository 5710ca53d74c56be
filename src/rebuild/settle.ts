import { sql } from 'drizzle-orm';

import { applyObservations, isNotErased } from '../apply/apply.ts';
import { asRecords, decideSuspects } from '../apply/deletions.ts';
import { approveHeld } from '../apply/held.ts';
import { LOAD_LIMIT, lookUp, type LookUp } from '../apply/lookUp.ts';
import { rows, textArray, transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { mirrorTables } from '../mirror/schema.ts';
import { carryAll, type Carrying } from './carry.ts';
import { Unsettled } from './failures.ts';

import type { Call } from '../descope/types.ts';
import type { RebuildDeps } from './fill.ts';

/*
 * In: a next generation that has been filled. Out: one in which nobody is missing or there in error, and that
 * knows all that was written meanwhile to the one that is read. Whoever is live in only one of the two is
 * loaded by id. Who is gone is decided like a sweep's suspects, in the generation that is read, so the swap
 * itself removes nobody (guarantee G4).
 */

/** How the two are brought together; the instants are proven by the ledger. */
export async function carryingOf(
  { db, t, schema }: Mirror,
  { includeTestUsers }: Pick<RebuildDeps, 'includeTestUsers'>,
  runId: number,
): Promise<Carrying> {
  const [row] = await rows<{ provenAt: string | null }>(
    db,
    sql`select max(proven_at)::text as "provenAt" from ${t.syncWindows} where run_id = ${runId}`,
  );
  const rule = sql`
    f.deleted_at is not null or n.user_id is not null
    -- Seen after the last window had been read: newer than its silence about them.
    or f.observed_at > ${row?.provenAt ?? 'infinity'}::timestamptz
    -- Whom Descope was not asked about, and whom a person wants to keep.
    or not (${ofAlias(includeTestUsers)})
    or exists (select from ${t.deletions} d
               where d.user_id = f.user_id and d.run_id = ${runId} and d.state = 'rejected')`;
  return { from: t, to: mirrorTables(schema, '_next'), rule };
}

const ofAlias = (includeTestUsers: boolean) => (includeTestUsers ? sql`true` : sql`not f.test`);

export interface Settled {
  readonly deleted: number;
  /** Deletions that wait for a person: the generations must not be swapped. */
  readonly held: number;
}

/**
 * Brings the next generation up to date and decides about who is live in one only. With `decides` false it
 * leaves the generation that is read as it is.
 * @throws the client's errors, Stopping
 */
export async function settle(
  deps: RebuildDeps,
  runId: number,
  options: { readonly decides: boolean; readonly approves: boolean },
  call: Call,
): Promise<Settled> {
  const { mirror, client } = deps;
  const carrying = await carryingOf(mirror, deps, runId);
  await carryAll(mirror, carrying);
  await lookAtOdd(deps, runId, carrying, options.decides, call);
  if (!options.decides) return { deleted: 0, held: 0 };
  const decided = await transaction(mirror, (tx) =>
    decideSuspects(tx, mirror, runId, deps.breaker),
  );
  const held = await listHeld(mirror, runId);
  if (!options.approves || held.length === 0) {
    return { deleted: decided.deleted, held: held.length };
  }
  const approved = await approveHeld({ mirror, client }, held, call.signal);
  const deleted = decided.deleted + approved.tombstoned;
  return { deleted, held: (await listHeld(mirror, runId)).length };
}

/** A user who is live in one generation only. */
interface Odd {
  readonly userId: string;
  /** Live where it is read; else in the next one. */
  readonly isRead: boolean;
  /** Seen before the rebuild began, so a proven window has not shown them. */
  readonly isBeyond: boolean;
}

/**
 * Users of the generation that is read who are live in one only. Those whom only the next one knows are what
 * a rebuild is for, and their windows are proven.
 */
const whereOdd = sql`(f.deleted_at is null) <> (n.user_id is not null and n.deleted_at is null)`;

/** Of users written a moment ago. @throws Unsettled where one has to be looked at before a swap */
export async function assertSettled(
  tx: Executor,
  { from, to }: Omit<Carrying, 'rule'>,
  userIds: readonly string[],
): Promise<void> {
  const odd = await rows(
    tx,
    sql`select 1 from ${from.users} f left join ${to.users} n using (user_id)
        where f.user_id = any(${textArray(userIds)}) and ${whereOdd} limit 1`,
  );
  if (odd.length > 0) throw new Unsettled();
}

/** Loads who is live in one generation only, and writes what the loads show. */
async function lookAtOdd(
  deps: RebuildDeps,
  runId: number,
  carrying: Carrying,
  decides: boolean,
  call: Call,
): Promise<void> {
  for (let after = ''; ;) {
    const odd = await listOdd(deps.mirror.db, carrying, runId, after);
    const last = odd.at(-1);
    if (!last) return;
    const beyond = new Set(odd.filter(({ isBeyond }) => isBeyond).map(({ userId }) => userId));
    const ids = odd.map(({ userId }) => userId);
    const answer = await lookUp(deps.client, ids, (userId) => beyond.has(userId), call);
    await transaction(deps.mirror, (tx) => keep(tx, { runId, carrying, odd, answer, decides }));
    after = last.userId;
  }
}

/** A load's worth of them, but for those whose deletion waits for a person. */
async function listOdd(
  tx: Executor,
  { from, to }: Carrying,
  runId: number,
  after: string,
): Promise<Odd[]> {
  return rows<Odd>(
    tx,
    sql`
      select user_id as "userId", f.deleted_at is null as "isRead",
             f.deleted_at is null and f.created_time is not null
               and f.observed_at < (select started_at from ${from.syncRuns} where run_id = ${runId})
               as "isBeyond"
      from ${from.users} f left join ${to.users} n using (user_id)
      where f.user_id > ${after} and ${whereOdd}
        and not exists (select from ${from.deletions} d
          where d.user_id = f.user_id and d.run_id = ${runId} and d.state = 'held')
      order by f.user_id limit ${LOAD_LIMIT}`,
  );
}

/** What loads have said of users who are live in one generation only. */
interface Found {
  readonly runId: number;
  readonly carrying: Carrying;
  readonly odd: readonly Odd[];
  readonly answer: LookUp;
  readonly decides: boolean;
}

async function keep(tx: Executor, { runId, carrying, odd, answer, decides }: Found): Promise<void> {
  const { from, to } = carrying;
  const { present, absent } = answer;
  const known = new Map(odd.map((one) => [one.userId, one]));
  const toDecide = absent.filter(({ userId }) => known.get(userId)?.isRead === true);
  const goneThere = absent
    .filter((absence) => !toDecide.includes(absence))
    .map(({ userId, observedAt }) => ({ kind: 'absent', userId, observedAt }) as const);
  await applyObservations(tx, to, [...present, ...goneThere], 'sweep');
  if (!decides) return;
  await applyObservations(tx, from, present, 'sweep');
  const absences = toDecide.map((absence) => ({
    ...absence,
    evidence: known.get(absence.userId)?.isBeyond
      ? `missing from a proven window, ${absence.evidence}`
      : absence.evidence,
  }));
  await tx.execute(sql`
    insert into ${from.deletions} (user_id, state, witness, run_id, verified_at, evidence)
    select user_id, 'verified', 'sweep', ${runId}, at, evidence from ${asRecords(absences)}
    where ${isNotErased(from)}`);
}

/** Users whose deletion this run has found and a person has not decided, and who were not seen again since. */
async function listHeld({ db, t, schema }: Mirror, runId: number): Promise<string[]> {
  const next = mirrorTables(schema, '_next');
  const found = await rows<{ userId: string }>(
    db,
    sql`select distinct user_id as "userId" from ${t.deletions} d
        join ${t.users} f using (user_id) left join ${next.users} n using (user_id)
        where d.run_id = ${runId} and d.state = 'held' and f.deleted_at is null and ${whereOdd}
        order by user_id`,
  );
  return found.map(({ userId }) => userId);
}
