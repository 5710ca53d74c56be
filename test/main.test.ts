import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';

import { explainFailure } from '../src/commands/explainFailure.ts';
import { DescopeUnavailable, Stopping, UsageError } from '../src/errors.ts';
import { createEmptyDatabase, type TestDatabase } from './support/database.ts';
import { startProcess, type ProcessOptions, type RunningProcess } from './support/process.ts';

/* The built command line, as a shell sees it: output, exit code, signals. */

let cwd: string;
const running: RunningProcess[] = [];

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'rollcall-cli-'));
});

afterEach(async () => {
  for (const child of running.splice(0)) {
    child.kill('SIGKILL');
    await child.exit;
  }
});

afterAll(() => rm(cwd, { recursive: true, force: true }));

function rollcall(args: string[], options: ProcessOptions = {}): RunningProcess {
  const child = startProcess(args, { cwd, ...options });
  running.push(child);
  return child;
}

describe('rollcall', () => {
  test('--version and --help answer on stdout', async () => {
    const version = rollcall(['--version']);
    expect(await version.exit).toBe(0);
    expect(version.stdout()).toMatch(/^\d+\.\d+\.\d+\n$/);

    const help = rollcall(['--help']);
    expect(await help.exit).toBe(0);
    for (const command of ['start', 'simulate', 'migrate']) {
      expect(help.stdout()).toContain(`\n  ${command} `);
    }
  });

  test("a command's help has its options, --json and an example", async () => {
    const help = rollcall(['start', '--help']);
    expect(await help.exit).toBe(0);
    expect(help.stdout()).toMatch(/--role <role>[\s\S]*--json|--json[\s\S]*--role <role>/);
    expect(help.stdout()).toContain('Example:\n  rollcall start');
  });

  test.each([
    [['fly'], "unknown command 'fly'"],
    [['migrate', '--sideways'], "unknown option '--sideways'"],
    [['migrate', 'extra'], 'too many arguments'],
    [[], 'no command given'],
    [['simulate', '--port', 'home'], '--port must be a whole number'],
    [['status'], 'DATABASE_URL is not set, and there is no embedded Postgres in this folder'],
    [['statsu'], "unknown command 'statsu' (did you mean status?)"],
  ])('%j is a usage error: exit 2 and one line', async (args, message) => {
    const child = rollcall(args);
    expect(await child.exit).toBe(2);
    expect(child.stderr()).toContain(`error: ${message}`);
    expect(child.stderr().trim().split('\n')).toHaveLength(1);
    expect(child.stdout()).toBe('');
  });

  test('with --json a mistake is a line of JSON on stdout as well', async () => {
    const child = rollcall(['migrate', '--sideways', '--json']);
    expect(await child.exit).toBe(2);
    expect(JSON.parse(child.stdout())).toEqual({
      error: { kind: 'usage', message: expect.stringContaining('--sideways') as string },
    });
  });

  test('start without credentials says in one line everything that is missing, exit 2', async () => {
    const child = rollcall(['start']);
    expect(await child.exit).toBe(2);
    expect(child.stderr()).toMatch(/^error: 3 settings are wrong: [^\n]*\n$/);
    for (const name of ['DESCOPE_PROJECT_ID', 'DESCOPE_MANAGEMENT_KEY', 'WEBHOOK_HMAC_SECRETS']) {
      expect(child.stderr()).toContain(`${name} is required`);
    }
    expect(child.stderr()).not.toMatch(/\n\s+at /);
  });

  test('reads .env of its folder, and the environment wins over it', async () => {
    await writeFile(join(cwd, '.env'), 'PORT=not-a-port\nADMIN_PORT=not-a-port\n');
    const child = rollcall(['start'], { env: { PORT: '8787' } });
    expect(await child.exit).toBe(2);
    expect(child.stderr()).toMatch(/[:;] ADMIN_PORT must be/);
    expect(child.stderr()).not.toMatch(/[:;] PORT must be/);
    await rm(join(cwd, '.env'));
  });
});

describe('rollcall migrate', () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createEmptyDatabase();
  });

  afterAll(() => database.drop());

  test('migrates, once', async () => {
    const env = { DATABASE_URL: database.url, MIRROR_SCHEMA: 'cli' };
    const first = rollcall(['migrate', '--json'], { env });
    expect(await first.exit).toBe(0);
    expect(JSON.parse(first.stdout())).toMatchObject({ schema: 'cli' });

    const second = rollcall(['migrate'], { env });
    expect(await second.exit).toBe(0);
    expect(second.stdout()).toBe('schema cli is up to date\n');
  });

  test.each<[string, (url: URL) => void, RegExp]>([
    ['a wrong password', (url) => (url.password = 'hunter2'), /refuses the password.*DATABASE_URL/],
    ['a missing database', (url) => (url.pathname = '/nowhere'), /does not exist\. Create it/],
    ['no server', (url) => (url.port = '1'), /cannot reach Postgres.*DATABASE_URL/],
  ])('%s is one line with the remedy: exit 1', async (_what, change, message) => {
    const url = new URL(inject('databaseUrl'));
    change(url);
    const child = rollcall(['migrate'], { env: { DATABASE_URL: url.toString() } });

    expect(await child.exit).toBe(1);
    expect(child.stderr()).toMatch(message);
    expect(child.stderr().trim().split('\n')).toHaveLength(1);
    expect(child.stderr()).not.toContain(url.password);
  });

  test('shows where a failure came from only at LOG_LEVEL=debug', async () => {
    const env = { DATABASE_URL: 'postgres://a:hunter2@127.0.0.1:1/x', LOG_LEVEL: 'debug' };
    const child = rollcall(['migrate'], { env });
    expect(await child.exit).toBe(1);
    expect(child.stderr()).toMatch(/\n\s+at /);
    expect(child.stderr()).not.toContain('hunter2');
  });
});

describe('rollcall simulate', () => {
  test('prints how to use it, serves until a signal, then exits 0', async () => {
    const child = rollcall(['simulate', '--users', '3', '--seed', '7']);
    const [, url = ''] = await child.waitForLine(/^DESCOPE_BASE_URL=(http:.*)$/);
    await child.waitForLine(/^DESCOPE_MANAGEMENT_KEY=./);
    const { hostname } = new URL(url);
    expect(hostname).toMatch(/^(localhost|127\.0\.0\.1)$/);

    child.kill('SIGTERM');
    expect(await child.exit).toBe(0);
  });
});

describe('explainFailure', () => {
  const addresses = {
    DATABASE_URL: 'postgres://u:hunter2@db.internal:5433/x',
    REDIS_URL: ['redis://cache.internal:6380'],
  };
  const refused = (port: number) =>
    Object.assign(new Error(`connect ECONNREFUSED 10.0.0.1:${port}`), {
      code: 'ECONNREFUSED',
      port,
    });

  test.each<[string, unknown, number, RegExp]>([
    ['a usage error', new UsageError('say which'), 2, /^say which$/],
    ['Postgres away', refused(5433), 1, /^cannot reach Postgres/],
    ['Redis away', refused(6380), 1, /^cannot reach Redis/],
    ['all addresses of Postgres away', new AggregateError([refused(5433)]), 1, /reach Postgres/],
    ['a wrapped one', new Error('apply', { cause: refused(5433) }), 1, /reach Postgres.*apply/],
    ['Redis refusing', new Error('WRONGPASS invalid username-password pair'), 1, /REDIS_URL/],
    [
      'Descope away',
      new DescopeUnavailable('user search', 'no connection', undefined, refused(443)),
      1,
      /^Descope gave no usable answer to user search/,
    ],
    ['anything else', new Error('one\n  two'), 1, /^one two$/],
    ['not even an error', 'odd', 1, /^odd$/],
    ['a signal', new Stopping(), 1, /^stopped by a signal/],
  ])('%s', (_what, error, exitCode, message) => {
    const failure = explainFailure(error, addresses);
    expect(failure.exitCode).toBe(exitCode);
    expect(failure.message).toMatch(message);
    expect(failure.message).not.toContain('hunter2');
  });
});
