import { WindowUnproven } from '../errors.ts';
import { floorSecond, judgePage, timeOf, type Verdict } from './judge.ts';

import type { Call, DescopeClient, TimeField, UserPage, UserQuery } from '../descope/types.ts';
import type { Instant, Observation } from '../observation.ts';

/** A closed time range to read, in epoch ms of Descope's clock. Without `toMs` it is open towards now. */
export interface Range {
  readonly field: TimeField;
  readonly fromMs: number;
  readonly toMs?: number;
}

/** A stretch of the range, read and proven complete. */
export interface ProvenStep {
  readonly observations: readonly Observation[];
  /** When the stretch was looked at: the oldest of its answers. */
  readonly observedAt: Instant;
  readonly fromMs: number;
  /** Everything of the range before this instant is proven; null: to its very end. */
  readonly untilMs: number | null;
  /** Matches Descope reported from here to the end of the stretch asked for. */
  readonly total: number;
}

export interface ReadDeps {
  readonly client: Pick<DescopeClient, 'searchUsers'>;
  readonly pageSize: number;
  /** Believe an answer of nobody at all only when it comes twice. */
  readonly doubtNobody: boolean;
}

/** A contradiction is asked again this often before the window is given up as a gap. */
const TRIES = 6;
/** Nothing is cut smaller than this: the precision of the times that come back. */
const SECOND = 1000;

/**
 * Reads a range in ascending steps, each proven complete on its own, with about one request a page.
 *
 * Where rows carry the time field the next request begins at the last row's time; where they do not,
 * the range is halved; page numbers, which drift when rows leave, are used only among users of one
 * second, with `total` checked before and after.
 *
 * @throws WindowUnproven when Descope keeps contradicting itself
 */
export async function* readRange(
  deps: ReadDeps,
  range: Range,
  call: Call,
): AsyncGenerator<ProvenStep, void, undefined> {
  const { field } = range;
  // Ranges still to read, the oldest last. Only halving ever puts more than one here.
  const stack: Range[] = [range];
  /** What the next answer must at least report, by the answer before it. */
  let atLeast = deps.doubtNobody ? 1 : 0;
  for (let next = stack.pop(); next; next = stack.pop()) {
    const query = toQuery(deps, next);
    const { page, verdict } = await askUntilProven(deps, query, atLeast, call);
    const { total } = page;
    const isLast = stack.length === 0;
    atLeast = 0;
    if (verdict.kind === 'whole') {
      const untilMs = isLast ? null : (next.toMs ?? next.fromMs) + 1;
      yield { ...observed(page), fromMs: next.fromMs, untilMs, total };
    } else if (verdict.kind === 'upTo') {
      const before = page.users.length - countFrom(page, field, verdict.timeMs);
      atLeast = total - before;
      yield { ...observed(page), fromMs: next.fromMs, untilMs: verdict.timeMs, total };
      stack.push({ ...next, fromMs: verdict.timeMs });
    } else if (verdict.kind === 'tie' || !canSplit(next)) {
      const second = floorSecond(next.fromMs);
      const rest = { ...next, fromMs: second + SECOND };
      const ended = next.toMs !== undefined && rest.fromMs > next.toMs;
      const answer = await readSecond(deps, field, second, call);
      yield {
        ...answer,
        fromMs: next.fromMs,
        untilMs: ended && isLast ? null : rest.fromMs,
        total,
      };
      if (!ended) stack.push(rest);
    } else {
      stack.push(...halves(next));
    }
  }
}

function toQuery(deps: ReadDeps, range: Range): UserQuery {
  return {
    field: range.field,
    // The epoch stands for "from the beginning": asked without a bound.
    ...(range.fromMs > 0 ? { fromMs: range.fromMs } : {}),
    ...(range.toMs === undefined ? {} : { toMs: range.toMs }),
    limit: deps.pageSize,
  };
}

type Proof = Exclude<Verdict, { kind: 'unproven' }>;

/**
 * Asks until an answer does not contradict itself. A total below what the answer before promised may
 * be deletions meanwhile, or a wrongly empty answer: it is believed when it comes twice.
 */
async function askUntilProven(
  deps: ReadDeps,
  query: UserQuery,
  atLeast: number,
  call: Call,
): Promise<{ page: UserPage; verdict: Proof }> {
  let reason = '';
  let lowTotal: number | undefined;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const page = await deps.client.searchUsers(query, call);
    const verdict = judgePage(query, page);
    if (verdict.kind === 'unproven') {
      reason = verdict.reason;
    } else if (page.total >= atLeast || page.total === lowTotal) {
      return { page, verdict };
    } else {
      reason = `total fell from ${atLeast} to ${page.total}`;
      lowTotal = page.total;
    }
  }
  throw new WindowUnproven(reason);
}

/** Reads every user of one second by page number, sorted by id; complete when the ids add up to `total`. */
async function readSecond(
  deps: ReadDeps,
  field: TimeField,
  secondMs: number,
  call: Call,
): Promise<Observed> {
  const query: UserQuery = {
    field,
    fromMs: secondMs,
    toMs: secondMs + SECOND - 1,
    limit: deps.pageSize,
    sortById: true,
  };
  let reason = '';
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const seen = new Map<string, Observation>();
    const totals = new Set<number>();
    let observedAt: Instant | undefined;
    for (let page = 0; ; page++) {
      const answer = await deps.client.searchUsers({ ...query, page }, call);
      totals.add(answer.total);
      observedAt ??= answer.observedAt;
      const before = seen.size;
      for (const observation of observed(answer).observations) {
        seen.set(observation.userId, observation);
      }
      if (seen.size === before || seen.size >= answer.total) break;
    }
    const [total] = totals;
    if (totals.size === 1 && seen.size === total) {
      return { observations: [...seen.values()], observedAt };
    }
    reason = `${seen.size} users read of ${[...totals].join(', then ')} in one second`;
  }
  throw new WindowUnproven(reason);
}

type Observed = Pick<ProvenStep, 'observations' | 'observedAt'>;

function observed({ users, observedAt }: UserPage): Observed {
  const observations = users.map((row): Observation => ({
    kind: 'present',
    userId: row.userId,
    row,
    observedAt,
    by: 'page',
  }));
  return { observations, observedAt };
}

function countFrom(page: UserPage, field: TimeField, timeMs: number): number {
  return page.users.filter((user) => {
    const time = timeOf(user, field);
    return time !== null && time >= timeMs;
  }).length;
}

function canSplit(range: Range): boolean {
  return floorSecond(endOf(range)) > floorSecond(range.fromMs);
}

/** The younger half first, so that the older is popped next. */
function halves(range: Range): [Range, Range] {
  const middle = floorSecond((range.fromMs + endOf(range)) / 2) + SECOND;
  return [
    { ...range, fromMs: middle },
    { ...range, toMs: middle - 1 },
  ];
}

/** An open range is cut as if it ended tomorrow. */
function endOf(range: Range): number {
  return range.toMs ?? Math.max(range.fromMs, Date.now() + 86_400_000);
}
