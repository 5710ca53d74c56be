import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { asInstant, databaseNow, rows, type Mirror } from '../mirror/database.ts';
import { whereNamed } from '../mirror/named.ts';

import type { Instant } from '../observation.ts';

/*
 * In: which events of the inbox to act on again. Out: these events pending, as if they had just come.
 * Never touches an archived event, which is kept without being acted on, nor one that is pending.
 */

/** All of these must hold. */
export interface ReplaySelection {
  /** Received then or later. */
  readonly since: Instant | null;
  /** Names this user, by id or by a login id of theirs alone. */
  readonly userId: string | null;
  /** Only parked ones; else those that were applied as well. */
  readonly failedOnly: boolean;
}

/** Events a statement: short enough to be no hindrance to a service that runs. */
const BATCH = 1_000;

interface Batch {
  readonly written: number;
  readonly receivedAt: Instant;
  readonly eventId: string;
}

/**
 * Puts the selected events back to pending and returns how many those were. Goes by the time of
 * receipt up to now, so that events which a running service applies at once are not met again.
 * @throws Stopping between two batches; those put back stay so
 */
export async function putBackEvents(
  mirror: Pick<Mirror, 'db' | 't'>,
  selection: ReplaySelection,
  signal: AbortSignal,
): Promise<number> {
  const untilAt = await databaseNow(mirror);
  let after = { receivedAt: selection.since ?? '-infinity', eventId: '' };
  let putBack = 0;
  for (;;) {
    if (signal.aborted) throw new Stopping();
    const batch = await putBackBatch(mirror, selection, after, untilAt);
    if (!batch) return putBack;
    putBack += batch.written;
    after = batch;
  }
}

async function putBackBatch(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  { userId, failedOnly }: ReplaySelection,
  after: Pick<Batch, 'receivedAt' | 'eventId'>,
  untilAt: Instant,
): Promise<Batch | undefined> {
  const wanted = failedOnly ? sql`state = 'parked'` : sql`state in ('applied', 'parked')`;
  const loginIds = sql`coalesce((select login_ids from ${t.users} where user_id = ${userId}), '{}')`;
  const named =
    userId === null
      ? sql`select event_id, received_at, state from ${t.events}`
      : sql`select event_id, received_at, state from ${t.events} where ${whereNamed([userId], loginIds)}`;
  // Of one user the indexes know all: asked for the oldest at once, Postgres may go through the inbox.
  const first = userId === null ? sql`not materialized` : sql`materialized`;
  const [batch] = await rows<Batch>(
    db,
    sql`
      with named as ${first} (${named}), chosen as (
        select event_id, received_at from named
        where ${wanted} and received_at <= ${untilAt}::timestamptz
          and (received_at, event_id) > (${after.receivedAt}::timestamptz, ${after.eventId})
        order by received_at, event_id limit ${BATCH}
      ), written as (
        update ${t.events}
        set state = 'pending', attempts = 0, looks = 0, due_at = clock_timestamp(),
            applied_at = null, outcome = null, error = null
        where event_id in (select event_id from chosen) and ${wanted}
        returning 1
      )
      select (select count(*)::int from written) as written,
             ${asInstant(sql`received_at`)} as "receivedAt", event_id as "eventId"
      from chosen order by received_at desc, event_id desc limit 1`,
  );
  return batch;
}
