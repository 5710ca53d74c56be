import { hash } from 'node:crypto';

import { isRecord, toCanonicalJson } from '../json.ts';
import { findOccurredMs, findText, sortedUnique, toFields, toIds, type Fields } from './fields.ts';

import type { DirectoryEvent, EventKind } from './event.ts';

/*
 * In: the bytes of a delivery, or one audit record from anywhere. Out: events, the hints we act on.
 * Never decides from an event's contents what a user looks like, and never fails on an action it does
 * not know: the webhook's body is documented by examples that contradict each other, so every form
 * found in public is read.
 */

/** The body is not JSON, or JSON without a single event in it. The message holds nothing of the body. */
export class UnreadableDelivery extends Error {
  constructor(reason: string) {
    super(`the body ${reason}`);
    this.name = 'UnreadableDelivery';
  }
}

export interface ParsedDelivery {
  readonly events: readonly DirectoryEvent[];
  /** Test calls, records of other projects, and junk beside good records. */
  readonly ignored: number;
}

/** What a record turned out to be; `ignored` is understood and of no use, `junk` is not a record. */
type Reading = DirectoryEvent | 'ignored' | 'junk';

interface Named {
  readonly action: string;
  /** Undefined where the action is none we know. */
  readonly kind: EventKind | undefined;
}

/** Batch operations raise the plural actions ("Audit Events" in Descope's documentation). */
const KNOWN_ACTIONS = new Map<string, Named>(
  (
    [
      ['UserCreated', 'created'],
      ['UsersCreated', 'created'],
      ['UserModified', 'modified'],
      ['UsersModified', 'modified'],
      ['UserUpdated', 'modified'],
      ['UsersUpdated', 'modified'],
      ['UserDeleted', 'deleted'],
      ['UsersDeleted', 'deleted'],
      // Descope disables the user, and may not raise UserModified for it.
      ['LoginExceedMaxAttempts', 'modified'],
      ['SCIMEvent', 'modified'],
    ] as const
  ).map(([action, kind]) => [action.toLowerCase(), { action, kind }]),
);

const ENVELOPE_FIELDS = ['events', 'audits', 'records', 'data'];
const WRAPPER_FIELDS = ['event', 'audit', 'record', 'data'];
const ACTION_FIELDS = ['action', 'eventtype', 'event'];
const MAX_ACTION_CHARS = 200;

/** `User Created`, `user.created` and `UserCreated` are one action. */
function toNamed(text: string): Named {
  const known = KNOWN_ACTIONS.get(text.toLowerCase().replaceAll(/[^a-z]/g, ''));
  return (
    known ?? { action: text.replaceAll(/\s/g, '').slice(0, MAX_ACTION_CHARS), kind: undefined }
  );
}

function findNamed(fields: Fields): Named | null {
  const text = findText(fields, ...ACTION_FIELDS);
  if (text !== null) return toNamed(text);
  // In an audit record `type` is info, warn or error; only elsewhere does it name the event.
  const type = toNamed(findText(fields, 'type') ?? '');
  if (type.kind !== undefined) return type;
  // An excerpt of a record's `data`, as one page of the documentation shows for UserModified.
  return isRecord(fields.get('change')) ? { action: 'UserModified', kind: 'modified' } : null;
}

/** What a console's "test" button may send; its body is not documented. */
function isTestCall(fields: Fields): boolean {
  const names = [...ACTION_FIELDS, 'type', 'name'].map((name) => findText(fields, name) ?? '');
  return fields.has('test') || names.some((name) => /test|ping/i.test(name));
}

function findUserIds(fields: Fields, details: Fields): string[] {
  return sortedUnique([
    ...toIds(fields.get('userid')),
    ...toIds(fields.get('userids')),
    ...toIds(details.get('userid')),
    ...toIds(details.get('userids')),
    ...toIds(toFields(details.get('user')).get('userid')),
    // Strings in `users` might be login ids: only objects tell.
    ...toIds([details.get('users')].flat().filter(isRecord), 'userid'),
  ]);
}

function findLoginIds(fields: Fields, details: Fields): string[] {
  const user = toFields(details.get('user'));
  return sortedUnique(
    ['externalids', 'loginids', 'loginid'].flatMap((name) => [
      ...toIds(fields.get(name)),
      ...toIds(details.get(name)),
      ...toIds(user.get(name)),
    ]),
  );
}

function findTenantIds(fields: Fields): string[] {
  return sortedUnique(
    ['tenants', 'tenantids', 'tenant', 'tenantid'].flatMap((name) =>
      toIds(fields.get(name), 'tenantid', 'id'),
    ),
  );
}

/**
 * The content key: action, moment and subject, and deliberately nothing else. The webhook's form may
 * lack what the audit search's has (an ID, say), and an equal key merges no more than two hints
 * "look at this user" of the same millisecond. Where the moment is not told, the whole record stands
 * in for it, so that a delivery made twice is still recognised. Only of an event that names no user, and
 * is kept for its own sake, what it is about belongs to the subject.
 */
function toEventId(action: string, moment: number | string, subject: readonly string[]): string {
  const content = JSON.stringify([action.toLowerCase(), moment, subject]);
  return hash('sha256', content, 'hex').slice(0, 32);
}

/** What `data` tells of the request, not of what it did: other senders tell it elsewhere, or not at all. */
const ABOUT_REQUEST: readonly string[] = [
  ...['correlationid', 'browser', 'device', 'os', 'osversion', 'requestdetails', 'user'],
];

/** The fields of `data` that say what an event is about which names no user, as one text; empty: none. */
function findMatter(details: Fields): string {
  const told = [...details]
    .filter(([name]) => !ABOUT_REQUEST.includes(name))
    .map(([name, value]) => `${name}:${toCanonicalJson(value)}`)
    // As good as not told.
    .filter((field) => !/:(?:""|null|\{\}|\[\])$/.test(field));
  return told.sort().join();
}

/**
 * Who did it, by which request, and of an event that is kept for its own sake also what it is about: one
 * request may change ten flows or roles in one millisecond.
 */
function toNamelessSubject(
  kind: EventKind,
  actorId: string | null,
  fields: Fields,
  details: Fields,
): string[] {
  const correlationId = findText(details, 'correlationid') ?? findText(fields, 'correlationid');
  const matter = kind === 'other' ? findMatter(details) : '';
  return [actorId ?? '', correlationId ?? '', ...(matter === '' ? [] : [matter])];
}

/** SCIM also reports on groups. */
function kindOf({ action, kind = 'other' }: Named, namesUser: boolean): EventKind {
  return action === 'SCIMEvent' && !namesUser ? 'other' : kind;
}

/**
 * Whether an event about several users tells only who did it: the record's own user id may well be the
 * actor's. Then the ids of those it happened to are not in it.
 */
function namesOnlyActor(action: string, userIds: readonly string[], actorId: string | null) {
  return /^Users/.test(action) && userIds.length === 1 && userIds[0] === actorId;
}

function toEvent(
  payload: string,
  fields: Fields,
  named: Named,
  receivedMs: number,
): DirectoryEvent {
  const details = toFields(fields.get('data'));
  const [actorId = null] = toIds(fields.get('actorid'));
  const told = findUserIds(fields, details);
  const isNameless = namesOnlyActor(named.action, told, actorId);
  const userIds = isNameless ? [] : told;
  const loginIds = isNameless ? [] : findLoginIds(fields, details);
  const occurredMs = findOccurredMs(fields);
  const namesUser = userIds.length + loginIds.length > 0;
  const kind = kindOf(named, namesUser);
  const subject = userIds.length > 0 ? userIds : loginIds;
  return {
    eventId: toEventId(
      named.action,
      occurredMs ?? payload,
      namesUser ? subject : toNamelessSubject(kind, actorId, fields, details),
    ),
    action: named.action,
    kind,
    occurredMs: occurredMs ?? receivedMs,
    userIds,
    loginIds,
    actorId,
    tenantIds: findTenantIds(fields),
    payload,
  };
}

function readRecord(record: unknown, receivedMs: number, projectId: string): Reading {
  if (!isRecord(record)) return 'junk';
  // Read from what is stored: ids go into columns of their own, and must be storable too.
  const payload = toCanonicalJson(record);
  const fields = toFields(JSON.parse(payload));
  if (fields.size === 0) return 'ignored';
  const named = findNamed(fields);
  // A record with a moment is an audit record, whatever its action is called ("Shipping…").
  const isAction = named !== null && (named.kind !== undefined || findOccurredMs(fields) !== null);
  if (!isAction && isTestCall(fields)) return 'ignored';
  if (named === null) return 'junk';
  const project = findText(fields, 'projectid');
  if (projectId !== '' && project !== null && project !== projectId) return 'ignored';
  return toEvent(payload, fields, named, receivedMs);
}

/** The records in one JSON value: those of an array, of an envelope around some or one, or the value itself. */
export function toRecords(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  const fields = toFields(value);
  // An event may well have a list in its `data`.
  if (findText(fields, 'action') !== null || findNamed(fields)?.kind !== undefined) return [value];
  const members = ENVELOPE_FIELDS.map((name) => fields.get(name)).find(Array.isArray);
  const wrapped = WRAPPER_FIELDS.map((name) => fields.get(name)).find(
    (inner) => findText(toFields(inner), 'action') !== null,
  );
  return members ?? [wrapped ?? value];
}

/** One JSON value, or one in each line. @throws UnreadableDelivery */
export function parseJsonValues(body: Buffer): unknown[] {
  const text = body.toString('utf8').replace(/^\uFEFF/, '');
  try {
    return [JSON.parse(text)];
  } catch {
    const lines = text.split('\n').filter((line) => line.trim() !== '');
    try {
      if (lines.length > 1) return lines.map((line): unknown => JSON.parse(line));
    } catch {
      // Neither: told below, without the parser's message, which quotes the body.
    }
    throw new UnreadableDelivery('is not JSON');
  }
}

/**
 * Reads a delivery of any known form: an array, an envelope (`events`, `audits`, `records`, `data`), a
 * single record, or newline-delimited JSON. Events of kind `other` are among the answer.
 * @param receivedMs epoch ms; stands in where a record does not tell when it occurred
 * @param projectId records of other projects are ignored; empty checks nothing
 * @throws UnreadableDelivery
 */
export function parseDelivery(body: Buffer, receivedMs: number, projectId = ''): ParsedDelivery {
  const readings = parseJsonValues(body)
    .flatMap(toRecords)
    .map((record) => readRecord(record, receivedMs, projectId));
  if (readings.length > 0 && readings.every((reading) => reading === 'junk')) {
    throw new UnreadableDelivery('holds no event');
  }
  const events = readings.filter((reading) => typeof reading !== 'string');
  return { events, ignored: readings.length - events.length };
}

/**
 * Reads one audit record, of the audit search or an archive. `null` for what is none, for test calls
 * and for records of another project (see `parseDelivery` for the parameters).
 */
export function parseRecord(
  record: unknown,
  receivedMs: number,
  projectId = '',
): DirectoryEvent | null {
  const reading = readRecord(record, receivedMs, projectId);
  return typeof reading === 'string' ? null : reading;
}
