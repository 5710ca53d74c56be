import { sql, type SQL } from 'drizzle-orm';

import { UsageError } from '../errors.ts';
import { parseAskedChange, whereMayBeAskedFor, type AskedChange } from '../inbox/changed.ts';
import { toStorableText } from '../json.ts';
import { textArray, type Mirror } from '../mirror/database.ts';
import { whereNamed } from '../mirror/named.ts';
import { findMeant } from './explain.ts';

import type { Instant } from '../observation.ts';

/*
 * In: what is looked for in the audit trail. Out: the conditions that say so to Postgres, sorted by what
 * the indexes know of them.
 */

type Db = Pick<Mirror, 'db' | 't'>;

/** All of these must hold; what is absent does not matter. */
export interface TrailFilter {
  /** Whom it happened to: a user id or a login id. */
  readonly user?: string | undefined;
  /** Who did it: the id of a user or of a management key. */
  readonly actor?: string | undefined;
  /** Its whole name, or how it begins, then `*`; upper and lower case are the same. */
  readonly action?: string | undefined;
  readonly tenant?: string | undefined;
  /** Happened then or later; ISO-8601. */
  readonly since?: Instant | undefined;
  /** Happened before then. */
  readonly until?: Instant | undefined;
  /** A field that the event says was changed, such as `roleNames`, or with a value in it: `roleNames=admin`. */
  readonly changed?: string | undefined;
  /** Events a page, 1 to 1000; 50 where absent. */
  readonly limit?: number | undefined;
  /** Only what comes after a page: its `next`. */
  readonly before?: string | undefined;
}

/** Whether it is an action's name, or the beginning of one and `*`. */
export function isAction(text: string): boolean {
  return /^[^*]*\*?$/.test(text.trim()) && text.trim() !== '';
}

/** A place in the trail: that of an event. */
export interface Place {
  readonly occurredAt: Instant;
  readonly eventId: string;
}

/** Opaque to whoever gets it; nothing in it is personal. */
export function toCursor({ occurredAt, eventId }: Place): string {
  return Buffer.from(`${occurredAt} ${eventId}`).toString('base64url');
}

const CURSOR = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (\w{1,64})$/;

/** The place a page ended at, from its `next`; null where it is no such text. */
export function readCursor(cursor: string): Place | null {
  const [, occurredAt = '', eventId = ''] =
    CURSOR.exec(Buffer.from(cursor, 'base64url').toString()) ?? [];
  const ms = Date.parse(occurredAt);
  // The 30th of February is read as a day in March.
  const isMoment =
    !Number.isNaN(ms) && occurredAt.startsWith(new Date(ms).toISOString().slice(0, 19));
  return isMoment ? { occurredAt, eventId } : null;
}

/** A filter, as the statements need it. */
export interface Query {
  /** Where it begins; null: with the newest. */
  readonly from: Place | null;
  /** All conditions but those of place. */
  readonly where: readonly SQL[];
  /** Those of them that an index knows beside the order. */
  readonly indexed: readonly SQL[];
  /** Of a user, who has an index of their own. */
  readonly named: SQL | null;
  readonly since: Instant | null;
  readonly asked: AskedChange | null;
}

/** @throws UsageError where `action`, `changed` or `before` is none */
export async function toQuery(mirror: Db, filter: TrailFilter): Promise<Query> {
  const { user, actor, action, tenant, changed, since = null } = filter;
  const asked = changed === undefined ? null : parseAskedChange(toStorableText(changed));
  if (changed !== undefined && asked === null) throw new UsageError('changed: name a field');
  const indexed = actor === undefined ? [] : [sql`actor_id = ${toStorableText(actor)}`];
  return {
    from: toPlace(filter),
    where: [
      ...indexed,
      ...(action === undefined ? [] : [whereAction(toStorableText(action))]),
      ...(tenant === undefined ? [] : [sql`tenant_ids @> ${textArray([toStorableText(tenant)])}`]),
      ...(asked === null ? [] : [whereMayBeAskedFor(asked)]),
    ],
    indexed,
    named: user === undefined ? null : await whereAbout(mirror, toStorableText(user)),
    since,
    asked,
  };
}

/** @throws UsageError where `before` is no cursor */
function toPlace({ before, until }: TrailFilter): Place | null {
  const after = before === undefined ? null : readCursor(before);
  if (before !== undefined && after === null) {
    throw new UsageError('before: give what a page had as next');
  }
  if (until === undefined) return after;
  // No event id is empty: what happened in that very moment is left out.
  const end = { occurredAt: new Date(until).toISOString().replace('Z', '000Z'), eventId: '' };
  return after !== null && after.occurredAt < end.occurredAt ? after : end;
}

/** @throws UsageError */
function whereAction(action: string): SQL {
  if (!isAction(action)) throw new UsageError('action: give a name, or its beginning and then *');
  const name = action.replaceAll(/[\s*]/g, '');
  return action.trim().endsWith('*')
    ? sql`starts_with(lower(action), lower(${name}))`
    : sql`lower(action) = lower(${name})`;
}

/** Events about the user of that id, or about all who have or had that login id. */
async function whereAbout(mirror: Db, user: string): Promise<SQL> {
  const { userId, loginIds, others } = await findMeant(mirror, user);
  return whereNamed([userId, ...others], textArray(loginIds));
}
