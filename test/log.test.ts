import { describe, expect, test } from 'vitest';

import { describeError } from '../src/errors.ts';
import { createLogger, type LoggerOptions } from '../src/log.ts';

const PERSONAL = [
  'ada@example.com',
  'Ada',
  'Lovelace',
  '+15550100123',
  'top-secret',
  'K2aaaa',
  'hunter2',
];

function capture(level: LoggerOptions['level'] = 'info') {
  const lines: string[] = [];
  const log = createLogger({ level, destination: { write: (line) => lines.push(line) } });
  return { log, lines, last: () => JSON.parse(lines.at(-1) ?? '{}') as Record<string, unknown> };
}

function expectNothingPersonal(text: string): void {
  for (const value of PERSONAL) expect(text).not.toContain(value);
}

const user = {
  userId: 'U2ada',
  email: 'ada@example.com',
  phone: '+15550100123',
  name: 'Ada Lovelace',
  givenName: 'Ada',
  family_name: 'Lovelace',
  loginIds: ['ada@example.com'],
  customAttributes: { nick: 'Ada' },
};

/** What drizzle throws: the parameters of the statement are in its message. */
function drizzleError(): Error {
  const cause = Object.assign(
    new Error('duplicate key value violates unique constraint "users_pkey"'),
    {
      code: '23505',
      detail: 'Key (email)=(ada@example.com) already exists.',
    },
  );
  return Object.assign(
    new Error('Failed query: insert into users values ($1)\nparams: ada@example.com,Ada', {
      cause,
    }),
    { query: 'insert into users values ($1)', params: ['ada@example.com', 'Ada'] },
  );
}

describe('the log', () => {
  test('writes one JSON object a line: level, time, msg and the fields', () => {
    const { log, last } = capture();
    log.info({ job: 'applyEvents', users: 3, userId: 'U2ada' }, 'job ended');

    expect(last()).toEqual({
      level: 'info',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) as string,
      msg: 'job ended',
      job: 'applyEvents',
      users: '[hidden]',
      userId: 'U2ada',
    });
  });

  test.each<[string, object]>([
    ['a user', user],
    ['a user in a field', { found: user }],
    ['users in an array', { page: { matches: [user, user] } }],
    ['a user deep down', { a: { b: { c: { d: { e: user } } } } }],
    ['an event', { payload: JSON.stringify(user), raw: user, event: { payload: user } }],
    ['a request', { request: { headers: { authorization: 'Bearer top-secret' }, body: user } }],
    ['settings', { DATABASE_URL: 'postgres://rollcall:hunter2@db/x', managementKey: 'K2aaaa' }],
    ['secrets', { options: { secrets: ['top-secret'], password: 'hunter2', api_key: 'K2aaaa' } }],
    [
      'addresses in other fields',
      { url: 'redis://:hunter2@cache:6379', note: 'to ada@example.com' },
    ],
  ])('hides what is personal or secret in %s (G10)', (_what, fields) => {
    const { log, lines } = capture();
    log.info(fields, 'something');
    log.child(fields).info('in a child');

    expect(lines).toHaveLength(2);
    expectNothingPersonal(lines.join('\n'));
  });

  test.each<[string, unknown]>([
    ['a failed query', drizzleError()],
    ['a wrapped failed query', new Error('could not apply', { cause: drizzleError() })],
    [
      'an error that carries an answer',
      Object.assign(new Error('junk'), { response: { users: [user] }, detail: 'Ada' }),
    ],
    ['a message with a password', new Error('cannot reach postgres://rollcall:hunter2@db/x')],
    [
      'a message with an address',
      new Error('invalid input syntax: "ada@example.com" +15550100123'),
    ],
  ])('tells type, message and code of %s and hides the rest (G10)', (_what, error) => {
    for (const level of ['info', 'debug'] as const) {
      const { log, lines, last } = capture(level);
      log.error(error);
      log.error({ err: error }, 'it failed');
      log.error({ err: error });
      log.error({ reason: error, nested: { error } }, 'it failed');

      expect(lines).toHaveLength(4);
      expectNothingPersonal(lines.join('\n'));
      expect(last()['reason']).toMatchObject({
        type: 'Error',
        message: expect.any(String) as string,
      });
    }
  });

  test('keeps the code of a database error that drizzle has wrapped', () => {
    const { log, last } = capture();
    log.error({ err: drizzleError() }, 'it failed');

    expect(last()['err']).toEqual({
      type: 'Error',
      message: 'duplicate key value violates unique constraint "users_pkey"',
      code: '23505',
    });
  });

  test('prints stacks only at debug', () => {
    const quiet = capture('info');
    quiet.log.error({ err: new Error('broken') }, 'it failed');
    const loud = capture('debug');
    loud.log.error({ err: new Error('broken') }, 'it failed');

    expect(quiet.last()['err']).not.toHaveProperty('stack');
    expect(loud.last()['err']).toHaveProperty('stack', expect.stringMatching(/^\s+at .*log\.test/));
  });

  test('survives what cannot be written as JSON', () => {
    const { log, lines } = capture();
    const circle: Record<string, unknown> = { count: 10n };
    circle['self'] = circle;
    log.info({ circle, bytes: Buffer.from('Ada') }, 'odd');

    expect(lines).toHaveLength(1);
    expectNothingPersonal(lines.join());
  });
});

test('describeError joins the errors of a connection attempt over several addresses', () => {
  const error = new AggregateError([new Error('connect ::1'), new Error('connect 127.0.0.1')]);
  expect(describeError(error)).toBe('connect ::1; connect 127.0.0.1');
});
