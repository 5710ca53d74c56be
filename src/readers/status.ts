import { sql } from 'drizzle-orm';

import { rows, type Mirror } from '../mirror/database.ts';

import type {
  BudgetView,
  EventsView,
  LastSweepView,
  QueueView,
  RecentChange,
  StatusView,
  SweepView,
  WatermarkView,
} from './statusView.ts';

type Db = Pick<Mirror, 'db' | 't'>;

/** How old the newest proof may be before the mirror counts as behind: two ticks of a pull, and a bit. */
const BEHIND_SECONDS = 180;

/** Where the mirror stands, from Postgres alone: right also while no worker runs. */
export async function readStatus(
  mirror: Db,
  queues: () => Promise<readonly QueueView[]>,
): Promise<StatusView> {
  const [summary, users, watermarks, sweep, lastSweep, events, budget, lastError] =
    await Promise.all([
      readSummary(mirror),
      readUsers(mirror),
      readWatermarks(mirror),
      readSweep(mirror),
      readLastSweep(mirror),
      readEvents(mirror),
      readBudgets(mirror),
      readLastError(mirror),
    ]);
  const { asOf, lagSeconds, gaps, heldDeletions, lossRate, lastProof, driftPpm } = summary;
  return {
    asOf,
    ...judge(lagSeconds, sweep, lastSweep, users.live),
    users,
    watermarks,
    gaps,
    sweep,
    events: { ...events, lossRate },
    queues: await queues().catch(() => []),
    heldDeletions,
    budget,
    lastSweep,
    lastProof,
    driftPpm,
    lastError,
  };
}

/** The view that applications read too. */
interface Summary extends Pick<
  StatusView,
  'asOf' | 'gaps' | 'heldDeletions' | 'lastProof' | 'driftPpm'
> {
  readonly lagSeconds: number | null;
  readonly lossRate: number | null;
}

async function readSummary({ db, t }: Db): Promise<Summary> {
  const [row] = await rows<Summary>(
    db,
    sql`select as_of as "asOf", extract(epoch from lag)::float8 as "lagSeconds", gaps::int,
               held_deletions::int as "heldDeletions", loss_rate as "lossRate",
               last_proof as "lastProof", drift_ppm as "driftPpm"
        from ${t.syncStatus}`,
  );
  if (!row) throw new Error('sync_status has no row');
  return row;
}

function judge(
  lagSeconds: number | null,
  sweep: SweepView | null,
  lastSweep: LastSweepView | null,
  live: number,
): Pick<StatusView, 'state' | 'sentence'> {
  if (lastSweep?.outcome === 'blocked' && sweep === null) {
    return {
      state: 'blocked',
      sentence: 'Blocked: the last sweep could not be believed; nothing was removed',
    };
  }
  if (lagSeconds === null) {
    const of = sweep?.total == null ? '' : ` of ${sweep.total}`;
    return { state: 'filling', sentence: `Filling: ${live}${of} users so far` };
  }
  const lag = Math.max(0, Math.round(lagSeconds));
  return lag > BEHIND_SECONDS
    ? { state: 'behind', sentence: `Behind: complete as of ${describeAge(lag)} ago` }
    : { state: 'complete', sentence: `Complete as of ${describeAge(lag)} ago` };
}

function describeAge(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3_600)} h`;
}

async function readUsers({ db, t }: Db): Promise<StatusView['users']> {
  const [row] = await rows<{ live: number; tombstones: number }>(
    db,
    sql`select count(*) filter (where deleted_at is null)::int as live,
               count(deleted_at)::int as tombstones from ${t.users}`,
  );
  return row ?? { live: 0, tombstones: 0 };
}

async function readWatermarks({ db, t }: Db): Promise<WatermarkView[]> {
  return rows<WatermarkView>(
    db,
    sql`select pull, complete_to as "completeTo",
               extract(epoch from clock_timestamp() - complete_to)::float8 as "lagSeconds"
        from ${t.watermarks} order by pull`,
  );
}

async function readSweep({ db, t }: Db): Promise<SweepView | null> {
  const [row] = await rows<SweepView>(
    db,
    sql`select r.run_id::int as "runId", r.started_at as "startedAt", r.total::int as total,
               r.rows_read::int as "rowsRead", r.requests,
               count(w.*) filter (where w.state <> 'proven')::int as "windowsOpen",
               count(w.*) filter (where w.state = 'proven')::int as "windowsProven"
        from ${t.syncRuns} r left join ${t.syncWindows} w using (run_id)
        where r.pull = 'sweep' and r.outcome is null
        group by r.run_id order by r.run_id limit 1`,
  );
  return row ?? null;
}

async function readLastSweep({ db, t }: Db): Promise<LastSweepView | null> {
  const [row] = await rows<LastSweepView>(
    db,
    sql`select run_id::int as "runId", finished_at as "finishedAt", outcome,
               rows_read::int as "rowsRead", requests
        from ${t.syncRuns} where pull = 'sweep' and outcome is not null
        order by run_id desc limit 1`,
  );
  return row ?? null;
}

async function readEvents({ db, t }: Db): Promise<Omit<EventsView, 'lossRate'>> {
  const [row] = await rows<Omit<EventsView, 'lossRate'>>(
    db,
    sql`select count(*) filter (where state = 'pending')::int as pending,
               count(*) filter (where state = 'parked')::int as parked,
               count(*) filter (where applied_at > clock_timestamp() - interval '1 hour')::int
                 as "appliedLastHour",
               count(*) filter (where received_at > clock_timestamp() - interval '1 hour')::int
                 as "receivedLastHour"
        from ${t.events}
        where received_at > clock_timestamp() - interval '1 hour' or state in ('pending', 'parked')`,
  );
  return row ?? { pending: 0, parked: 0, appliedLastHour: 0, receivedLastHour: 0 };
}

async function readBudgets({ db, t }: Db): Promise<BudgetView[]> {
  return rows<BudgetView>(
    db,
    sql`select name, granted::int, throttled::int,
               case when silent_until > clock_timestamp() then silent_until end as "silentUntil"
        from ${t.budgets} order by name`,
  );
}

async function readLastError({ db, t }: Db): Promise<StatusView['lastError']> {
  const [row] = await rows<{ at: string; message: string }>(
    db,
    sql`select updated_at as at, error as message from ${t.syncWindows}
        where state <> 'proven' and error is not null order by updated_at desc limit 1`,
  );
  return row ?? null;
}

/** The latest changes, newest first; ids and names of fields, no values. */
export async function readRecentChanges({ db, t }: Db, most: number): Promise<RecentChange[]> {
  return rows<RecentChange>(
    db,
    sql`select seq::int, user_id as "userId", kind, changed, witness, observed_at as "observedAt",
               extract(epoch from clock_timestamp() - written_at)::float8 as "ageSeconds"
        from ${t.userChanges} order by seq desc limit ${most}`,
  );
}
