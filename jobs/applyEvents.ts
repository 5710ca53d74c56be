import { z } from 'zod';

import { defineJob, KEEP } from './define.ts';

import type { Applier } from '../src/apply/applier.ts';

/** As many as one load looks up. */
const EVENTS_A_JOB = 100;

/** The payloads of as many jobs as these events need. */
export function toJobs(eventIds: readonly string[]): { eventIds: string[] }[] {
  const jobs: { eventIds: string[] }[] = [];
  for (let at = 0; at < eventIds.length; at += EVENTS_A_JOB) {
    jobs.push({ eventIds: eventIds.slice(at, at + EVENTS_A_JOB) });
  }
  return jobs;
}

/** Looks at the users that inbox events name. The applier shares loads across jobs. */
export const applyEvents = defineJob({
  name: 'applyEvents',
  queue: 'events',
  payload: z.strictObject({ eventIds: z.array(z.string().min(1)).min(1).max(1000) }),
  // What fails for longer than this is found again by the recovery tick: the inbox knows it.
  options: { attempts: 3, backoff: { type: 'exponential', delay: 1_000, jitter: 0.5 }, ...KEEP },
  async process(deps: { readonly applier: Applier }, { eventIds }): Promise<void> {
    await deps.applier.apply(eventIds);
  },
});
