import { createHmac } from 'node:crypto';

import { toAuditRecord } from './audit.ts';

import type { AuditEvent } from './audit.ts';
import type { Behaviour } from './behaviour.ts';

/*
 * Every form of webhook body that any source shows. Nobody has published a recorded one, so a
 * receiver must take them all.
 */

export const ENVELOPES = [
  /** Form A, best supported: an array, even of one, `occurred` a number. */
  'array',
  /** One object of form A. */
  'single',
  /** `{"events": [...]}` around form A. */
  'wrapped',
  /** Form A, one object a line. */
  'lines',
  /** Form B: one object, ISO time, `actor_id`, and `correlation_id` beside `data`. */
  'snake',
  /** Form C: only the `data` of an event. It names neither action nor user. */
  'dataOnly',
  /** Form D: one object, the action in words, the user nested in `data`. */
  'nested',
  /** Form F, the audit search's own record, in an array. */
  'record',
  /** All of them in turn, but form C, which would lose its event. */
  'mixed',
] as const;
export type Envelope = (typeof ENVELOPES)[number];

const MIXED = ['array', 'single', 'wrapped', 'lines', 'snake', 'nested', 'record'] as const;
const ONE_EVENT = new Set<Envelope>(['single', 'snake', 'dataOnly', 'nested']);

/** The form of the `turn`th body. */
export function envelopeOf(envelope: Envelope, turn: number): Exclude<Envelope, 'mixed'> {
  return envelope === 'mixed' ? (MIXED[turn % MIXED.length] ?? 'array') : envelope;
}

/** How many events one body of this form holds at most. */
export function capacityOf(envelope: Envelope, batchMax: number): number {
  return ONE_EVENT.has(envelope) ? 1 : batchMax;
}

/** Form A. Real ones carry no id of the event. */
function toArrayForm(event: AuditEvent, where: Behaviour['pluralIds']): Record<string, unknown> {
  const record = toAuditRecord(event, where);
  return {
    ...record,
    ID: undefined,
    occurred: event.occurredMs,
    occurred_formatted: new Date(event.occurredMs).toISOString().replace('Z', '000Z'),
    tenants: record.tenants.length > 0 ? record.tenants : null,
  };
}

function toSnakeForm(event: AuditEvent, where: Behaviour['pluralIds']): Record<string, unknown> {
  const record = toAuditRecord(event, where);
  const { correlation_id, os, ...data } = record.data;
  return {
    action: record.action,
    actor_id: record.actorId,
    correlation_id,
    device: record.device,
    os,
    occurred: new Date(event.occurredMs).toISOString(),
    project_id: record.projectId,
    ...(record.userId ? { user_id: record.userId } : {}),
    ...(record.userIds ? { user_ids: record.userIds } : {}),
    login_ids: record.externalIds,
    tenants: record.tenants,
    type: record.type,
    data,
  };
}

function toNestedForm(event: AuditEvent, where: Behaviour['pluralIds']): Record<string, unknown> {
  const record = toAuditRecord(event, where);
  const plural = record.action.startsWith('Users');
  return {
    action: record.action.replaceAll(/(?<=[a-z])(?=[A-Z])/g, ' '),
    actorId: record.actorId,
    projectId: record.projectId,
    occurred: record.occurred,
    tenant: record.tenants[0] ?? '',
    data: {
      ...record.data,
      ...(plural ? {} : { user: { userId: record.userId, loginIds: record.externalIds } }),
      ...(record.userIds ? { userIds: record.userIds } : {}),
    },
  };
}

/** JSON as Go writes it, and so not byte for byte what JavaScript would write again. */
function toGoJson(value: unknown): string {
  return JSON.stringify(value).replaceAll(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** One body; `events` no more than the form's capacity, and at least one. */
export function toBody(
  events: readonly AuditEvent[],
  envelope: Exclude<Envelope, 'mixed'>,
  where: Behaviour['pluralIds'],
): string {
  const [first] = events;
  if (!first) throw new Error('a body needs an event');
  switch (envelope) {
    case 'array':
      return toGoJson(events.map((event) => toArrayForm(event, where)));
    case 'single':
      return toGoJson(toArrayForm(first, where));
    case 'wrapped':
      return toGoJson({ events: events.map((event) => toArrayForm(event, where)) });
    case 'lines':
      return events.map((event) => `${toGoJson(toArrayForm(event, where))}\n`).join('');
    case 'snake':
      return toGoJson(toSnakeForm(first, where));
    case 'dataOnly':
      return toGoJson(toAuditRecord(first, where).data);
    case 'nested':
      return toGoJson(toNestedForm(first, where));
    case 'record':
      return toGoJson(events.map((event) => toAuditRecord(event, where)));
  }
}

/** Which bytes the signature is of: those sent, or those JavaScript would write for the same JSON. */
export type SignOver = 'raw' | 'stringified';

/**
 * The value of `x-descope-webhook-s256`: base64 of HMAC-SHA256 with the secret's UTF-8 text as key.
 * Lines of JSON are no JSON document, so they are always signed as sent.
 */
export function signatureOf(body: string, secret: string, over: SignOver): string {
  const signed = over === 'raw' ? body : restringified(body);
  return createHmac('sha256', secret).update(signed).digest('base64');
}

function restringified(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body));
  } catch {
    return body;
  }
}
