import { sql } from 'drizzle-orm';

import type { Mirror } from '../mirror/database.ts';
import type { Delivery } from './take.ts';

/*
 * In: a delivery that was taken, and what came of it. Out: its row says so. Each statement asks whether the
 * row is still as it was taken: who was so slow that another took it over settles nothing but a success.
 */

/** What a receiver answered, or why it did not. */
export interface Answer {
  /** Of HTTP; null where there was no answer. */
  readonly status: number | null;
  /** Null where it was taken. */
  readonly error: string | null;
  /** How long the receiver wants to be left alone, in ms; 0 where it does not say. */
  readonly retryAfterMs: number;
}

export async function settleDelivered(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  delivery: Delivery,
  { status }: Answer,
): Promise<void> {
  await db.execute(sql`
    update ${t.outgoingDeliveries}
    set state = 'delivered', taken_until = null, status = ${status}, error = null,
        ended_at = clock_timestamp()
    where delivery_id = ${delivery.deliveryId} and state in ('waiting', 'parked')`);
}

/** It is tried again after `delayMs`; the user's later ones wait behind it. */
export async function settleFailed(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  { deliveryId, attempts }: Delivery,
  { status, error }: Answer,
  delayMs: number,
): Promise<void> {
  await db.execute(sql`
    update ${t.outgoingDeliveries}
    set taken_until = null, status = ${status}, error = ${error},
        due_at = clock_timestamp() + make_interval(secs => ${delayMs / 1000})
    where delivery_id = ${deliveryId} and state = 'waiting' and attempts = ${attempts}`);
}

/**
 * Given up until a person decides, or until it is pruned. The user's later ones wait behind it meanwhile: delivered
 * now they would overtake it.
 */
export async function settleParked(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  { deliveryId, attempts }: Delivery,
  { status, error }: Answer,
): Promise<void> {
  await db.execute(sql`
    update ${t.outgoingDeliveries}
    set state = 'parked', taken_until = null, status = ${status}, error = ${error},
        ended_at = clock_timestamp()
    where delivery_id = ${deliveryId} and state = 'waiting' and attempts = ${attempts}`);
}

/** Never posted, or nobody knows: the process stops. That is no attempt of the receiver's. */
export async function settleStopped(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  { deliveryId, attempts }: Delivery,
): Promise<void> {
  await db.execute(sql`
    update ${t.outgoingDeliveries} set taken_until = null, attempts = attempts - 1
    where delivery_id = ${deliveryId} and state = 'waiting' and attempts = ${attempts}`);
}

/** The receiver is gone for good (410): nothing is posted to it until a person resumes it. */
export async function disableEndpoint(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  endpointId: string,
): Promise<void> {
  await db.execute(sql`
    update ${t.outgoingEndpoints}
    set state = 'disabled', reason = 'the receiver answered 410 Gone', changed_at = clock_timestamp()
    where endpoint_id = ${endpointId} and state in ('active', 'cut off')`);
}
