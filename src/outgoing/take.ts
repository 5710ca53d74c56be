import { sql, type SQL } from 'drizzle-orm';

import { describeError, findCode } from '../errors.ts';
import {
  asInstant,
  rows,
  textArray,
  transaction,
  type Executor,
  type Mirror,
} from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/*
 * In: the feed, and an endpoint's place in it. Out: deliveries that are ours to post for a while.
 *
 * What is to be delivered is put down as rows in the transaction that moves the endpoint's cursor, and a row is
 * taken by whoever marks it: a killed process, a flushed queue or two replicas at once change nothing. Of a user
 * only the oldest row that is neither delivered nor dropped can be taken; the later ones wait behind it.
 */

/** A change on its way to an endpoint. */
export interface Delivery {
  readonly deliveryId: number;
  readonly webhookId: string;
  readonly cursor: string;
  readonly userId: string;
  readonly kind: string;
  readonly changed: readonly string[];
  readonly observedAt: Instant;
  readonly writtenAt: Instant;
  readonly witness: string;
  /** This one counted. */
  readonly attempts: number;
}

export interface TakeOptions {
  /** Tells this mirror's messages from those of others that post to the same receiver. */
  readonly mirrorId: string;
  /** Deliveries to one endpoint under way at once, of all processes together. */
  readonly concurrency: number;
}

/** Longer than a post can take: whoever has not told by then is dead, or cut off from Postgres. */
export const TAKEN_SECONDS = 30;
/** Put down at once. */
const READ_AHEAD = 500;
/** So often at a time, at most: nobody reads past this transaction in the feed while it is open. */
const MOST_PAGES = 4;
/**
 * Rows that wait, at most: a receiver that is away leaves the rest in the feed. Those that wait behind a failing
 * or parked one of their user count too, so it is more than such users will ever come to: at the bound nobody
 * goes on but who waits already.
 */
const MOST_WAITING = 50_000;

/** What `changes_since()` says where a cursor leads nowhere any more. */
const CUT_OFF = new Set(['RC001', 'RC002']);

/** Puts down what is new and takes what is due. Of an endpoint that is disabled or no longer set: nothing. */
export async function takeDeliveries(
  mirror: Mirror,
  endpointId: string,
  options: TakeOptions,
): Promise<Delivery[]> {
  try {
    return await takeOnce(mirror, endpointId, options);
  } catch (error) {
    if (!CUT_OFF.has(findCode(error) ?? '')) throw error;
    // What was put down before is still delivered; what came after it is lost to this endpoint, and told.
    const { db, t } = mirror;
    await db.execute(sql`
      update ${t.outgoingEndpoints}
      set state = 'cut off', reason = ${describeError(error)}, changed_at = clock_timestamp()
      where endpoint_id = ${endpointId} and state = 'active'`);
    return takeOnce(mirror, endpointId, options);
  }
}

/** Those of these endpoints of which there may be something to take; cheap enough to ask every second. */
export async function listDue(
  { db, t, schema }: Mirror,
  endpointIds: readonly string[],
): Promise<string[]> {
  const found = await rows<{ endpointId: string }>(
    db,
    sql`select e.endpoint_id as "endpointId" from ${t.outgoingEndpoints} e
        where e.endpoint_id = any(${textArray(endpointIds)}) and e.state in ('active', 'cut off') and (
          exists (select from ${t.outgoingDeliveries} o
                  where o.endpoint_id = e.endpoint_id and ${isDue({ t })})
          or e.state = 'active' and exists (
            select from ${sql.identifier(schema)}.parse_cursor(e.cursor) as place
            -- Of another history of the database: it leads nowhere, which is told when it is read.
            where not ${sql.identifier(schema)}.is_in_feed(place.transaction_id, place.seq) or exists (
              select from ${t.userChanges} c
              where (c.transaction_id, c.seq) > (place.transaction_id, place.seq)))
            and ${countWaiting({ t }, sql`e.endpoint_id`)} < ${MOST_WAITING})`,
  );
  return found.map(({ endpointId }) => endpointId);
}

function takeOnce(mirror: Mirror, endpointId: string, options: TakeOptions): Promise<Delivery[]> {
  return transaction(mirror, async (tx) => {
    const endpoint = await lockEndpoint(tx, mirror, endpointId);
    if (endpoint === null || !['active', 'cut off'].includes(endpoint.state)) return [];
    const { waiting, taken } = await countRows(tx, mirror, endpointId);
    const free = options.concurrency - taken;
    const found = free > 0 ? await take(tx, mirror, endpointId, free) : [];
    // Only where less is due than could be posted: what is due may all be behind one that fails.
    if (endpoint.state !== 'active' || waiting >= MOST_WAITING) return found;
    for (let page = 0; found.length < free && page < MOST_PAGES; page++) {
      const count = await putDown(tx, mirror, endpointId, options.mirrorId);
      if (count > 0) found.push(...(await take(tx, mirror, endpointId, free - found.length)));
      if (count < READ_AHEAD) break;
    }
    return found;
  });
}

interface Locked {
  readonly state: string;
}

/** Held to the end of the transaction: one at a time puts down and takes of an endpoint. */
async function lockEndpoint(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  endpointId: string,
): Promise<Locked | null> {
  const [endpoint] = await rows<Locked>(
    tx,
    sql`select state from ${t.outgoingEndpoints} where endpoint_id = ${endpointId} for update`,
  );
  return endpoint ?? null;
}

async function countRows(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  endpointId: string,
): Promise<{ waiting: number; taken: number }> {
  const [counts] = await rows<{ waiting: number; taken: number }>(
    tx,
    sql`select ${countWaiting({ t }, sql`${endpointId}`)} as waiting,
               (select count(*)::int from ${t.outgoingDeliveries}
                where endpoint_id = ${endpointId} and taken_until > clock_timestamp()) as taken`,
  );
  return counts ?? { waiting: 0, taken: 0 };
}

function countWaiting({ t }: Pick<Mirror, 't'>, endpointId: SQL): SQL {
  return sql`(select count(*)::int from (
    select from ${t.outgoingDeliveries} w
    where w.endpoint_id = ${endpointId} and w.state = 'waiting' limit ${MOST_WAITING}) as waiting)`;
}

/** One statement: the rows and the cursor behind them, or neither. Returns how many. */
async function putDown(
  tx: Executor,
  { t, schema }: Pick<Mirror, 't' | 'schema'>,
  endpointId: string,
  mirrorId: string,
): Promise<number> {
  // Not the cursor, which a restore may change: what a message is about, and when it came to be.
  const identity = sql`concat_ws('|', ${mirrorId}::text, seq, user_id, kind, extract(epoch from written_at))`;
  const [read] = await rows<{ count: number }>(
    tx,
    sql`
    with read as materialized (
      select * from ${sql.identifier(schema)}.changes_since(
          (select cursor from ${t.outgoingEndpoints} where endpoint_id = ${endpointId}), ${READ_AHEAD})
        with ordinality as c(seq, user_id, kind, changed, observed_at, witness, written_at, cursor, nth)),
    put_down as (
      insert into ${t.outgoingDeliveries} (endpoint_id, webhook_id, cursor, user_id, kind, changed,
                                           observed_at, witness, written_at)
      select ${endpointId}, 'msg_' || left(encode(sha256(convert_to(${identity}, 'UTF8')), 'hex'), 32),
             cursor, user_id, kind, changed, observed_at, witness, written_at
      from read order by nth),
    moved as (
      update ${t.outgoingEndpoints}
      set cursor = (select cursor from read order by nth desc limit 1)
      where endpoint_id = ${endpointId} and exists (select from read))
    select count(*)::int as count from read`,
  );
  return read?.count ?? 0;
}

/**
 * Of the row `o`: due, nobody's, and the oldest of its user that is still to be delivered. One look into an
 * index each: the planner would join a user's many to each other.
 */
function isDue({ t }: Pick<Mirror, 't'>): SQL {
  return sql`
    o.state = 'waiting' and o.due_at <= clock_timestamp()
      and (o.taken_until is null or o.taken_until <= clock_timestamp())
      and o.delivery_id = (select first.delivery_id from ${t.outgoingDeliveries} first
                           where first.endpoint_id = o.endpoint_id and first.user_id = o.user_id
                             and first.state in ('waiting', 'parked')
                           order by first.delivery_id limit 1)`;
}

async function take(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  endpointId: string,
  most: number,
): Promise<Delivery[]> {
  const taken = await rows<Delivery>(
    tx,
    sql`update ${t.outgoingDeliveries}
        set attempts = attempts + 1,
            taken_until = clock_timestamp() + make_interval(secs => ${TAKEN_SECONDS})
        where delivery_id = any(array(
          select o.delivery_id from ${t.outgoingDeliveries} o
          where o.endpoint_id = ${endpointId} and ${isDue({ t })}
          order by o.due_at, o.delivery_id limit ${most}))
        returning delivery_id::float8 as "deliveryId", webhook_id as "webhookId", cursor,
                  user_id as "userId", kind, changed, ${asInstant(sql`observed_at`)} as "observedAt",
                  ${asInstant(sql`written_at`)} as "writtenAt", witness, attempts`,
  );
  return taken.sort((a, b) => a.deliveryId - b.deliveryId);
}
