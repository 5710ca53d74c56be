import { createRandom, hash } from '../../src/simulator/random.ts';

import type { AuditPage, AuditQuery } from '../../src/descope/types.ts';

export interface MemoryRecord {
  readonly ID?: string;
  readonly occurred: string;
}

export interface TrailBehaviour {
  readonly fromInclusive: boolean;
  readonly toInclusive: boolean;
  /** Records asked for, and those that come at most: fewer where Descope clamps. */
  readonly pageSize: number;
  readonly clamp: number;
  /** Records of one instant change places between requests. */
  readonly shuffleTies: boolean;
  /** `oldestFirst` is ignored. */
  readonly newestFirst: boolean;
}

export const PLAIN_TRAIL: TrailBehaviour = {
  fromInclusive: true,
  toInclusive: true,
  pageSize: 1_000,
  clamp: 1_000,
  shuffleTies: false,
  newestFirst: false,
};

/** How an answer goes wrong: see `simulator/faults.ts`. */
export type TrailSpoiling = 'zeroTotal' | 'emptyPage' | 'partialPage';

const MOST_REQUESTS = 5_000;

/** An audit search over a list in memory, asked as `readTrail` asks the client. */
export class MemoryTrail {
  readonly behaviour: TrailBehaviour;
  /** By request, from 0. */
  spoilings = new Map<number, TrailSpoiling>();
  readonly queries: AuditQuery[] = [];
  private readonly records: readonly MemoryRecord[];

  constructor(records: readonly MemoryRecord[], behaviour: TrailBehaviour) {
    this.records = records;
    this.behaviour = behaviour;
  }

  searchAudit = (query: AuditQuery): Promise<AuditPage> => {
    const turn = this.queries.length;
    // Reading that does not end would not even let a test's timeout end it.
    if (turn > MOST_REQUESTS) throw new Error('reading does not end');
    this.queries.push(query);
    const { pageSize, clamp } = this.behaviour;
    const size = Math.min(pageSize, clamp);
    const found = this.find(query, turn);
    const records = found.slice(query.page * size, (query.page + 1) * size);
    const page = { records, total: found.length, observedAt: '2026-01-01T00:00:00Z', pageSize };
    return Promise.resolve(this.spoil(page, turn));
  };

  private find({ fromMs, toMs }: AuditQuery, turn: number): MemoryRecord[] {
    const { fromInclusive, toInclusive, shuffleTies, newestFirst } = this.behaviour;
    const found = this.records
      .map((record, place) => ({ record, ms: Number(record.occurred), place }))
      .filter(({ ms }) => (fromInclusive ? ms >= fromMs : ms > fromMs))
      .filter(({ ms }) => (toInclusive ? ms <= toMs : ms < toMs))
      .map((one) => ({ ...one, place: shuffleTies ? hash(turn, one.place) : one.place }))
      .sort((a, b) => a.ms - b.ms || a.place - b.place)
      .map(({ record }) => record);
    return newestFirst ? found.reverse() : found;
  }

  private spoil(page: AuditPage, turn: number): AuditPage {
    const spoiling = this.spoilings.get(turn);
    if (spoiling === undefined) return page;
    if (spoiling === 'zeroTotal') return { ...page, records: [], total: 0 };
    if (spoiling === 'emptyPage') return { ...page, records: [] };
    const random = createRandom(turn);
    return { ...page, records: page.records.filter((_, at) => at > 0 && random() < 0.75) };
  }
}
