import { applyLearnt, type LearntName } from '../descope/learnt.ts';

import type { Mirror } from '../mirror/database.ts';

/** Keeps what was found out about this Descope for all our processes. */
export type Learn = (name: LearntName, value: string | number | boolean) => Promise<void>;

/** @param mirror null where there is none to keep it in, or it is another project's */
export function createLearn(mirror: Mirror | null): Learn {
  return async (name, value) => {
    if (mirror) await applyLearnt(mirror, name, value);
  };
}
