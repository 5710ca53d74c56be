import { createHmac } from 'node:crypto';

import { defaultBehaviour } from '../src/simulator/behaviour.ts';
import { signatureOf, toBody } from '../src/simulator/envelopes.ts';
import { idOf } from '../src/simulator/random.ts';
import { HMAC_SECRET } from './product.ts';
import { toRequest } from './sender.ts';

import type { Database } from './lab.ts';

/*
 * Webhook deliveries, prepared before anything is measured, and what became of them.
 */

/** One delivery a user: an array of one `UserModified`, signed. */
export function toDeliveries(projectId: string, userIds: readonly string[]): Buffer[] {
  const { pluralIds } = defaultBehaviour();
  const nowMs = Date.now();
  return userIds.map((userId, at) => {
    const event = {
      serial: at + 1,
      auditId: idOf('A', 1, at),
      projectId,
      action: 'UserModified',
      type: 'info',
      occurredMs: nowMs - userIds.length + at,
      actorId: idOf('K', 1, at % 3),
      userIds: [userId],
      loginIds: [`user${at}@example.com`],
      tenantIds: [],
      change: { name: `Changed ${at}` },
    } as const;
    const body = toBody([event], 'array', pluralIds);
    const signature = signatureOf(body, HMAC_SECRET, 'raw');
    return toRequest('/webhooks/descope', body, { 'x-descope-webhook-s256': signature });
  });
}

/** One `customer.updated` a customer, signed as Stripe does. */
export function toStripeDeliveries(customers: readonly unknown[], secret: string): Buffer[] {
  // The peer writes nothing that is older, by the second, than what it wrote before.
  const created = Math.floor(Date.now() / 1000) + 1;
  return customers.map((customer, at) => {
    const body = JSON.stringify({
      id: `evt_${at}`,
      object: 'event',
      api_version: '2020-08-27',
      created,
      data: { object: customer },
      livemode: false,
      pending_webhooks: 1,
      request: { id: null, idempotency_key: null },
      type: 'customer.updated',
    });
    const v1 = createHmac('sha256', secret).update(`${created}.${body}`).digest('hex');
    return toRequest('/webhooks', body, { 'stripe-signature': `t=${created},v1=${v1}` });
  });
}

/** What the inbox says once every event in it has been applied. */
export interface AppliedEvents {
  readonly events: number;
  /** From when each happened to the commit of its row. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** The last commit, epoch ms. */
  readonly lastMs: number;
}

const POLL_MS = 50;

/** @throws Error where `events` are not applied in time, or not all of them are */
export async function untilApplied(
  database: Database,
  events: number,
  timeoutMs = 180_000,
): Promise<AppliedEvents> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    const pending = await database.query(
      "select 1 from descope.events where state = 'pending' limit 1",
    );
    if (pending.length === 0) break;
    if (Date.now() > deadlineMs) throw new Error('events are still waiting to be applied');
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  // An event's row and its user's are of one transaction.
  const [found] = await database.query<AppliedEvents>(`
    with applied as (
      select extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000 as at,
             extract(epoch from occurred_at) * 1000 as since
      from descope.events where state = 'applied')
    select count(*)::int as events, max(at)::float8 as "lastMs",
           percentile_cont(0.5) within group (order by at - since)::float8 as "p50Ms",
           percentile_cont(0.99) within group (order by at - since)::float8 as "p99Ms"
    from applied`);
  if (found?.events !== events) {
    throw new Error(`${found?.events ?? 0} of ${events} events were applied`);
  }
  return found;
}
