import { sql } from 'drizzle-orm';

import { Stopping } from '../errors.ts';
import { isRecord } from '../json.ts';
import { asInstant, rows, textArray, type Executor } from '../mirror/database.ts';
import { whereNamed } from '../mirror/named.ts';
import { strip, type Sought } from './redact.ts';

import type { Instant } from '../observation.ts';
import type { MirrorTables } from '../mirror/schema.ts';

/*
 * In: what a person is known by. Out: an inbox in which no other's event mentions it. Which events do no
 * index tells: all of them are read, a step at a time.
 */

/** Whom to look for, and by what. */
export interface Mentioned extends Sought {
  /** Ids, login ids, addresses and numbers, the user id among them. */
  readonly values: readonly string[];
}

export interface MentionScan {
  readonly mentioned: Mentioned;
  /** Only events received then or later. */
  readonly since: Instant;
  readonly signal: AbortSignal;
}

/** Each is some kilobytes: a statement stays well below a second. */
const EVENTS_A_STEP = 5_000;

/**
 * Redacts events of others whose payload mentions one of the values, and returns how many. Those that name the
 * user themselves are `redactNamed`'s.
 * @throws Stopping between two steps; what was redacted stays so
 */
export async function redactMentions(
  db: Executor,
  t: MirrorTables,
  { mentioned, since, signal }: MentionScan,
): Promise<number> {
  let redacted = 0;
  let after = { receivedAt: since, eventId: '' };
  for (;;) {
    if (signal.aborted) throw new Stopping();
    const step = await readStep(db, t, mentioned, after);
    const named = step.found.filter(({ payload }) => isMentionedIn(payload, mentioned.values));
    if (named.length > 0) {
      const eventIds = textArray(named.map(({ eventId }) => eventId));
      await db.execute(
        sql`update ${t.events} set ${strip(mentioned)} where event_id = any(${eventIds})`,
      );
      redacted += named.length;
    }
    if (step.last === null) return redacted;
    after = step.last;
  }
}

interface Position {
  readonly receivedAt: Instant;
  readonly eventId: string;
}

/** Of the next events, but for those that name the user themselves, those with one of the values somewhere, in whatever case; and where to go on. */
async function readStep(
  db: Executor,
  t: MirrorTables,
  { userId, loginIds, values }: Mentioned,
  after: Position,
): Promise<{
  found: readonly { readonly eventId: string; readonly payload: string }[];
  last: Position | null;
}> {
  // As they stand in JSON text.
  const logins = textArray(loginIds);
  const needles = values.map((value) => JSON.stringify(value).slice(1, -1));
  const step = await rows<Position & { payload: string | null }>(
    db,
    sql`
      with step as materialized (
        select event_id, received_at, payload::text as payload,
               ${whereNamed([userId], logins)} or coalesce(actor_id = any(${textArray([userId])} || ${logins}), false)
                 as is_named
        from ${t.events}
        where (received_at, event_id) > (${after.receivedAt}::timestamptz, ${after.eventId})
        order by received_at, event_id limit ${EVENTS_A_STEP}
      ), marked as (
        select *, not is_named and exists (select from unnest(${textArray(needles)}) as needle
                          where strpos(lower(payload), lower(needle)) > 0) as is_found,
               row_number() over (order by received_at desc, event_id desc) = 1 as is_last
        from step
      )
      select event_id as "eventId", ${asInstant(sql`received_at`)} as "receivedAt",
             case when is_found then payload end as payload
      from marked where is_found or is_last order by received_at, event_id`,
  );
  const found = step.flatMap(({ eventId, payload }) =>
    payload === null ? [] : [{ eventId, payload }],
  );
  return { found, last: step.at(-1) ?? null };
}

/** Told apart from other words wherever they stand; any other value only where it is all of a text. */
const TELLING = /@|^\+?\d{7,}$|^[A-Z]\w{20,}$/;
const LETTER = String.raw`[\p{L}\p{N}_]`;

/** Whether JSON text holds one of the values as a word, or where it is no telling one as a whole text. Pure. */
export function isMentionedIn(json: string, values: readonly string[]): boolean {
  const whole = new Set(values.map((value) => value.toLowerCase()));
  const patterns = values.filter((value) => TELLING.test(value)).map(toPattern);
  return textsOf(JSON.parse(json)).some(
    (text) => whole.has(text.toLowerCase()) || patterns.some((pattern) => pattern.test(text)),
  );
}

/** A longer address or number with the value in it is another's. */
function toPattern(value: string): RegExp {
  const literal = value.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`);
  return new RegExp(`(?<!${LETTER}|[.+-])${literal}(?!${LETTER}|[.-]${LETTER})`, 'iu');
}

function textsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (Array.isArray(value)) return value.flatMap(textsOf);
  if (!isRecord(value)) return [];
  return Object.entries(value).flatMap(([key, member]) => [key, ...textsOf(member)]);
}
