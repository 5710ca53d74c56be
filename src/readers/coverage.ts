import { sql, type SQL } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/*
 * In: the ledger's windows of the last hours. Out: per pull what of that time is proven complete, and what
 * is not. A sweep's windows are of the times at which users were created; of its runs the latest counts.
 */

type Db = Pick<Mirror, 'db' | 't'>;

/** Neighbouring proven windows as one, or one that is not proven. */
export interface CoveredWindow {
  readonly from: Instant;
  readonly to: Instant;
  readonly state: 'proven' | 'open' | 'gap';
  /** Why it is not proven, where that is known. */
  readonly error: string | null;
}

export interface PullCoverage {
  readonly pull: string;
  /** Proven complete up to here; null before the first time. */
  readonly watermark: Instant | null;
  /** Oldest first; of more than 500 the latest. */
  readonly windows: readonly CoveredWindow[];
}

export interface Coverage {
  readonly from: Instant;
  readonly to: Instant;
  readonly pulls: readonly PullCoverage[];
}

const PULLS = ['modified', 'audit', 'sweep'] as const;
/** Windows told of a pull. */
const MOST = 500;
/** Both ends of a sweep's windows are in them, to the millisecond. */
const TOUCHING = sql.raw(`interval '1 millisecond'`);
/** One that began before the time asked for and reaches into it is among the last of those before. */
const NEAREST = 200;

/** What of the last so many hours is proven, a pull at a time. */
export async function readCoverage(mirror: Db, hours: number): Promise<Coverage> {
  const { db, t } = mirror;
  const [range] = await rows<{
    from: Instant;
    to: Instant;
    watermarks: Readonly<Record<string, Instant | null>>;
  }>(
    db,
    sql`select ${asInstant(sql`(statement_timestamp() - make_interval(hours => ${hours}))`)} as "from",
               ${asInstant(sql`statement_timestamp()`)} as "to",
               (select coalesce(jsonb_object_agg(pull, ${asInstant(sql`complete_to`)}), '{}')
                from ${t.watermarks}) as watermarks`,
  );
  if (!range) throw new Error('the database did not tell the time');
  const { from, to, watermarks } = range;
  const pulls = PULLS.map(async (pull) => ({
    pull,
    watermark: watermarks[pull] ?? null,
    windows: await listWindows(mirror, pull, { from, to }),
  }));
  return { from, to, pulls: await Promise.all(pulls) };
}

async function listWindows(
  { db, t }: Db,
  pull: (typeof PULLS)[number],
  range: { readonly from: Instant; readonly to: Instant },
): Promise<CoveredWindow[]> {
  const from = sql`${range.from}::timestamptz`;
  const to = sql`${range.to}::timestamptz`;
  // Only the youngest window of a sweep is open. Asked once: a question for each window would be dear.
  const latest = sql`from ${t.syncRuns} where pull = 'sweep' order by run_id desc limit 1`;
  const endOfSweep = pull === 'sweep' ? sql`(select covers_to ${latest})` : sql`null`;
  const found = await rows<CoveredWindow>(
    db,
    sql`
      with told as (
        select window_id, greatest(from_time, ${from}) as begins, error,
               -- A window around an event ends after it was read: proven it is no further than to then.
               least(coalesce(to_time, ${endOfSweep}), proven_at, ${to}) as ends,
               case when state = 'proven' then 'proven'
                    when state = 'gap' or gap_since is not null then 'gap' else 'open' end as state
        from (${nearWindows({ t }, pull, from, to)}) as w
      ), proven as (
        select begins, ends, sum(case when begins <= reached + ${TOUCHING} then 0 else 1 end) over sorted as stretch
        from (select *, max(ends) over (order by begins, window_id
                                        rows between unbounded preceding and 1 preceding) as reached
              from told where state = 'proven' and begins < ends) as one
        window sorted as (order by begins, window_id)
      ), merged as (
        select min(begins) as begins, max(ends) as ends, 'proven' as state, null as error
        from proven group by stretch
        union all
        select begins, ends, state, error from told where state <> 'proven' and begins < ends
      )
      select ${asInstant(sql`begins`)} as "from", ${asInstant(sql`ends`)} as "to", state, error
      from merged order by begins desc, ends desc limit ${MOST}`,
  );
  return found.reverse();
}

/** Those that may reach into the time, by the index on where they begin. */
function nearWindows({ t }: Pick<Mirror, 't'>, pull: string, from: SQL, to: SQL): SQL {
  const ofPull =
    pull === 'sweep'
      ? sql`pull = 'sweep' and run_id = (
              select run_id from ${t.syncRuns} where pull = 'sweep' order by run_id desc limit 1)`
      : sql`pull = ${pull}`;
  return sql`
    (select * from ${t.syncWindows}
     where ${ofPull} and from_time >= ${from} and from_time < ${to})
    union all
    (select * from ${t.syncWindows}
     where ${ofPull} and from_time < ${from} order by from_time desc limit ${NEAREST})`;
}
