import { sql, type SQL } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { findChange, isAskedFor, type Change } from '../inbox/changed.ts';
import { asInstant, rows, type Mirror } from '../mirror/database.ts';
import { toCursor, toQuery, type Place, type Query, type TrailFilter } from './trailFilter.ts';

import type { Instant } from '../observation.ts';

/*
 * The audit trail. In: who did what to whom, and when. Out: events of the inbox, the newest first, page
 * by page. No statement reads the whole inbox, however rare what is looked for: of a user those events
 * are read that name them, of an actor theirs; what no index knows is looked for in the newest events,
 * then in those before them, a stretch at a time.
 */

type Db = Pick<Mirror, 'db' | 't'>;

/** An event as it was told. Login ids and what was changed are personal: for answers, never for a log. */
export interface TrailEvent {
  readonly eventId: string;
  readonly action: string;
  /** Of Descope's clock. */
  readonly occurredAt: Instant;
  readonly receivedAt: Instant;
  readonly userIds: readonly string[];
  readonly loginIds: readonly string[];
  readonly actorId: string | null;
  readonly tenantIds: readonly string[];
  /** pending, applied, parked or archived. */
  readonly state: string;
  readonly outcome: string | null;
  /** Names of the fields that the event says were changed, in its own spelling; none where it does not tell. */
  readonly changed: readonly string[];
  /** Their new values. */
  readonly change: Change | null;
  /** webhook, audit or archive. */
  readonly firstWitness: string;
}

export interface TrailPage {
  /** Newest first. */
  readonly events: readonly TrailEvent[];
  /** What to go on from, as `before`; null where there is nothing more. */
  readonly next: string | null;
  /**
   * Where the patience ended before the page was full: nothing later than then was left out, what is
   * earlier is looked for from `next` on. Null where the page is full, or the trail was read to its end.
   */
  readonly lookedBackTo: Instant | null;
}

export interface TrailOptions {
  /** Ends a search between two statements. */
  readonly signal?: AbortSignal;
  /** Events of the first stretch; those after it are longer. */
  readonly stretch?: number;
  /** After so long no further stretch is begun; for ever where absent. */
  readonly patienceMs?: number | undefined;
}

export const MOST_EVENTS = 1_000;
const USUAL_EVENTS = 50;
/** Some ms of reading; most of what is looked for is among the newest. */
const STRETCH = 4_000;
/** Of a much longer one Postgres would rather read the whole table than follow the index. */
const LONGEST_STRETCH = 16_000;

/**
 * One page of the trail. Pages follow each other without a gap or a repetition while events arrive: the
 * order is that of their moments, then of their ids. One that was looked for in vain for too long is
 * short, or empty, and the next goes on from there.
 * @throws UsageError where `action`, `changed` or `before` is none; Stopping
 */
export async function searchEvents(
  mirror: Db,
  filter: TrailFilter,
  options: TrailOptions = {},
): Promise<TrailPage> {
  const limit = Math.min(Math.max(1, filter.limit ?? USUAL_EVENTS), MOST_EVENTS);
  const query = await toQuery(mirror, filter);
  const found: FoundEvent[] = [];
  // One more tells whether there are any more.
  const matches = readMatches(mirror, query, limit + 1, options);
  let left: Place | null = null;
  while (found.length <= limit) {
    const { done, value } = await matches.next();
    if (done === true) {
      left = value;
      break;
    }
    found.push(...value);
  }
  const page = found.slice(0, limit);
  const isFull = found.length > limit;
  const last = isFull ? page.at(-1) : left;
  return {
    events: page.map(toEvent),
    next: last ? toCursor(last) : null,
    lookedBackTo: isFull ? null : (left?.occurredAt ?? null),
  };
}

/** Events a statement where all of a search is wanted: a megabyte or two. */
const EVENTS_A_PAGE = 500;

/** Page after page, to the end of the trail, or to `filter.limit` events where that is given. */
export async function* readPages(
  search: (filter: TrailFilter) => Promise<TrailPage>,
  filter: TrailFilter,
): AsyncGenerator<readonly TrailEvent[], void> {
  let left = filter.limit ?? Infinity;
  for (let { before } = filter; ;) {
    const { events, next } = await search({
      ...filter,
      before,
      limit: Math.min(left, EVENTS_A_PAGE),
    });
    yield events;
    left -= events.length;
    if (next === null || left <= 0) return;
    before = next;
  }
}

/** An event, and what it said. */
interface FoundEvent extends Omit<TrailEvent, 'changed' | 'change'> {
  readonly payload: unknown;
}

function toEvent({ payload, ...event }: FoundEvent): TrailEvent {
  const change = findChange(payload);
  return { ...event, changed: Object.keys(change ?? {}).sort(), change };
}

/** All that matches, newest first, in batches of at most so many; returns where the patience ended, if it did. */
async function* readMatches(
  mirror: Db,
  query: Query,
  most: number,
  options: TrailOptions,
): AsyncGenerator<FoundEvent[], Place | null> {
  const { named, where, indexed, asked } = query;
  const { stretch = STRETCH } = options;
  const isEnough = measurePatience(options);
  // What the indexes know is found at once. What they do not know may be far away.
  const isFar = named === null && where.length > indexed.length;
  let from = query.from;
  for (let size = stretch; ; size = Math.min(size * 2, LONGEST_STRETCH)) {
    const to = isFar ? await findEnd(mirror, query, from, size) : null;
    for (;;) {
      const batch = await readBatch(mirror, query, { from, to }, most);
      yield batch.filter((event) => !asked || isAskedFor(findChange(event.payload), asked));
      const last = batch.at(-1);
      if (!last || batch.length < most) break;
      from = last;
      if (isEnough()) return from;
    }
    if (to === null) return null;
    from = to;
    if (isEnough()) return from;
  }
}

/** A function that tells whether the patience is at its end. @throws Stopping, it and its function */
function measurePatience({ signal, patienceMs = Infinity }: TrailOptions): () => boolean {
  const endMs = performance.now() + patienceMs;
  const isEnough = () => {
    if (signal?.aborted) throw new Stopping();
    return performance.now() >= endMs;
  };
  isEnough();
  return isEnough;
}

/** From an event on, itself left out, to another, itself included; null: the newest, the oldest there is. */
interface Stretch {
  readonly from: Place | null;
  readonly to: Place | null;
}

const toPair = ({ occurredAt, eventId }: Place) =>
  sql`(${occurredAt}::timestamptz, ${eventId}::text)`;

/** Moments by themselves too: of pairs Postgres does not know how few lie between two. */
function whereWithin({ from, to }: Stretch, since: Instant | null): SQL[] {
  const upper = from && [
    sql`occurred_at <= ${from.occurredAt}::timestamptz`,
    sql`(occurred_at, event_id) < ${toPair(from)}`,
  ];
  const lower = to && [
    sql`occurred_at >= ${to.occurredAt}::timestamptz`,
    sql`(occurred_at, event_id) >= ${toPair(to)}`,
  ];
  const first = since === null ? [] : [sql`occurred_at >= ${since}::timestamptz`];
  return [...(upper ?? []), ...(lower ?? first)];
}

function all(conditions: readonly SQL[]): SQL {
  return conditions.length === 0 ? sql`true` : sql.join([...conditions], sql` and `);
}

const newestFirst = sql`order by occurred_at desc, event_id desc`;

/** The last of the next `size` events; null where there are fewer. */
async function findEnd(
  { db, t }: Db,
  { indexed, since }: Query,
  from: Place | null,
  size: number,
): Promise<Place | null> {
  const [found] = await rows<Place>(
    db,
    sql`select ${asInstant(sql`occurred_at`)} as "occurredAt", event_id as "eventId" from ${t.events}
        where ${all([...indexed, ...whereWithin({ from, to: null }, since)])}
        ${newestFirst} offset ${size - 1} limit 1`,
  );
  return found ?? null;
}

const columns = sql`
  event_id as "eventId", action, ${asInstant(sql`occurred_at`)} as "occurredAt",
  ${asInstant(sql`received_at`)} as "receivedAt", user_ids as "userIds", login_ids as "loginIds",
  actor_id as "actorId", tenant_ids as "tenantIds", state, outcome, payload,
  case least(webhook_at, audit_at, archive_at)
    when webhook_at then 'webhook' when audit_at then 'audit' else 'archive' end as "firstWitness"`;

async function readBatch(
  { db, t }: Db,
  { named, where, since }: Query,
  stretch: Stretch,
  most: number,
): Promise<FoundEvent[]> {
  const wanted = all([...where, ...whereWithin(stretch, since)]);
  if (named === null) {
    return rows<FoundEvent>(
      db,
      sql`select ${columns} from ${t.events} where ${wanted} ${newestFirst} limit ${most}`,
    );
  }
  return rows<FoundEvent>(
    db,
    // Materialized: asked for the newest at once, Postgres may go through the inbox. And one by one: for
    // a thousand of them it might rather read the whole table.
    sql`with named as materialized (
          select event_id, occurred_at from ${t.events} where ${named} and ${wanted}),
        newest as (select event_id as chosen from named ${newestFirst} limit ${most})
        select ${columns} from newest
        cross join lateral (select * from ${t.events} where event_id = chosen limit 1) as event
        ${newestFirst}`,
  );
}
