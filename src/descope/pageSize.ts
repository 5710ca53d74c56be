import { applyLearnt, forgetLearnt, loadLearnt } from './learnt.ts';

import type { Mirror } from '../mirror/database.ts';

/**
 * Notices where Descope puts fewer rows in an answer than asked for. Its largest page is not
 * documented; an answer cut short by a fault looks the same once, but hardly twice.
 */
export interface PageSize {
  /** Most rows an answer to this limit holds, as far as noticed. */
  of(limit: number): Promise<number>;
  /** Judges a first page: `count` rows came of `total` matches where `limit` were asked for. */
  note(limit: number, count: number, total: number): Promise<void>;
}

/** Whether `count` rows, of `total` matches, are fewer than the limit explains. */
export function isShort(limit: number, count: number, total: number): boolean {
  return count > 0 && count < limit && count < total;
}

export function createPageSize(mirror: Pick<Mirror, 'db' | 't'>): PageSize {
  let clamp: number | undefined;
  let suspected: number | undefined;
  let loaded = false;

  async function load(): Promise<void> {
    if (loaded) return;
    const value = await loadLearnt(mirror, 'pageSize');
    if (typeof value === 'number' && value >= 1) clamp ??= value;
    loaded = true;
  }

  return {
    async of(limit) {
      await load();
      return Math.min(limit, clamp ?? limit);
    },
    async note(limit, count, total) {
      await load();
      if (clamp !== undefined && count > clamp) {
        clamp = undefined;
        await forgetLearnt(mirror, 'pageSize');
      }
      const isNews = isShort(limit, count, total) && count !== clamp;
      if (isNews && count === suspected) {
        clamp = count;
        await applyLearnt(mirror, 'pageSize', count);
      }
      if (count < total) suspected = isNews ? count : undefined;
    },
  };
}
