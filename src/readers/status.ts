import { sql } from 'drizzle-orm';

import { describeError } from '../errors.ts';
import { rows, type Mirror } from '../mirror/database.ts';
import { describeAge } from './age.ts';
import { listConsumers } from './consumers.ts';
import { keepFresh, type RefreshTiming } from './keepFresh.ts';
import { listEndpoints } from './outgoing.ts';
import { countsOfRun } from './runs.ts';

import type {
  BudgetView,
  EventsView,
  GapView,
  LastRunView,
  LastSweepView,
  QueueView,
  RecentChange,
  StatusView,
  SweepView,
  UsersView,
  WatermarkView,
} from './statusView.ts';

type Db = Pick<Mirror, 'db' | 't' | 'schema'>;

/** Reads where the mirror stands; the queues' counts come from the function given, if any. */
export type StatusReader = (queues?: () => Promise<readonly QueueView[]>) => Promise<StatusView>;

/** How old the newest proof may be before the mirror counts as behind: two ticks of a pull, and a bit. */
const BEHIND_SECONDS = 180;
/**
 * Where the mirror stands, from Postgres alone: right also while no worker runs. What takes reading
 * much of a table is read once in 15 s, however many ask, so a process makes one reader for all.
 */
export function createStatusReader(mirror: Db, timing: RefreshTiming = {}): StatusReader {
  const readCounts = keepFresh(() => countMuch(mirror), timing);
  return async (queues = () => Promise.resolve([])) => {
    const [
      counts,
      summary,
      watermarks,
      sweep,
      lastSweep,
      events,
      budget,
      consumers,
      endpoints,
      lastError,
    ] = await Promise.all([
      readCounts(),
      readSummary(mirror),
      readWatermarks(mirror),
      readSweep(mirror),
      readLastSweep(mirror),
      readEvents(mirror),
      readBudgets(mirror),
      listConsumers(mirror),
      listEndpoints(mirror),
      readLastError(mirror),
    ]);
    const { lagSeconds, lossRate, webhookDelaySeconds, lastRuns, ...rest } = summary;
    const { lossRateDay, webhookDelayDaySeconds, live, tombstones } = counts.value;
    return {
      ...rest,
      ...judge(lagSeconds, sweep, lastSweep, live),
      lagSeconds,
      users: { live, tombstones, ageSeconds: counts.ageMs / 1000 },
      watermarks,
      lastRuns: Object.entries(lastRuns)
        .map(([pull, { run_id: runId, ...run }]) => ({ pull, runId, ...run }))
        .sort((a, b) => (a.pull < b.pull ? -1 : 1)),
      sweep,
      events: { ...events, lossRate, lossRateDay, webhookDelaySeconds, webhookDelayDaySeconds },
      ...(await askQueues(queues)),
      budget,
      consumers,
      endpoints,
      lastSweep,
      lastError,
    };
  };
}

type Asked = Pick<StatusView, 'queues' | 'queueProblem'>;

async function askQueues(ask: () => Promise<readonly QueueView[]>): Promise<Asked> {
  try {
    return { queues: await ask(), queueProblem: null };
  } catch (error) {
    return { queues: [], queueProblem: describeError(error) };
  }
}

/** The view that applications read too. */
interface Summary extends Pick<
  StatusView,
  | 'asOf'
  | 'lagSeconds'
  | 'gaps'
  | 'gapsRefilledLastDay'
  | 'heldDeletions'
  | 'lastProof'
  | 'lastProofAgeSeconds'
  | 'driftPpm'
  | 'driftSample'
  | 'driftRemains'
> {
  readonly lossRate: number | null;
  readonly webhookDelaySeconds: number | null;
  readonly gapWindows: readonly GapView[];
  readonly lastRuns: Readonly<
    Record<string, Omit<LastRunView, 'pull' | 'runId'> & { readonly run_id: number }>
  >;
}

async function readSummary({ db, t }: Db): Promise<Summary> {
  const [row] = await rows<Summary>(
    db,
    sql`select as_of as "asOf", extract(epoch from lag)::float8 as "lagSeconds", gaps::int,
               gap_windows as "gapWindows", last_runs as "lastRuns",
               (select count(*)::int from ${t.syncWindows}
                where gap_since is not null and proven_at > statement_timestamp() - interval '1 day')
                 as "gapsRefilledLastDay",
               held_deletions::int as "heldDeletions", loss_rate as "lossRate",
               extract(epoch from webhook_delay)::float8 as "webhookDelaySeconds",
               last_proof as "lastProof",
               extract(epoch from clock_timestamp() - last_proof)::float8 as "lastProofAgeSeconds",
               drift_ppm as "driftPpm", drift_sample as "driftSample",
               coalesce((select outcome = 'partial' from ${t.syncRuns}
                         where pull in ('sweep', 'verify') and outcome in ('complete', 'partial')
                         order by finished_at desc limit 1), false) as "driftRemains"
        from ${t.syncStatus}`,
  );
  if (!row) throw new Error('sync_status has no row');
  return row;
}

type Counts = Pick<UsersView, 'live' | 'tombstones'> &
  Pick<EventsView, 'lossRateDay' | 'webhookDelayDaySeconds'>;

/**
 * Both user counts are over an index alone, whole and partial; a count of the live ones would read the
 * table. One statement: the difference is of one moment.
 */
async function countMuch({ db, t }: Db): Promise<Counts> {
  const [row] = await rows<Counts & { readonly users: number }>(
    db,
    sql`select (select count(*) from ${t.users})::int as users,
               (select count(*) from ${t.users} where deleted_at is not null)::int as tombstones,
               loss_rate_day as "lossRateDay",
               extract(epoch from webhook_delay_day)::float8 as "webhookDelayDaySeconds"
        from ${t.syncStatus}`,
  );
  if (!row) throw new Error('sync_status has no row');
  const { users, ...counts } = row;
  return { ...counts, live: users - counts.tombstones };
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
    // The sweep's own count is of now, the other may be old.
    return { state: 'filling', sentence: `Filling: ${sweep?.rowsRead ?? live}${of} users so far` };
  }
  const lag = describeAge(lagSeconds);
  return Math.round(lagSeconds) > BEHIND_SECONDS
    ? { state: 'behind', sentence: `Behind: complete as of ${lag} ago` }
    : { state: 'complete', sentence: `Complete as of ${lag} ago` };
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
    sql`select r.run_id::float8 as "runId", r.started_at as "startedAt", r.total::int as total,
               counts.rows_read as "rowsRead", counts.requests,
               counts.open as "windowsOpen", counts.proven as "windowsProven"
        from ${t.syncRuns} r, ${countsOfRun({ t })}
        where r.pull = 'sweep' and r.outcome is null order by r.run_id limit 1`,
  );
  return row ?? null;
}

async function readLastSweep({ db, t }: Db): Promise<LastSweepView | null> {
  const [row] = await rows<LastSweepView>(
    db,
    sql`select run_id::float8 as "runId", finished_at as "finishedAt", outcome,
               counts.rows_read as "rowsRead", counts.requests
        from ${t.syncRuns} r, ${countsOfRun({ t })}
        where pull = 'sweep' and outcome is not null
        order by finished_at desc limit 1`,
  );
  return row ?? null;
}

type CountedEvents = Pick<
  EventsView,
  'pending' | 'parked' | 'parkedReason' | 'appliedLastHour' | 'receivedLastHour'
>;

/** One question an index, and of a time that stands still: asked otherwise, Postgres would read all events. */
async function readEvents({ db, t }: Db): Promise<CountedEvents> {
  const [row] = await rows<CountedEvents>(
    db,
    sql`select (select count(*) from ${t.events} where state = 'pending')::int as pending,
               (select count(*) from ${t.events} where state = 'parked')::int as parked,
               -- All were put off for as long when they were parked: who is due last came last.
               (select coalesce(error, 'no reason told') from ${t.events} where state = 'parked'
                order by due_at desc limit 1) as "parkedReason",
               (select count(*) from ${t.events}
                where applied_at > statement_timestamp() - interval '1 hour')::int
                 as "appliedLastHour",
               (select count(*) from ${t.events}
                where received_at > statement_timestamp() - interval '1 hour')::int
                 as "receivedLastHour"`,
  );
  if (!row) throw new Error('events were not counted');
  return row;
}

async function readBudgets({ db, t }: Db): Promise<BudgetView[]> {
  return rows<BudgetView>(
    db,
    sql`select name, granted::int, throttled::int,
               case when silent_until > clock_timestamp() then silent_until end as "silentUntil",
               greatest(0, coalesce(extract(epoch from silent_until - clock_timestamp()), 0))::float8
                 as "silentSeconds"
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
    // By the table's own seq: of the answer's, which is no bigint, no index knows the order.
    sql`select seq::float8, user_id as "userId", kind, changed, witness, observed_at as "observedAt",
               extract(epoch from clock_timestamp() - written_at)::float8 as "ageSeconds"
        from ${t.userChanges} as change where user_id <> '' order by change.seq desc limit ${most}`,
  );
}
