import { pause } from '../abort.ts';

import type { Budget } from './budget.ts';

/**
 * A budget where there is no mirror to share one in, for the handful of requests that `doctor` and
 * `webhook create` make before anything runs. It keeps silent after a 429, and knows of no other process.
 */
export function createLocalBudget(): Budget {
  let silentUntilMs = 0;
  return {
    async take(_priority, signal) {
      await pause(Math.max(0, silentUntilMs - performance.now()), signal);
      // As wide as the mirror's instants: they compare as texts.
      return new Date().toISOString().replace('Z', '000Z');
    },
    silence(ms) {
      silentUntilMs = Math.max(silentUntilMs, performance.now() + ms);
      return Promise.resolve();
    },
  };
}
