import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { parseDelivery, parseRecord, UnreadableDelivery } from '../../src/inbox/parse.ts';

import type { DirectoryEvent } from '../../src/inbox/event.ts';

const RECEIVED_MS = Date.UTC(2026, 5, 9);
const OCCURRED_MS = 1780949905871;

const readFixture = (name: string) =>
  readFileSync(join(import.meta.dirname, '../fixtures/webhooks', name));
const parse = (value: unknown, projectId = '') =>
  parseDelivery(Buffer.from(JSON.stringify(value)), RECEIVED_MS, projectId);
const parseOne = (value: unknown): DirectoryEvent => {
  const event = parseRecord(value, RECEIVED_MS);
  if (event === null) throw new Error('no event');
  return event;
};

interface Form {
  readonly file: string;
  readonly events: readonly Partial<DirectoryEvent>[];
  readonly ignored: number;
}

const ada = { userIds: ['U2ada'], loginIds: ['ada@example.com'], actorId: 'K2key' };

const forms: readonly Form[] = [
  {
    file: 'formA-array.json',
    events: [
      { ...ada, kind: 'modified', action: 'UserModified', occurredMs: OCCURRED_MS, tenantIds: [] },
      { kind: 'deleted', userIds: ['U2bob'], occurredMs: 1780949906000, tenantIds: ['T2acme'] },
      { kind: 'other', action: 'LoginSucceed', userIds: ['U2ada'] },
    ],
    ignored: 0,
  },
  {
    file: 'formA-plural.json',
    events: [
      { kind: 'deleted', action: 'UsersDeleted', userIds: ['U2ada', 'U2bob'] },
      { kind: 'created', action: 'UsersCreated', userIds: [], loginIds: [], actorId: 'K2key' },
    ],
    ignored: 0,
  },
  {
    file: 'formB-snakeCase.json',
    events: [{ kind: 'created', userIds: ['U2ada'], actorId: 'K2key', occurredMs: OCCURRED_MS }],
    ignored: 0,
  },
  {
    file: 'formC-excerpt.json',
    events: [{ kind: 'modified', action: 'UserModified', userIds: [], occurredMs: RECEIVED_MS }],
    ignored: 0,
  },
  {
    file: 'formD-nestedUser.json',
    events: [
      {
        ...ada,
        kind: 'deleted',
        action: 'UserDeleted',
        occurredMs: OCCURRED_MS,
        tenantIds: ['T2acme'],
      },
    ],
    ignored: 0,
  },
  {
    file: 'formE-eventType.json',
    events: [
      { ...ada, kind: 'created', action: 'UserCreated', actorId: null, occurredMs: RECEIVED_MS },
    ],
    ignored: 0,
  },
  {
    file: 'formF-auditSearch.json',
    events: [
      { ...ada, kind: 'modified', action: 'UserModified', occurredMs: OCCURRED_MS, tenantIds: [] },
    ],
    ignored: 0,
  },
  {
    file: 'formG-sentinel.json',
    events: [
      {
        ...ada,
        kind: 'modified',
        action: 'UserModified',
        occurredMs: OCCURRED_MS,
        tenantIds: ['T2acme'],
      },
    ],
    ignored: 0,
  },
  {
    file: 'formLines.ndjson',
    events: [
      { kind: 'created', userIds: ['U2ada'], occurredMs: OCCURRED_MS },
      { kind: 'deleted', userIds: ['U2bob'], occurredMs: 1780949905000 },
    ],
    ignored: 0,
  },
  { file: 'formTestCall.json', events: [], ignored: 1 },
];

describe('envelopes', () => {
  test.each(forms)('the events of $file are read', ({ file, events, ignored }) => {
    const parsed = parseDelivery(readFixture(file), RECEIVED_MS, 'P2project');

    expect(parsed.events).toMatchObject(events);
    expect(parsed.events).toHaveLength(events.length);
    expect(parsed.ignored).toBe(ignored);
  });

  test.each(['events', 'audits', 'records', 'data'])('an envelope `%s` is opened', (name) => {
    const { events } = parse({ [name]: [{ action: 'UserCreated', userId: 'U1' }], total: 1 });
    expect(events).toMatchObject([{ kind: 'created', userIds: ['U1'] }]);
  });

  test.each(['event', 'audit', 'record', 'data'])('a wrapper `%s` is opened', (name) => {
    const { events } = parse({ type: 'audit', [name]: { action: 'UserCreated', userId: 'U1' } });
    expect(events).toMatchObject([{ kind: 'created', userIds: ['U1'] }]);
  });

  test('a list in the data of an event is no envelope', () => {
    expect(parse({ action: 'Custom', data: [1, 2] }).events).toMatchObject([{ kind: 'other' }]);
  });

  test.each([
    ['an empty array', '[]', 0],
    ['an empty envelope', '{"events":[]}', 0],
    ['an empty object', '{}', 1],
    ['a test call', '{"test":true}', 1],
    ['a ping', '{"event":"ping"}', 1],
    ['a named test', '{"name":"Test webhook"}', 1],
  ])('%s is accepted and ignored', (_, body, ignored) => {
    expect(parseDelivery(Buffer.from(body), RECEIVED_MS)).toEqual({ events: [], ignored });
  });

  test.each(['', ' ', 'hello', '{"action":', '{"action":"UserCreated"}\nhello', '\u0000'])(
    'a body that is not JSON is refused: %j',
    (body) => {
      expect(() => parseDelivery(Buffer.from(body), RECEIVED_MS)).toThrow(UnreadableDelivery);
    },
  );

  test.each([
    '5',
    '"text"',
    'null',
    'true',
    '[1,2]',
    '[[]]',
    '{"foo":1}',
    '{"type":"info"}',
    '1\n2',
  ])('JSON without an event in it is refused: %s', (body) => {
    expect(() => parseDelivery(Buffer.from(body), RECEIVED_MS)).toThrow('holds no event');
  });

  test('junk beside a good record is ignored', () => {
    const parsed = parse([1, { foo: 1 }, null, { action: 'UserCreated', userId: 'U1' }]);
    expect(parsed.events).toHaveLength(1);
    expect(parsed.ignored).toBe(3);
  });

  test('a byte order mark is no part of the body', () => {
    expect(parseDelivery(Buffer.from('\uFEFF[]'), RECEIVED_MS).events).toEqual([]);
  });

  test('the refusal of a body does not quote it', () => {
    expect(() => parseDelivery(Buffer.from('{ada@example.com'), RECEIVED_MS)).toThrow(
      /^the body is not JSON$/,
    );
  });
});

describe('records', () => {
  test.each([
    ['UserCreated', 'created'],
    ['UserModified', 'modified'],
    ['UserUpdated', 'modified'],
    ['UserDeleted', 'deleted'],
    ['UsersCreated', 'created'],
    ['UsersModified', 'modified'],
    ['UsersDeleted', 'deleted'],
    ['User Created', 'created'],
    ['userdeleted', 'deleted'],
    ['LoginExceedMaxAttempts', 'modified'],
    ['SCIMEvent', 'modified'],
    ['LoginSucceed', 'other'],
    ['AccessKeyDeleted', 'other'],
    ['LatestThing', 'other'],
  ] as const)('the action %s is of kind %s', (action, kind) => {
    expect(parseOne({ action, userId: 'U1', occurred: OCCURRED_MS }).kind).toBe(kind);
  });

  test('a SCIM event that names no user is of kind other', () => {
    expect(parseOne({ action: 'SCIMEvent', data: { scim_action: 'group' } }).kind).toBe('other');
  });

  test.each([
    ['epoch ms', OCCURRED_MS, OCCURRED_MS],
    ['epoch ms as text', String(OCCURRED_MS), OCCURRED_MS],
    ['epoch seconds', 1780949905, 1780949905000],
    ['epoch seconds as text', '1780949905', 1780949905000],
    ['ISO', '2026-06-08T20:18:25.871835Z', OCCURRED_MS],
    ['ISO with a zone', '2026-06-08T22:18:25.871+02:00', OCCURRED_MS],
    ['ISO without a zone, taken as UTC', '2026-06-08T20:18:25.871', OCCURRED_MS],
    ['what Postgres prints', '2026-06-08 20:18:25.871+00', OCCURRED_MS],
    ['nothing', undefined, RECEIVED_MS],
    ['null', null, RECEIVED_MS],
    ['zero', 0, RECEIVED_MS],
    ['text that is none', 'yesterday', RECEIVED_MS],
    ['an instant beyond all calendars', 1e300, RECEIVED_MS],
  ])('the moment is read from %s', (_, occurred, expected) => {
    expect(parseOne({ action: 'UserCreated', userId: 'U1', occurred }).occurredMs).toBe(expected);
  });

  test('records of another project are ignored, records that name none are not', () => {
    const records = [
      { action: 'UserCreated', userId: 'U1', projectId: 'P1' },
      { action: 'UserCreated', userId: 'U2', project_id: 'P2' },
      { action: 'UserCreated', userId: 'U3' },
    ];
    const { events, ignored } = parse(records, 'P1');
    expect(events.map((event) => event.userIds)).toEqual([['U1'], ['U3']]);
    expect(ignored).toBe(1);
    expect(parse(records).events).toHaveLength(3);
  });

  test('an id too long for any index is no id', () => {
    expect(parseOne({ action: 'UserCreated', userId: 'U'.repeat(5000) }).userIds).toEqual([]);
  });

  test('what Postgres cannot store is replaced, in keys and values', () => {
    const { payload, userIds } = parseOne({
      action: 'UserCreated',
      userId: 'U\u0000\ud800',
      data: { 'k\u0000': ['\udfff', 'fine 😀'] },
    });
    expect(userIds).toEqual(['U\uFFFD\uFFFD']);
    expect(JSON.parse(payload)).toMatchObject({ data: { 'k\uFFFD': ['\uFFFD', 'fine 😀'] } });
  });

  test('a record nested without end does no harm', () => {
    const body = `{"action":"UserCreated","data":${'['.repeat(200_000)}${']'.repeat(200_000)}}`;
    const { events } = parseDelivery(Buffer.from(body), RECEIVED_MS);
    expect(events[0]?.payload.length).toBeLessThan(500);
  });
});

describe('the content key', () => {
  const record = { action: 'UserModified', userId: 'U1', occurred: OCCURRED_MS };

  test('is the same for the webhook, the audit search and an export of one event', () => {
    const [a] = parseDelivery(readFixture('formA-array.json'), RECEIVED_MS).events;
    const [f] = parseDelivery(readFixture('formF-auditSearch.json'), RECEIVED_MS + 1).events;
    const [g] = parseDelivery(readFixture('formG-sentinel.json'), RECEIVED_MS + 2).events;
    expect(new Set([a?.eventId, f?.eventId, g?.eventId]).size).toBe(1);
    expect(a?.eventId).toMatch(/^[0-9a-f]{32}$/);
  });

  test('does not depend on the order of ids', () => {
    const of = (userIds: string[]) => parseOne({ ...record, userId: '', userIds }).eventId;
    expect(of(['U1', 'U2'])).toBe(of(['U2', 'U1', 'U2']));
  });

  test.each([
    ['action', { action: 'UserDeleted' }],
    ['moment', { occurred: OCCURRED_MS + 1 }],
    ['user', { userId: 'U2' }],
  ])('differs with the %s', (_, change) => {
    expect(parseOne({ ...record, ...change }).eventId).not.toBe(parseOne(record).eventId);
  });

  test('tells batch events without ids apart by actor and correlation id', () => {
    const of = (correlation: string) =>
      parseOne({ action: 'UsersDeleted', occurred: 1, data: { correlation_id: correlation } });
    expect(of('a').eventId).not.toBe(of('b').eventId);
    expect(of('a').eventId).toBe(of('a').eventId);
  });

  test('tells apart what one request did to several things that are no users', () => {
    const of = (data: object, rest: object = {}) =>
      parseOne({ action: 'FlowUpdated', occurred: 1, actorId: 'K2', ...rest, data }).eventId;
    const told = of({ flow_id: 'sign-up', correlation_id: 'x', browser: 'Firefox', os: 'Linux' });
    expect(of({ flow_id: 'sign-in', correlation_id: 'x', browser: 'Firefox' })).not.toBe(told);
    // As the audit search tells it, and as a form that has the request beside `data`.
    expect(of({ correlation_id: 'x', flow_id: 'sign-up', request_details: {} })).toBe(told);
    expect(of({ flow_id: 'sign-up' }, { correlation_id: 'x', os: 'Linux' })).toBe(told);
    expect(of({}, { Data: '{"flow_id":"sign-up","correlation_id":"x"}', data: null })).toBe(told);
  });

  test('of a batch event is the same where one sender puts the actor in the place of a user', () => {
    const batch = { action: 'UsersDeleted', occurred: 1, actorId: 'U2admin' };
    const told = parseOne({ ...batch, userId: 'U2admin', externalIds: ['admin@example.com'] });
    expect(told).toMatchObject({ kind: 'deleted', userIds: [], loginIds: [], actorId: 'U2admin' });
    expect(told.eventId).toBe(parseOne({ ...batch, userId: '' }).eventId);
    // Others are named as they are told, the actor too.
    const ids = (event: object) => parseOne({ ...batch, ...event }).userIds;
    expect(ids({ userIds: ['U2admin', 'U2ada'] })).toEqual(['U2ada', 'U2admin']);
    expect(ids({ userIds: ['U2ada'] })).toEqual(['U2ada']);
    expect(ids({ action: 'UserDeleted', userId: 'U2admin' })).toEqual(['U2admin']);
  });

  test('of an event without a moment is the same whenever it is received', () => {
    const excerpt = { Change: { given_name: 'Ada' }, correlation_id: 'x' };
    const reordered = { correlation_id: 'x', Change: { given_name: 'Ada' } };
    const first = parseRecord(excerpt, RECEIVED_MS)?.eventId;
    expect(parseRecord(reordered, RECEIVED_MS + 5000)?.eventId).toBe(first);
    expect(parseRecord({ ...excerpt, os: 'Linux' }, RECEIVED_MS)?.eventId).not.toBe(first);
  });
});

test('any JSON at all is read or refused, and what is read can be stored', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.jsonValue(), fc.array(fc.record({ action: fc.string(), data: fc.jsonValue() }))),
      (value) => {
        let events: readonly DirectoryEvent[] = [];
        try {
          ({ events } = parse(value));
        } catch (error) {
          expect(error).toBeInstanceOf(UnreadableDelivery);
        }
        for (const event of events) {
          expect(JSON.parse(event.payload)).toBeTypeOf('object');
          expect(event.payload).not.toMatch(/\\u0000|\\ud[89a-f]/i);
        }
      },
    ),
    { numRuns: 500 },
  );
});
