import type { Makers } from './makeMeters.ts';

/** Who reads the feed, and what is posted of it. What Postgres knows is the same for every process. */
export function createFeedMeters({ counter, gauge }: Makers) {
  return {
    outgoing: counter(
      'rollcall_outgoing_deliveries_total',
      'Changes posted to OUTGOING_URLS, every attempt counted; parked: the last attempt failed too',
      { outcome: ['delivered', 'failed', 'parked'] },
    ),
    consumerLag: gauge(
      'rollcall_feed_consumer_lag_seconds',
      'How old the first change is that the consumer furthest behind has not confirmed, in seconds; absent where no cursor is kept',
      {},
    ),
    consumerUsed: gauge(
      'rollcall_feed_consumer_used_ratio',
      'That age as a share of FEED_RETENTION_DAYS; 1: changes were pruned before they were read',
      {},
    ),
    outgoingWaiting: gauge(
      'rollcall_outgoing_waiting',
      'Deliveries put down and not yet made; absent without OUTGOING_URLS',
      {},
    ),
    outgoingParked: gauge(
      'rollcall_outgoing_parked',
      'Deliveries given up until they are replayed or dropped',
      {},
    ),
    outgoingOldest: gauge(
      'rollcall_outgoing_oldest_seconds',
      'How old the oldest change is that an endpoint has still to get, in seconds',
      {},
    ),
    outgoingStopped: gauge(
      'rollcall_outgoing_stopped',
      'Endpoints that get nothing more: they answered 410, or what they had still to get was pruned',
      {},
    ),
  };
}
