import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { applyObservations } from '../src/apply/apply.ts';
import { toUserRow } from '../src/descope/users.ts';
import { databaseNow, transaction } from '../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from './support/database.ts';

/*
 * A package of its own that installs what is packed here, and compiles the examples against it.
 */

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..');
const TSC = join(
  dirname(createRequire(import.meta.url).resolve('typescript/package.json')),
  'bin/tsc',
);

let folder: string;
let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
  folder = await mkdtemp(join(tmpdir(), 'rollcall-examples-'));
  await install();
  await cp(join(ROOT, 'examples'), folder, { recursive: true });
  await fill();
});

afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true, force: true });
});

/** As `npm install <tarball>` would, but with the libraries that are here already. */
async function install(): Promise<void> {
  const modules = join(folder, 'node_modules');
  await mkdir(join(modules, 'rollcall'), { recursive: true });
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: ROOT });
  const tarball = (await readdir(folder)).find((name) => name.endsWith('.tgz')) ?? '';
  const to = join(modules, 'rollcall');
  await run('tar', ['-xzf', join(folder, tarball), '--strip-components=1', '-C', to]);
  for (const name of await readdir(join(ROOT, 'node_modules'))) {
    if (!name.startsWith('.')) await symlink(join(ROOT, 'node_modules', name), join(modules, name));
  }
}

async function fill(): Promise<void> {
  const { mirror } = database;
  const observedAt = await databaseNow(mirror);
  const users = [
    ['U1', 'Ada Lovelace', ['admin']],
    ['U2', 'Alan Turing', ['member']],
    ['U3', 'Ada Yonath', ['admin', 'member']],
  ] as const;
  await transaction(mirror, (tx) =>
    applyObservations(
      tx,
      mirror.t,
      users.map(([userId, name, roleNames]) => {
        const userTenants = [{ tenantId: 'T2acme', roleNames }];
        const row = toUserRow({ userId, name, email: `${userId}@example.com`, userTenants });
        if (!row) throw new Error('a user without an id');
        return { kind: 'present', userId, row, observedAt, by: 'load' };
      }),
      'manual',
    ),
  );
}

async function runExample(name: string, ...args: string[]): Promise<string[]> {
  const { stdout } = await run(process.execPath, [join(folder, 'dist', name), ...args], {
    cwd: folder,
    env: { PATH: process.env['PATH'], DATABASE_URL: database.url },
  });
  return stdout.trim().split('\n');
}

describe('the examples, against the packed package', () => {
  it('compile under strict', async () => {
    await run(process.execPath, [TSC, '-p', folder]);
  });

  it('plain SQL: who administers a tenant', async () => {
    expect(await runExample('plainSql.js', 'T2acme', 'admin')).toEqual([
      'U1 U1@example.com',
      'U3 U3@example.com',
    ]);
  });

  it('drizzle: how many users a tenant has', async () => {
    expect(await runExample('drizzle.js')).toEqual(['T2acme 3']);
  });

  it('the feed: a search index, without those who are gone', async () => {
    expect(await runExample('searchIndex.js', 'ada')).toEqual(['U1', 'U3']);
    const { mirror } = database;
    const observedAt = await databaseNow(mirror);
    await transaction(mirror, (tx) =>
      applyObservations(tx, mirror.t, [{ kind: 'absent', userId: 'U1', observedAt }], 'manual'),
    );
    expect(await runExample('searchIndex.js', 'ada')).toEqual(['U3']);
  });
});
