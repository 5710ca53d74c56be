import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';

import { startEmbeddedPostgres, type RunningPostgres } from '../../src/mirror/embedded.ts';
import { embeddedBaseOf, removeEmbeddedFolder } from '../support/embeddedHost.ts';
import { eventually } from '../support/eventually.ts';
import { query } from '../support/query.ts';

/*
 * One folder for all tests, as a checkout has one: each test finds what the one before left.
 */
let folder: string;
const toStop: RunningPostgres[] = [];
const children: ChildProcess[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rollcall-embedded-'));
});

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await Promise.all(toStop.splice(0).map((postgres) => postgres.stop()));
});

afterAll(() => removeEmbeddedFolder(folder));

async function start(): Promise<RunningPostgres> {
  const postgres = await startEmbeddedPostgres({
    folder,
    hostFile: inject('embeddedHostFile'),
    postgresFlags: ['-c', 'fsync=off'],
  });
  toStop.push(postgres);
  return postgres;
}

/** Another process that starts the same folder's Postgres, prints its url and waits. */
async function startInProcess(): Promise<{ child: ChildProcess; url: string }> {
  const module = join(dirname(inject('embeddedHostFile')), 'embedded.js');
  const script = `
    process.on('SIGINT', () => undefined);
    const { startEmbeddedPostgres } = await import(${JSON.stringify(module)});
    const postgres = await startEmbeddedPostgres({ folder: ${JSON.stringify(folder)} });
    console.log(postgres.url);
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
    env: { ...process.env, DESCOPE_MANAGEMENT_KEY: 'a-secret-of-ours' },
  });
  children.push(child);
  const [chunk] = (await once(child.stdout, 'data')) as [Buffer];
  return { child, url: chunk.toString().trim() };
}

async function lockFile(): Promise<string> {
  return join(await embeddedBaseOf(folder), 'postgres/postmaster.pid');
}

async function postmasterPid(): Promise<number> {
  return Number.parseInt(await readFile(await lockFile(), 'utf8'), 10);
}

/** Not asked by its port, which another program may have got by now: Postgres removes its lock last. */
async function expectStopped(): Promise<void> {
  await expect(stat(await lockFile())).rejects.toThrow(/ENOENT/);
}

/** The host is Postgres' parent. */
async function hostPid(): Promise<number> {
  const status = await readFile(`/proc/${await postmasterPid()}/status`, 'utf8');
  return Number(/^PPid:\s+(\d+)$/m.exec(status)?.[1]);
}

describe('the embedded Postgres', () => {
  test('gives an ordinary role its own database, in UTF-8, and keeps its password to itself', async () => {
    const { url } = await start();

    expect(
      await query(
        url,
        `select current_user as role, rolsuper, rolcreatedb, pg_encoding_to_char(encoding) as encoding,
                pg_get_userbyid(datdba) as owner
           from pg_roles, pg_database where rolname = current_user and datname = current_database()`,
      ),
    ).toEqual([
      {
        role: 'rollcall',
        rolsuper: false,
        rolcreatedb: false,
        encoding: 'UTF8',
        owner: 'rollcall',
      },
    ]);
    expect((await stat(join(folder, 'passwords.json'))).mode & 0o777).toBe(0o600);
    expect((await stat(join(folder, 'door.json'))).mode & 0o777).toBe(0o600);
    const wrong = new URL(url);
    wrong.password = 'wrong';
    await expect(query(wrong.toString(), 'select 1')).rejects.toThrow(/password/);
    await query(url, `create table kept as select 'Zoë 🙂' as name`);
  });

  test('keeps the data between runs, and stopping twice is harmless', async () => {
    const postgres = await start();

    expect(await query(postgres.url, 'select name from kept')).toEqual([{ name: 'Zoë 🙂' }]);
    await Promise.all([postgres.stop(), postgres.stop()]);
    await expectStopped();
    await expect(stat(join(folder, 'door.json'))).rejects.toThrow(/ENOENT/);
  });

  test('is shared by those who start it at once, and ends with the last of them', async () => {
    const [one, two, three] = await Promise.all([start(), start(), start()]);

    expect(two.url).toBe(one.url);
    expect(three.url).toBe(one.url);
    await one.stop();
    await three.stop();
    expect(await query(two.url, 'select 1 as one')).toEqual([{ one: 1 }]);
    await two.stop();
    await expectStopped();
  });

  test('starts while the one before is stopping', async () => {
    const before = await start();
    const stopping = before.stop();
    const after = await start();
    await stopping;

    expect(await query(after.url, 'select count(*)::int from kept')).toEqual([{ count: 1 }]);
  });

  test('is there again at once after its user was killed', async () => {
    const { child, url } = await startInProcess();
    await query(url, 'insert into kept values ($$before the kill$$)');
    child.kill('SIGKILL');

    const postgres = await start();

    expect(await query(postgres.url, 'select count(*)::int from kept')).toEqual([{ count: 2 }]);
  });

  test('stops by itself when its only user was killed', async () => {
    const { child } = await startInProcess();
    child.kill('SIGKILL');

    await eventually(expectStopped);
    await eventually(() => expect(stat(join(folder, 'door.json'))).rejects.toThrow(/ENOENT/));
  });

  test("does not hear the Ctrl-C of its user's terminal", async () => {
    const { child, url } = await startInProcess();
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    // What a terminal does: the signal goes to the whole process group.
    process.kill(-(child.pid ?? 0), 'SIGINT');

    await client.query('select pg_sleep(0.3)');
    expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await client.end();
  });

  test.runIf(process.platform === 'linux')('does not inherit our secrets', async () => {
    await startInProcess();
    const environment = await readFile(`/proc/${await postmasterPid()}/environ`, 'utf8');

    expect(environment).toContain('PATH=');
    expect(environment).not.toContain('a-secret-of-ours');
  });

  test.runIf(process.platform === 'linux')(
    'takes over from a host that was killed and left Postgres running',
    async () => {
      const first = await start();
      await query(first.url, 'insert into kept values ($$third$$)');
      const orphan = await postmasterPid();
      process.kill(await hostPid(), 'SIGKILL');

      const second = await start();

      expect(await postmasterPid()).not.toBe(orphan);
      expect(await query(second.url, 'select count(*)::int from kept')).toEqual([{ count: 3 }]);
    },
  );

  test.runIf(process.platform === 'linux')('ends its host when asked by signal', async () => {
    await start();
    process.kill(await hostPid(), 'SIGTERM');

    await eventually(expectStopped);
    await eventually(() => expect(stat(join(folder, 'door.json'))).rejects.toThrow(/ENOENT/));
  });

  test('starts where a crash left files that name a process of today', async () => {
    const base = await embeddedBaseOf(folder);
    await mkdir(join(base, 'postgres.new'), { recursive: true });
    await writeFile(join(base, 'postgres.new/PG_VERSION'), '18\n');
    // Our own process has the number that the dead Postgres had: a container's next life.
    await writeFile(
      join(base, 'postgres/postmaster.pid'),
      `${process.pid}\n${join(base, 'postgres')}\n1\n5432\n\n127.0.0.1\n`,
    );
    await writeFile(join(folder, 'door.json'), '{"port":1,"token":"gone"}');

    const { url } = await start();

    expect(await query(url, 'select count(*)::int from kept')).toEqual([{ count: 3 }]);
  });

  test('says in one line why it cannot start', async () => {
    await expect(
      startEmbeddedPostgres({
        folder,
        hostFile: inject('embeddedHostFile'),
        postgresFlags: ['-c', 'no_such_setting=1'],
      }),
    ).rejects.toThrow(/^the embedded Postgres did not start: .*no_such_setting[^\n]*$/);
  });

  test('leaves no process behind', () => {
    const processes = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' });
    expect(processes.split('\n').filter((line) => line.includes(folder))).toEqual([]);
  });
});
