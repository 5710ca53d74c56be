import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import * as events from '../../src/commands/events.ts';
import { createScreen } from '../../src/commands/screen.ts';
import { Stopping, UsageError } from '../../src/errors.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { startProcess } from '../support/process.ts';
import { createScene, type Scene } from '../support/world.ts';
import { runCommand, withoutCredentials, type Running } from './context.ts';

import type { CommandOptions } from '../../src/commands/command.ts';
import type { DirectoryEvent } from '../../src/inbox/event.ts';
import type { TrailPage } from '../../src/readers/trail.ts';

let scene: Scene;
beforeAll(async () => {
  scene = await createScene({ simulator: { users: 0 } });
});
afterAll(() => scene.stop());
afterEach(() => scene.database.mirror.db.execute(sql`truncate ${scene.database.mirror.t.events}`));

const BASE_MS = Date.UTC(2026, 10, 21, 8);

async function tell(...records: object[]): Promise<void> {
  const { db, t } = scene.database.mirror;
  const told = records
    .map((record, nth) => parseRecord({ occurred: BASE_MS + nth * 1_000, ...record }, BASE_MS))
    .filter((event): event is DirectoryEvent => event !== null);
  await recordEvents(db, t, told, 'webhook', { archiveAll: true });
}

const ada = {
  ...{ action: 'UserModified', userId: 'U2ada', externalIds: ['ada@example.com'], actorId: 'K2' },
  ...{ tenants: ['T2acme'], data: { Change: { given_name: '=1+1', added_roles: ['admin'] } } },
};
const batch = { action: 'UsersDeleted', data: { userIds: ['U2a', 'U2b', 'U2c', 'U2d', 'U2e'] } };
const nameless = { action: 'LoginFailed', externalIds: ['eve\t\u001b[31m'], actorId: '-1' };

const ask = (options: CommandOptions = {}, running: Running = {}) =>
  runCommand(events, scene, options, running);

const TERMINAL = createScreen({ isTTY: true, columns: 200 }, { NO_COLOR: '1' });

describe('rollcall events', () => {
  it('shows a table on a terminal, newest first', async () => {
    await tell(ada, batch, nameless);
    const { exitCode, stdout, stderr } = await ask({}, { screen: TERMINAL });
    expect(exitCode).toBe(0);
    expect(stdout).toEqual([
      'occurred                  action        actor  about                   tenants  changed                 state',
      '2026-11-21T08:00:02.000Z  LoginFailed   -1     eve��[31m               –        –                       archived',
      '2026-11-21T08:00:01.000Z  UsersDeleted  –      U2a U2b U2c and 2 more  –        –                       pending',
      '2026-11-21T08:00:00.000Z  UserModified  K2     U2ada                   T2acme   added_roles given_name  pending',
    ]);
    expect(stderr).toEqual([]);
  });

  it('shows on a narrow terminal what does not fit in a table, and cuts no id', async () => {
    await tell(ada, nameless);
    const narrow = createScreen({ isTTY: true, columns: 80 }, { NO_COLOR: '1' });
    const { stdout } = await ask({}, { screen: narrow });
    expect(stdout).toEqual([
      '2026-11-21T08:00:01.000Z  LoginFailed',
      '   actor  -1',
      '   about  eve��[31m',
      '   state  archived',
      '2026-11-21T08:00:00.000Z  UserModified',
      '   actor    K2',
      '   about    U2ada',
      '   tenants  T2acme',
      '   changed  added_roles given_name',
      '   state    pending',
    ]);
  });

  it('shows plain lines in a pipe, with nothing left out', async () => {
    await tell(ada, batch);
    const { stdout } = await ask();
    expect(stdout).toEqual([
      '2026-11-21T08:00:01.000Z\tUsersDeleted\t–\tU2a U2b U2c U2d U2e\t–\t–\tpending',
      '2026-11-21T08:00:00.000Z\tUserModified\tK2\tU2ada\tT2acme\tadded_roles given_name\tpending',
    ]);
  });

  it('tells a person at a terminal of what is not shown', async () => {
    await tell(ada, batch);
    const shown = await ask({ limit: '1' }, { screen: TERMINAL });
    expect([shown.stdout.length, shown.stderr]).toEqual([
      2,
      ['there are older ones: --limit shows more of them, --all all'],
    ]);
    const none = await ask({ user: 'U2nobody' }, { screen: TERMINAL });
    expect(none).toMatchObject({ exitCode: 0, stdout: [], stderr: ['no event matches'] });
  });

  it('answers --json with one page in one line', async () => {
    await tell(ada, batch, nameless);
    const outcome = await ask({ limit: '2', since: '2026-11-21' }, { json: true });
    expect(outcome.stdout).toHaveLength(1);
    const page = outcome.json() as unknown as TrailPage;
    expect(page.events.map(({ action }) => action)).toEqual(['LoginFailed', 'UsersDeleted']);
    expect(page.next).toEqual(expect.any(String));
  });

  it('filters by all that is asked', async () => {
    await tell(ada, batch, nameless);
    const found = async (options: CommandOptions) => (await ask(options)).stdout.length;
    expect(await found({ user: 'U2ada', actor: 'K2', action: 'user*', tenant: 'T2acme' })).toBe(1);
    expect(await found({ changed: 'roleNames=admin' })).toBe(1);
    expect(await found({ since: '2026-11-21T08:00:01Z', until: '2026-11-21T09:00:02+01:00' })).toBe(
      1,
    );
    expect(await found({ user: 'U2d' })).toBe(1);
  });

  it('writes CSV that no spreadsheet takes for formulas', async () => {
    await tell({ ...ada, userId: '@SUM(A1)', externalIds: ['+15550100'] }, nameless);
    const { stdout } = await ask({ format: 'csv', all: true });
    expect(stdout[0]).toBe(
      'occurredAt,action,actorId,userIds,loginIds,tenantIds,changed,change,state,outcome,firstWitness,receivedAt,eventId',
    );
    expect(stdout[1]).toMatch(/^2026-11-21T08:00:01.000000Z,LoginFailed,'-1,,eve\t/);
    expect(stdout[2]).toContain(`,K2,'@SUM(A1),'+15550100,T2acme,added_roles given_name,`);
    expect(stdout[2]).toContain(`,"{""given_name"":""=1+1"",""added_roles"":[""admin""]}",`);
    expect(stdout).toHaveLength(3);
    expect((await ask({ format: 'csv', user: 'U2nobody' })).stdout).toEqual([stdout[0]]);
  });

  it('writes JSON lines', async () => {
    await tell(ada, batch);
    const { stdout } = await ask({ format: 'jsonl', limit: '1' });
    expect(stdout.map((line) => (JSON.parse(line) as { action: string }).action)).toEqual([
      'UsersDeleted',
    ]);
  });

  it.each<[CommandOptions, RegExp, Running?]>([
    [{ since: 'yesterday' }, /^--since must be an instant/],
    [{ until: 'x' }, /^--until must be an instant/],
    [{ limit: '1001' }, /^--limit must be a whole number from 1 to 1000/],
    [{ format: 'xml' }, /^--format must be one of table, csv, jsonl/],
    [{ action: '*Deleted' }, /^--action must be/],
    [{ changed: '=admin' }, /^--changed must be/],
    [{ user: ' ' }, /^--user must not be empty/],
    [{ all: true, limit: '3' }, /^give --all or --limit/],
    [{ all: true }, /--format jsonl/, { json: true }],
    [{ format: 'csv' }, /--format jsonl/, { json: true }],
  ])('refuses %j', async (options, message, running) => {
    const refused = ask(options, running);
    await expect(refused).rejects.toThrow(UsageError);
    await expect(refused).rejects.toThrow(message);
  });

  it('ends with its signal', async () => {
    await expect(ask({ all: true }, { signal: AbortSignal.abort() })).rejects.toThrow(Stopping);
  });
});

describe('rollcall events --all', () => {
  const EVENTS = 30_000;
  /** A heap that could not hold them: they are 60 MB as text (G8). */
  const SMALL_HEAP = { NODE_OPTIONS: '--max-old-space-size=64' };

  async function generate(): Promise<void> {
    const { db, t } = scene.database.mirror;
    await db.execute(sql`
      insert into ${t.events} (event_id, action, occurred_at, payload, state, webhook_at)
      select md5(n::text), 'UserModified', now() - n * interval '1 second',
             jsonb_build_object('data', jsonb_build_object('Change',
               jsonb_build_object('given_name', repeat('Ada ', 500)))), 'applied', now()
      from generate_series(1, ${EVENTS}::int) as n`);
  }

  it('holds a page in memory, and needs no credentials', async () => {
    await generate();
    const child = startProcess(['events', '--all', '--format', 'jsonl'], {
      env: { ...withoutCredentials(scene), ...SMALL_HEAP },
    });
    expect(await child.exit).toBe(0);
    const lines = child.stdout().trimEnd().split('\n');
    expect(lines).toHaveLength(EVENTS);
    expect(
      new Set(lines.map((line) => (JSON.parse(line) as { eventId: string }).eventId)).size,
    ).toBe(EVENTS);
  });

  it('ends well when nobody reads any more', async () => {
    await generate();
    const main = join(import.meta.dirname, '../../dist/src/main.js');
    const child = spawn(process.execPath, [main, 'events', '--all', '--format', 'csv'], {
      env: { PATH: process.env['PATH'], ...withoutCredentials(scene) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    await once(child.stdout, 'data');
    child.stdout.destroy();
    const [exitCode] = (await once(child, 'exit')) as [number | null];
    expect([exitCode, stderr]).toEqual([0, '']);
  });
});
