import { z } from 'zod';

import { hash, idOf } from './random.ts';
import { partition } from './sortedList.ts';

import type { Behaviour } from './behaviour.ts';

/** Something that happened in the directory, before it takes the shape of any envelope. */
export interface AuditEvent {
  readonly serial: number;
  readonly auditId: string;
  readonly projectId: string;
  /** Such as `UserCreated`; the plural `UsersCreated` for several users at once. */
  readonly action: string;
  readonly type: 'info' | 'warn' | 'error';
  /** Epoch ms of Descope's clock. */
  readonly occurredMs: number;
  readonly actorId: string;
  /** One id for a singular action, several for a plural one, none for what is not about users. */
  readonly userIds: readonly string[];
  readonly loginIds: readonly string[];
  readonly tenantIds: readonly string[];
  /** New values of changed fields, as `data.Change` holds them. */
  readonly change: Readonly<Record<string, unknown>>;
}

/** An audit record as the audit search answers it. */
export interface AuditRecord {
  readonly ID: string;
  readonly projectId: string;
  readonly userId: string;
  readonly userIds?: readonly string[];
  readonly action: string;
  /** Epoch ms, as text. */
  readonly occurred: string;
  readonly device: string;
  readonly method: string;
  readonly geo: string;
  readonly remoteAddress: string;
  readonly externalIds: readonly string[];
  readonly tenants: readonly string[];
  readonly data: Readonly<Record<string, unknown>>;
  readonly type: string;
  readonly actorId: string;
}

const DEVICES = ['Desktop', 'Mobile', 'Bot'];
const SYSTEMS = ['Linux', 'Mac OS X', 'Windows', 'Android'];

/** Addresses reserved for documentation (RFC 5737): never anybody's. */
const addressOf = (serial: number): string => `203.0.113.${1 + (hash(serial, 81) % 254)}`;

function pluralIds(event: AuditEvent, where: Behaviour['pluralIds']): Record<string, unknown> {
  if (event.userIds.length < 2 && !event.action.startsWith('Users')) return {};
  if (where === 'dataUserIds') return { userIds: event.userIds };
  if (where === 'dataUsers') return { users: event.userIds.map((userId) => ({ userId })) };
  return {};
}

function dataOf(event: AuditEvent, where: Behaviour['pluralIds']): Record<string, unknown> {
  return {
    Change: event.change,
    ...pluralIds(event, where),
    browser: 'Chrome',
    correlation_id: idOf('', 82, event.serial),
    device: DEVICES[event.serial % DEVICES.length],
    os: SYSTEMS[event.serial % SYSTEMS.length],
    osVersion: '14.2',
    request_details: {
      contentLength: 100 + (hash(event.serial, 83) % 900),
      headers: {
        descope: { 'x-descope-sdk-name': 'nodejs' },
        http: { 'x-forwarded-for': addressOf(event.serial), 'user-agent': 'Mozilla/5.0 (<test>)' },
      },
      host: 'api.descope.com',
      method: 'POST',
      uri: '/v1/mgmt/user/update',
      url: 'https://api.descope.com/v1/mgmt/user/update',
    },
  };
}

/** The record of the audit search (form F of the known forms). */
export function toAuditRecord(event: AuditEvent, where: Behaviour['pluralIds']): AuditRecord {
  const plural = event.action.startsWith('Users');
  return {
    ID: event.auditId,
    projectId: event.projectId,
    userId: plural ? '' : (event.userIds[0] ?? ''),
    ...(plural && where === 'userIds' ? { userIds: event.userIds } : {}),
    action: event.action,
    occurred: String(event.occurredMs),
    device: DEVICES[event.serial % DEVICES.length] ?? '',
    method: '',
    geo: 'US',
    remoteAddress: addressOf(event.serial),
    externalIds: event.loginIds,
    tenants: event.tenantIds,
    data: dataOf(event, where),
    type: event.type,
    actorId: event.actorId,
  };
}

const strings = z.array(z.string()).default([]);
/** Published clients send numbers, the published schema says strings: both are read. */
const epochMs = z
  .union([z.number(), z.string().regex(/^-?\d+$/)])
  .optional()
  .transform((value) => (Number(value ?? 0) > 0 ? Number(value) : undefined));

const auditRequest = z.object({
  from: epochMs,
  to: epochMs,
  actions: strings,
  excludedActions: strings,
  userIds: strings,
  actorIds: strings,
  externalIds: strings,
  tenants: strings,
  noTenants: z.boolean().default(false),
  size: z.int().min(0).max(1000).default(0),
  page: z.int().min(0).default(0),
  oldestFirst: z.boolean().default(false),
});
type AuditRequest = z.output<typeof auditRequest>;

/** @throws ZodError where the body is not an audit search */
export function parseAuditRequest(body: unknown): AuditRequest {
  return auditRequest.parse(body);
}

const overlaps = (wanted: readonly string[], held: readonly string[]): boolean =>
  wanted.length === 0 || wanted.some((value) => held.includes(value));

function matches(event: AuditEvent, request: AuditRequest): boolean {
  return (
    overlaps(request.actions, [event.action]) &&
    !request.excludedActions.includes(event.action) &&
    overlaps(request.userIds, event.userIds) &&
    overlaps(request.actorIds, [event.actorId]) &&
    overlaps(request.externalIds, event.loginIds) &&
    (overlaps(request.tenants, event.tenantIds) ||
      (request.noTenants && event.tenantIds.length === 0))
  );
}

/** Every audit event, in the order of its instant. */
export class AuditLog {
  private readonly events: AuditEvent[] = [];

  get size(): number {
    return this.events.length;
  }

  all(): readonly AuditEvent[] {
    return this.events;
  }

  append(event: AuditEvent): void {
    const last = this.events.at(-1);
    if (!last || last.occurredMs <= event.occurredMs) this.events.push(event);
    // Only after the clock was set back.
    else
      this.events.splice(
        this.rank((ms) => ms <= event.occurredMs),
        0,
        event,
      );
  }

  /** One page, and how many there are; as Descope's clock `nowMs` lets them be seen. */
  search(
    request: AuditRequest,
    behaviour: Pick<Behaviour, 'auditBounds' | 'auditLagMs' | 'retentionDays'>,
    nowMs: number,
  ): { events: AuditEvent[]; total: number } {
    const { from = -Infinity, to = Infinity } = request;
    const oldestMs = nowMs - behaviour.retentionDays * 86_400_000;
    const newestMs = nowMs - behaviour.auditLagMs;
    const inclusive = behaviour.auditBounds === 'inclusive';
    const first = this.rank((ms) => ms < oldestMs || (inclusive ? ms < from : ms <= from));
    const end = this.rank((ms) => ms <= newestMs && (inclusive ? ms <= to : ms < to));
    const found = this.events.slice(first, end).filter((event) => matches(event, request));
    if (!request.oldestFirst) found.reverse();
    const size = request.size || 1000;
    return {
      events: found.slice(request.page * size, (request.page + 1) * size),
      total: found.length,
    };
  }

  private rank(isBefore: (occurredMs: number) => boolean): number {
    return partition(this.events, (event) => isBefore(event.occurredMs));
  }
}
