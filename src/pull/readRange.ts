import { WindowUnproven } from '../errors.ts';
import { toPresent } from '../observation.ts';
import { halvesAt, middleOf, SECOND } from './halves.ts';
import { floorSecond, judgePage, timeOf, type Verdict } from './judge.ts';

import type { Call, DescopeClient, TimeField, UserPage, UserQuery } from '../descope/types.ts';
import type { Instant, Present } from '../observation.ts';

/** A closed time range to read, in epoch ms of Descope's clock. Without `toMs` it is open towards now. */
export interface Range {
  readonly field: TimeField;
  readonly fromMs: number;
  readonly toMs?: number;
}

/**
 * A stretch of the range, read and proven complete. Of a tie the users come first, a page at a time, in
 * steps of no length; then one step proves them all.
 */
export interface ProvenStep {
  readonly observations: readonly Present[];
  /** Everyone in the stretch: user ids, and their times in epoch ms where told. */
  readonly seen: Seen;
  /** When the stretch was looked at: the oldest of its answers. */
  readonly observedAt: Instant;
  readonly fromMs: number;
  /** Everything of the range before this instant is proven; null: to its very end. */
  readonly untilMs: number | null;
  /** Matches Descope reported from here to the end of the stretch asked for. */
  readonly total: number;
}

export type Seen = ReadonlyMap<string, number | null>;

export interface ReadDeps {
  readonly client: Pick<DescopeClient, 'searchUsers'>;
  readonly pageSize: number;
}

/** A contradiction is asked again this often before the window is given up as a gap. */
const TRIES = 6;
/** An answer of nobody at all is doubted: it may be wrongly empty. */
const SOMEBODY = 1;

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
  /** What the next answer must at least report: somebody, or more by the answer before it. */
  let atLeast = SOMEBODY;
  const trust: Trust = { rows: deps.pageSize };
  for (let next = stack.pop(); next; next = stack.pop()) {
    const query = toQuery(deps, next);
    const { page, verdict } = await askUntilProven(deps, query, { atLeast, trust }, call);
    const { total } = page;
    const middle = middleOf(next.fromMs, endOf(next));
    const isLast = stack.length === 0;
    atLeast = SOMEBODY;
    if (isEnded(verdict, next)) {
      const untilMs = isLast ? null : (next.toMs ?? next.fromMs) + 1;
      yield { ...observed(page, field), fromMs: next.fromMs, untilMs, total };
    } else if (verdict.kind === 'upTo') {
      const before = page.users.length - countFrom(page, field, verdict.timeMs);
      atLeast = Math.max(SOMEBODY, total - before);
      yield { ...observed(page, field), fromMs: next.fromMs, untilMs: verdict.timeMs, total };
      stack.push({ ...next, fromMs: verdict.timeMs });
    } else if (verdict.kind === 'tie' || middle === null) {
      const second = floorSecond(next.fromMs);
      const rest = { ...next, fromMs: second + SECOND };
      const ended = next.toMs !== undefined && rest.fromMs > next.toMs;
      const among = { field, secondMs: second, atLeast: countIn(page, field, second) };
      const part = { fromMs: next.fromMs, untilMs: next.fromMs, total };
      const proof = yield* readSecond(deps, among, part, call);
      yield { ...part, ...proof, observations: [], untilMs: ended && isLast ? null : rest.fromMs };
      if (!ended) stack.push(rest);
    } else {
      stack.push(...halvesAt(next, middle));
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

type Proven = Exclude<Verdict, { kind: 'unproven' }>;

/** How many rows make a full page, as far as this reading has seen for itself. */
interface Trust {
  rows: number;
}

/**
 * Asks until an answer does not contradict itself. One that claims to be everything and tells of fewer
 * than `atLeast` may be deletions meanwhile, or wrongly empty: it is believed when it comes twice running. A
 * full page needs no such doubt, it proves its own stretch; so reading goes on while users are deleted.
 * Where fewer rows than asked for pass for a full page, they may be a partial one: the same rows must
 * come twice.
 */
async function askUntilProven(
  deps: ReadDeps,
  query: UserQuery,
  { atLeast, trust }: { readonly atLeast: number; readonly trust: Trust },
  call: Call,
): Promise<{ page: UserPage; verdict: Proven }> {
  let reason = '';
  let lowTotal: number | undefined;
  let before: string | undefined;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const page = await deps.client.searchUsers(query, call);
    const verdict = judgePage(query, page);
    const stretch = describeStretch(page, query.field);
    if (verdict.kind === 'unproven') {
      reason = verdict.reason;
    } else if (verdict.kind === 'whole') {
      if (isBelieved(page.total, atLeast, lowTotal)) return { page, verdict };
      reason = `total fell from ${atLeast} to ${page.total}`;
    } else if (verdict.kind !== 'upTo' || page.users.length >= trust.rows || stretch === before) {
      // Ties and splits claim nothing; what they lead to is proven by itself.
      if (verdict.kind === 'upTo') trust.rows = page.users.length;
      return { page, verdict };
    } else {
      reason = `${page.users.length} rows pass for a full page, and are others every time`;
    }
    before = stretch;
    lowTotal = verdict.kind === 'whole' ? page.total : undefined;
  }
  throw new WindowUnproven(reason);
}

/** The rows that a full page proves, those before its last row's time, as a text to compare. */
function describeStretch({ users }: UserPage, field: TimeField): string {
  const last = users.at(-1);
  const end = last ? timeOf(last, field) : null;
  const proven = users.filter((user) => timeOf(user, field) !== end);
  return [end, ...proven.map((user) => user.userId).sort()].join(' ');
}

/** What the steps of a tie have in common. */
type Part = Pick<ProvenStep, 'fromMs' | 'untilMs' | 'total'>;
type Proof = Pick<ProvenStep, 'seen' | 'observedAt'>;

/**
 * Reads every user of one second by page number, sorted by id, and hands them over as they come: the
 * proof needs their ids only. Complete when these add up to `total`. A total below `atLeast` is
 * believed when it comes twice.
 */
async function* readSecond(
  deps: ReadDeps,
  among: { readonly field: TimeField; readonly secondMs: number; readonly atLeast: number },
  part: Part,
  call: Call,
): AsyncGenerator<ProvenStep, Proof, undefined> {
  const query: UserQuery = {
    field: among.field,
    fromMs: among.secondMs,
    toMs: among.secondMs + SECOND - 1,
    limit: deps.pageSize,
    sortById: true,
  };
  let reason = '';
  let lowTotal: number | undefined;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const { totals, ...proof } = yield* readPages(deps, query, part, call);
    const [total = 0] = totals;
    const isWhole = totals.size === 1 && proof.seen.size === total;
    if (isWhole && isBelieved(total, among.atLeast, lowTotal)) return proof;
    lowTotal = isWhole ? total : undefined;
    reason = `${proof.seen.size} users read of ${[...totals].join(', then ')} in one second`;
  }
  throw new WindowUnproven(reason);
}

/** One pass over the pages of a query, until nobody new comes or as many as its total have come. */
async function* readPages(
  deps: ReadDeps,
  query: UserQuery,
  part: Part,
  call: Call,
): AsyncGenerator<ProvenStep, Proof & { readonly totals: ReadonlySet<number> }, undefined> {
  const seen = new Map<string, number | null>();
  const totals = new Set<number>();
  let observedAt: Instant | undefined;
  for (let page = 0; ; page++) {
    const answer = await deps.client.searchUsers({ ...query, page }, call);
    totals.add(answer.total);
    observedAt ??= answer.observedAt;
    const before = seen.size;
    const shown = observed(answer, query.field);
    for (const [userId, timeMs] of shown.seen) seen.set(userId, timeMs);
    if (shown.observations.length > 0) yield { ...shown, ...part, seen: new Map() };
    if (seen.size === before || seen.size >= answer.total) return { seen, totals, observedAt };
  }
}

/** Whether an answer proves its range to the end: by holding all of it, or rows from beyond its edge. */
function isEnded(verdict: Verdict, { toMs }: Range): boolean {
  return verdict.kind === 'upTo' ? verdict.timeMs > (toMs ?? Infinity) : verdict.kind === 'whole';
}

/** Whether a total is enough, or low for the second time running (nobody at all: nobody both times). */
function isBelieved(total: number, atLeast: number, lowTotal: number | undefined): boolean {
  return total >= atLeast || (lowTotal !== undefined && (total > 0 || lowTotal === 0));
}

type Observed = Pick<ProvenStep, 'observations' | 'seen' | 'observedAt'>;

function observed({ users, observedAt }: UserPage, field: TimeField): Observed {
  return {
    observations: users.map((row) => toPresent(row, observedAt, 'page')),
    seen: new Map(users.map((row) => [row.userId, timeOf(row, field)])),
    observedAt,
  };
}

function countFrom(page: UserPage, field: TimeField, timeMs: number): number {
  return page.users.filter((user) => {
    const time = timeOf(user, field);
    return time !== null && time >= timeMs;
  }).length;
}

/** Rows of one second; of rows that do not tell their time, one at least must be there. */
function countIn(page: UserPage, field: TimeField, secondMs: number): number {
  const times = page.users.map((user) => timeOf(user, field));
  return Math.max(SOMEBODY, times.filter((time) => time === secondMs).length);
}

/** An open range is cut as if it ended tomorrow. */
function endOf(range: Range): number {
  return range.toMs ?? Math.max(range.fromMs, Date.now() + 86_400_000);
}
