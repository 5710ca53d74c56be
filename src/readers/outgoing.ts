import { sql } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { EndpointView } from './statusView.ts';

type Db = Pick<Mirror, 'db' | 't' | 'schema'>;

/** How the deliveries to each endpoint stand that is set, or was until now. */
export async function listEndpoints({ db, t, schema }: Db): Promise<EndpointView[]> {
  return rows<EndpointView>(
    db,
    sql`select e.endpoint_id as "endpointId", e.host, e.state, e.reason,
               deliveries.waiting, deliveries.parked,
               extract(epoch from clock_timestamp() - least(deliveries.oldest, unread.written_at))::float8
                 as "oldestSeconds"
        from ${t.outgoingEndpoints} e
        cross join lateral ${sql.identifier(schema)}.parse_cursor(e.cursor) as place
        left join lateral (
          select written_at from ${t.userChanges} c
          where (c.transaction_id, c.seq) > (place.transaction_id, place.seq)
          order by c.transaction_id, c.seq limit 1) as unread on true
        cross join lateral (
          select (count(*) filter (where state = 'waiting'))::int as waiting,
                 (count(*) filter (where state = 'parked'))::int as parked,
                 -- What waits for a person, not for us, is told by the parked ones.
                 min(written_at) filter (where state = 'waiting' and not exists (
                   select from ${t.outgoingDeliveries} before
                   where before.endpoint_id = d.endpoint_id and before.user_id = d.user_id
                     and before.delivery_id < d.delivery_id and before.state = 'parked')) as oldest
          from ${t.outgoingDeliveries} d
          where d.endpoint_id = e.endpoint_id and d.state in ('waiting', 'parked')) as deliveries
        where e.state <> 'removed'
        order by e.host, e.endpoint_id`,
  );
}

/** A delivery that has failed at least once, or was given up. */
export interface TroubledDelivery {
  readonly deliveryId: number;
  readonly endpointId: string;
  readonly host: string;
  readonly userId: string;
  readonly kind: string;
  /** waiting or parked */
  readonly state: string;
  readonly attempts: number;
  readonly error: string | null;
  /** When it is tried again; null where it is parked. */
  readonly dueAt: string | null;
  readonly writtenAt: string;
}

/** Those that were given up first, then those that fail; the oldest of each first. */
export async function listTroubled({ db, t }: Db, most: number): Promise<TroubledDelivery[]> {
  return rows<TroubledDelivery>(
    db,
    sql`select d.delivery_id::float8 as "deliveryId", d.endpoint_id as "endpointId", e.host,
               d.user_id as "userId", d.kind, d.state, d.attempts, d.error,
               case when d.state = 'waiting' then ${asInstant(sql`d.due_at`)} end as "dueAt",
               ${asInstant(sql`d.written_at`)} as "writtenAt"
        from ${t.outgoingDeliveries} d join ${t.outgoingEndpoints} e using (endpoint_id)
        where d.state = 'parked' or d.state = 'waiting' and d.error is not null
        order by d.state = 'parked' desc, d.delivery_id limit ${most}`,
  );
}
