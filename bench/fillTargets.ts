import { sizesOf, type Options } from './benchmark.ts';
import { ratioOf, show, showCount, showMegabytes, turnsOf } from './measure.ts';
import { productEnv, sweep, type Sweep } from './product.ts';

import type { Lab } from './lab.ts';
import type { Target } from './report.ts';

/** What one size came to, a number a turn. */
export interface Contest {
  readonly users: number;
  /** Of every answer of both sources. */
  readonly latencyMs: number;
  readonly ours: number[];
  readonly bare: number[];
  readonly peer: number[];
  /** Processor seconds of the others' own processes. */
  readonly bareCpu: number[];
  readonly peerCpu: number[];
  readonly fills: Sweep[];
  readonly again: Sweep[];
  /** What each source answers to one that only asks, pages a second. */
  readonly sources: { readonly descope: number; readonly stripe: number };
}

/** Users a second. */
export function rateOf({
  users,
  seconds,
}: {
  readonly users: number;
  readonly seconds: number;
}): number {
  return users / seconds;
}

const COUNTED_USERS = 30_000;
const MOST_SEARCHES = 310;

/** The searches of one fill of 30,000, or of as many as this run has. */
export async function countSearches(lab: Lab, options: Options): Promise<Target> {
  const users = Math.min(COUNTED_USERS, sizesOf(options).large);
  const directory = await lab.startDirectory(users);
  const database = await lab.createDatabase();
  try {
    const { searches } = await sweep(directory, database, productEnv(lab, directory, database));
    return {
      what: 'searches for 30,000 users, 100 a page',
      target: `<= ${MOST_SEARCHES}`,
      measured: `${showCount(searches)} for ${showCount(users)}`,
      met: users === COUNTED_USERS ? searches <= MOST_SEARCHES : null,
    };
  } finally {
    await database.drop();
    await directory.stop();
  }
}

const MEGABYTE = 1024 * 1024;

export function toTargets(contests: readonly Contest[]): Target[] {
  const near = contests.filter(({ latencyMs }) => latencyMs === 0);
  const distant = contests.find(({ latencyMs }) => latencyMs > 0);
  const of = (users: number) => near.find((contest) => contest.users === users);
  const middle = of(100_000);
  const largest = of(1_000_000);
  const contest = middle ?? near.at(-1);
  if (!contest) return [];
  const peakOf = ({ fills, again }: Contest) =>
    turnsOf([...fills, ...again].map((one) => one.peakBytes)).max;
  const isFull = middle !== undefined;
  const judge = (value: boolean) => (isFull ? value : null);
  const bare = ratioOf(contest.ours, contest.bare);
  const peer = ratioOf(contest.ours, contest.peer);
  const resweep = largest ?? contest;
  const faster = ratioOf(resweep.again.map(rateOf), resweep.ours);
  const written = contests.flatMap(({ again }) => again.map((one) => one.written));
  const growth = middle && largest ? peakOf(largest) / peakOf(middle) : null;
  const size = showCount(contest.users);
  return [
    {
      what: `fill of ${size} over the bare loop`,
      target: '>= 0.5',
      measured: show(bare),
      met: judge(bare >= 0.5),
    },
    {
      what: `fill of ${size} over the peer`,
      target: '>= 4',
      measured: show(peer),
      met: judge(peer >= 4),
    },
    ...(distant ? [toDistantTarget(distant, isFull)] : []),
    {
      what: `second run of ${showCount(resweep.users)} over the fill`,
      target: '>= 2',
      measured: show(faster),
      met: judge(faster >= 2),
    },
    {
      what: 'user rows written by a second run',
      target: '0',
      measured: showCount(turnsOf(written).max),
      met: written.every((rows) => rows === 0),
    },
    {
      what: 'peak memory of 1,000,000 over that of 100,000',
      target: '<= 1.2',
      measured: growth === null ? '' : show(growth),
      met: growth === null ? null : growth <= 1.2,
    },
    {
      what: 'peak memory of 1,000,000, MB',
      target: '< 400',
      measured: largest ? showMegabytes(peakOf(largest)) : '',
      met: largest ? peakOf(largest) < 400 * MEGABYTE : null,
    },
  ];
}

/** The peer as it would be used: its source is not on the same machine. */
function toDistantTarget(contest: Contest, isFull: boolean): Target {
  const peer = ratioOf(contest.ours, contest.peer);
  return {
    what: `likewise, both sources ${contest.latencyMs} ms away`,
    target: '>= 4',
    measured: show(peer),
    met: isFull ? peer >= 4 : null,
  };
}
