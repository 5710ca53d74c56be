import { applyLearnt, loadLearnt } from './learnt.ts';

import type { Mirror } from '../mirror/database.ts';

/** Notices what a load by ids does with one that Descope does not know; it is not documented. */
export interface UnknownIds {
  /** Whether one unknown id fails a whole batch, as far as we or `rollcall doctor` have noticed. */
  refused(): Promise<boolean>;
  note(what: 'refused' | 'skipped'): Promise<void>;
}

export function createUnknownIds(mirror: Pick<Mirror, 'db' | 't'>): UnknownIds {
  let known: unknown;
  const load = async () => (known ??= (await loadLearnt(mirror, 'unknownIds')) ?? 'not noticed');
  return {
    refused: async () => (await load()) === 'refused',
    async note(what) {
      if ((await load()) === what) return;
      known = what;
      await applyLearnt(mirror, 'unknownIds', what);
    },
  };
}
