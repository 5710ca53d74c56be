import { createHash } from 'node:crypto';

import { WindowUnproven } from '../errors.ts';
import { findOccurredMs, findText, toFields } from '../inbox/fields.ts';
import { toCanonicalJson } from '../json.ts';
import { halvesAt, middleOf, SECOND } from './halves.ts';
import { floorSecond } from './judge.ts';

import type { AuditPage, AuditQuery, Call, DescopeClient } from '../descope/types.ts';

/** A closed range of the audit trail, in epoch ms of Descope's clock. */
export interface Trail {
  readonly fromMs: number;
  readonly toMs: number;
  /** Only these actions; every action where empty. */
  readonly actions: readonly string[];
}

/** Records to take, and how far the trail is read with them. */
export interface TrailStep extends AuditPage {
  /** Everything of the trail before this instant has been handed over; null: to its very end. */
  readonly untilMs: number | null;
}

type Client = Pick<DescopeClient, 'searchAudit'>;

/** A contradiction is asked again this often before the window is given up as a gap. */
const TRIES = 6;
/** A page that is short for no reason is asked for once more; then the range is cut smaller. */
const TRIES_SHORT = 2;
/** So many passes over one second's pages without a new record are the last. */
const QUIET_PASSES = 12;
/** A pass over one second's pages that does not end is a fault. */
const MAX_PAGES = 1_000;

/**
 * Reads the trail from its oldest record on, with about one request a page. A full page proves itself up
 * to its last record's instant, where the next request begins again, so no search goes deep and
 * reading can be taken up at any step. The trail only grows at its young end, which lies beyond.
 * A range whose answers are no such pages is halved until one answer holds all of it; page numbers are
 * used only within one second.
 *
 * @param atLeast records there must be; fewer are believed when they are told twice
 * @throws WindowUnproven when Descope keeps contradicting itself
 */
export async function* readTrail(
  client: Client,
  trail: Trail,
  atLeast: number,
  call: Call,
): AsyncGenerator<TrailStep, void, undefined> {
  // Ranges still to read, the oldest last. Only halving ever puts more than one here.
  const stack: Trail[] = [trail];
  let least = atLeast;
  /** Once a range is cut, a part without any records is doubted: the whole had some. */
  let leastOfPart = 0;
  for (let next = stack.pop(); next; next = stack.pop()) {
    const { page, verdict } = await askUntilProven(client, next, least, call);
    const middle = middleOf(next.fromMs, next.toMs);
    const isLast = stack.length === 0;
    least = leastOfPart;
    if (verdict.kind === 'whole') {
      yield { ...page, untilMs: isLast ? null : next.toMs + 1 };
    } else if (verdict.kind === 'upTo') {
      const { timeMs } = verdict;
      least = page.total - page.records.filter((record) => (timeOf(record) ?? 0) < timeMs).length;
      yield { ...page, untilMs: timeMs };
      stack.push({ ...next, fromMs: timeMs });
    } else if (verdict.kind === 'tie' || middle === null) {
      const second = { ...next, toMs: Math.min(floorSecond(next.fromMs) + SECOND - 1, next.toMs) };
      const total = yield* readSecond(client, second, page, call);
      const isEnd = second.toMs === next.toMs;
      least = Math.max(least, page.total - total);
      const untilMs = isEnd && isLast ? null : second.toMs + 1;
      yield { ...page, records: [], untilMs };
      if (!isEnd) stack.push({ ...next, fromMs: second.toMs + 1 });
    } else {
      least = leastOfPart = 1;
      stack.push(...halvesAt(next, middle));
    }
  }
}

/**
 * One millisecond more on each side, since nobody says whether the bounds are inclusive; what is told
 * twice is known by its content.
 */
function toQuery(trail: Trail, page: number): AuditQuery {
  return { ...trail, fromMs: trail.fromMs - 1, toMs: trail.toMs + 1, page };
}

/**
 * What a first page proves.
 * whole: it holds every record of its range.
 * upTo: it is full, and holds every record before `timeMs`.
 * tie: it is full of records of its first instant.
 * split: it is not sorted oldest first, or does not tell (all of one instant, or of none).
 * short: it holds fewer records than it should.
 */
type Verdict =
  | { readonly kind: 'whole' | 'tie' | 'split' | 'short' }
  | { readonly kind: 'upTo'; readonly timeMs: number };

function judge(trail: Trail, { records, total, pageSize }: AuditPage): Verdict {
  if (records.length >= total) return { kind: 'whole' };
  if (records.length < pageSize) return { kind: 'short' };
  const first = timeOf(records[0]) ?? -Infinity;
  let last = first;
  for (const record of records) {
    const time = timeOf(record);
    if (time === null || time < last) return { kind: 'split' };
    last = time;
  }
  if (last <= trail.fromMs) return { kind: 'tie' };
  if (first === last) return { kind: 'split' };
  return last > trail.toMs ? { kind: 'whole' } : { kind: 'upTo', timeMs: last };
}

async function askUntilProven(
  client: Client,
  trail: Trail,
  atLeast: number,
  call: Call,
): Promise<{ page: AuditPage; verdict: Verdict }> {
  let reason = '';
  let lowTotal: number | undefined;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const page = await client.searchAudit(toQuery(trail, 0), call);
    const { records, total } = page;
    const verdict = judge(trail, page);
    if (verdict.kind === 'whole') {
      if (total >= atLeast || total === lowTotal) return { page, verdict };
      reason = `total fell from ${atLeast} to ${total}`;
    } else if (verdict.kind === 'short') {
      reason = `${records.length} audit records read of ${total}`;
      // Cut smaller, it claims nothing. No records at all are no page, however small.
      if (records.length > 0 && attempt >= TRIES_SHORT) return { page, verdict };
    } else {
      return { page, verdict };
    }
    lowTotal = verdict.kind === 'whole' ? total : undefined;
  }
  throw new WindowUnproven(reason);
}

/**
 * Reads a second's records by page number; `first` is the page that led here. Records of one instant
 * may change places between requests, so passes are made until as many have been seen as there are.
 * Records are handed over as they come; their ids alone are held. Returns how many there are.
 */
async function* readSecond(
  client: Client,
  second: Trail,
  first: AuditPage,
  call: Call,
): AsyncGenerator<TrailStep, number, undefined> {
  const within = first.records.filter((record) => {
    const time = timeOf(record);
    return time !== null && time >= second.fromMs && time <= second.toMs;
  });
  const seen = new Set(within.map(identityOf));
  yield { ...first, untilMs: second.fromMs };
  let reason = '';
  for (let quiet = 0; quiet < QUIET_PASSES; quiet++) {
    const before = seen.size;
    const totals = new Set<number>();
    let places = 0;
    let areTold = true;
    for (let page = 0; page < MAX_PAGES; page++) {
      const answer = await client.searchAudit(toQuery(second, page), call);
      for (const record of answer.records) {
        seen.add(identityOf(record));
        areTold &&= idOf(record) !== null;
      }
      totals.add(answer.total);
      places += answer.records.length;
      yield { ...answer, untilMs: second.fromMs };
      if (answer.records.length === 0 || places >= answer.total) break;
    }
    const [total = 0] = totals;
    // Records without an id may be the same to the letter: of those, places are counted.
    const count = areTold ? seen.size : places;
    if (totals.size === 1 && count === total && total >= within.length) return total;
    reason = `${count} audit records read of ${[...totals].join(', then ')} in one second`;
    if (seen.size > before) quiet = -1;
  }
  throw new WindowUnproven(reason);
}

function timeOf(record: unknown): number | null {
  return findOccurredMs(toFields(record));
}

function idOf(record: unknown): string | null {
  return findText(toFields(record), 'id');
}

/** Short, whatever the record holds. */
function identityOf(record: unknown): string {
  const text = idOf(record) ?? toCanonicalJson(record);
  return createHash('sha256').update(text).digest('base64');
}
