import { sql, type SQL } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

/** A run of a pull, as far as it has come. */
export interface RunView {
  readonly runId: number;
  /** complete, partial or blocked; null while it runs. */
  readonly outcome: string | null;
  /** Users read so far, each counted once. */
  readonly users: number;
  /** Users in the directory, as Descope counted them at the start; null until it did. */
  readonly total: number | null;
  readonly requests: number;
  readonly created: number;
  readonly updated: number;
  readonly deleted: number;
  /** Deletions this run found that wait for a person. */
  readonly held: number;
  readonly reason: string | null;
}

/** What the windows of run `r` have counted; before 0003 what was written was counted in the run alone. */
export function countsOfRun({ t }: Pick<Mirror, 't'>): SQL {
  return sql`lateral (
    select coalesce(sum(rows_read), 0)::int as rows_read, coalesce(sum(requests), 0)::int as requests,
           (r.created + coalesce(sum(created), 0))::int as created,
           (r.updated + coalesce(sum(updated), 0))::int as updated,
           count(*) filter (where state <> 'proven')::int as open,
           count(*) filter (where state = 'proven')::int as proven
    from ${t.syncWindows} w where w.run_id = r.run_id) as counts`;
}

/** @throws where the ledger has no such run */
export async function readRun(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  runId: number,
): Promise<RunView> {
  const [row] = await rows<RunView>(
    db,
    sql`select run_id::float8 as "runId", outcome, counts.rows_read as users, total::int as total,
               counts.requests, counts.created, counts.updated, deleted::int, error as reason,
               (select count(*)::int from ${t.deletions} d
                where d.run_id = r.run_id and d.state = 'held') as held
        from ${t.syncRuns} r, ${countsOfRun({ t })} where run_id = ${runId}`,
  );
  if (!row) throw new Error(`sweep ${runId} is not in the ledger`);
  return row;
}

/** When everyone was last proven equal, by a sweep or a verification; null where that never was. */
export async function readLastProof({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<string | null> {
  const [row] = await rows<{ at: string | null }>(
    db,
    sql`select ${asInstant(sql`last_proof`)} as at from ${t.syncStatus}`,
  );
  return row?.at ?? null;
}
