import { z } from 'zod';

import { reduceTombstones } from '../src/apply/tombstones.ts';
import { pruneFeed } from '../src/feed/prune.ts';
import { pruneEvents } from '../src/inbox/prune.ts';
import { pruneDeliveries } from '../src/outgoing/prune.ts';
import { pruneLedger } from '../src/pull/prune.ts';
import { dropStale } from '../src/rebuild/previous.ts';
import { defineJob, KEEP } from './define.ts';

import type { Mirror } from '../src/mirror/database.ts';

export interface PruneDeps {
  readonly mirror: Mirror;
  /** `EVENT_RETENTION_DAYS`. */
  readonly eventDays: number;
  /** `TOMBSTONE_RETENTION_DAYS`. */
  readonly tombstoneDays: number;
  /** `FEED_RETENTION_DAYS`. */
  readonly feedDays: number;
}

/** Steps of a run, each of a thousand rows: a million events are some 5 s, as many tombstones two minutes. */
const STEPS = 1_000;

/**
 * Removes what is kept no longer: events, last snapshots of the deleted, the feed and what was posted of it,
 * the ledger, replaced tables. Asks Descope nothing.
 */
export const prune = defineJob({
  name: 'prune',
  queue: 'pulls',
  payload: z.strictObject({}),
  options: { attempts: 1, ...KEEP },
  async process(deps: { readonly prune: PruneDeps }, _payload, signal): Promise<void> {
    const { mirror, eventDays, tombstoneDays, feedDays } = deps.prune;
    const tombstones = reduceTombstones(mirror, { days: tombstoneDays, steps: STEPS }, signal);
    // After that one, whatever came of it: both lock the tables of every generation.
    const drop = () => dropStale(mirror, tombstoneDays);
    // One that fails holds up none of the others, least of all what is personal.
    const ended = await Promise.allSettled([
      tombstones,
      tombstones.then(drop, drop),
      pruneEvents(mirror, { days: eventDays, steps: STEPS }, signal),
      pruneFeed(mirror, { days: feedDays, steps: STEPS }, signal),
      pruneDeliveries(mirror, { days: feedDays, steps: STEPS }, signal),
      pruneLedger(mirror, STEPS, signal),
    ]);
    const failed = ended.find((one) => one.status === 'rejected');
    if (failed) throw failed.reason;
  },
});
