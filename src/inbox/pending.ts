import { sql } from 'drizzle-orm';

import { rows, textArray, type Mirror } from '../mirror/database.ts';

type Db = Pick<Mirror, 'db' | 't'>;

/** An event to be applied, and how long until it is due. */
export interface Pending {
  readonly eventId: string;
  /** 0: now. */
  readonly waitMs: number;
}

/** Pending events due now or within `seconds` (below 0: overdue by that much), the longest waiting first. */
export async function listPending(
  { db, t }: Db,
  { seconds, most }: { readonly seconds: number; readonly most: number },
): Promise<Pending[]> {
  return rows<Pending>(
    db,
    sql`select event_id as "eventId",
               greatest(0, extract(epoch from due_at - clock_timestamp()) * 1000)::float8 as "waitMs"
        from ${t.events}
        where state = 'pending' and due_at <= clock_timestamp() + make_interval(secs => ${seconds})
        order by due_at limit ${most}`,
  );
}

export async function countPending({ db, t }: Db): Promise<number> {
  const [row] = await rows<{ pending: number }>(
    db,
    sql`select count(*)::int as pending from ${t.events} where state = 'pending'`,
  );
  return row?.pending ?? 0;
}

/** How many of these events are applied. */
export async function countApplied({ db, t }: Db, eventIds: readonly string[]): Promise<number> {
  const [row] = await rows<{ applied: number }>(
    db,
    sql`select count(*)::int as applied from ${t.events}
        where state = 'applied' and event_id = any(${textArray(eventIds)})`,
  );
  return row?.applied ?? 0;
}
