import { sql } from 'drizzle-orm';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import { applyObservations } from '../src/apply/apply.ts';
import { toUserRow } from '../src/descope/users.ts';
import { pruneFeed } from '../src/feed/prune.ts';
import { databaseNow, transaction } from '../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from './support/database.ts';
import { compile, installPacked, run } from './support/packed.ts';
import { createScene } from './support/world.ts';

/*
 * A package of its own that installs what is packed here, and compiles the examples against it.
 */

const ROOT = join(import.meta.dirname, '..');

let folder: string;
let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
  folder = await mkdtemp(join(tmpdir(), 'rollcall-examples-'));
  await installPacked(folder);
  await cp(join(ROOT, 'examples'), folder, { recursive: true });
  await fill();
});

afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true, force: true });
});

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
  return runWith({ DATABASE_URL: database.url }, name, ...args);
}

async function runWith(
  env: Readonly<Record<string, string>>,
  name: string,
  ...args: string[]
): Promise<string[]> {
  const { stdout } = await run(process.execPath, [join(folder, 'dist', name), ...args], {
    cwd: folder,
    env: { PATH: process.env['PATH'], ...env },
  });
  return stdout.trim().split('\n');
}

describe('the examples, against the packed package', () => {
  it('compile under strict', async () => {
    await compile(folder);
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

  it('a named cursor: each run goes on where the last one ended, or begins again', async () => {
    const run = () => runExample('namedCursor.js');
    const everyone = ['U1', 'U2', 'U3'].map((userId) => `subscribe ${userId}@example.com`);
    expect(await run()).toEqual(everyone);
    expect(await run()).toEqual(['']);
    const { mirror } = database;
    const observedAt = await databaseNow(mirror);
    await transaction(mirror, (tx) =>
      applyObservations(tx, mirror.t, [{ kind: 'absent', userId: 'U2', observedAt }], 'manual'),
    );
    expect(await run()).toEqual(['unsubscribe U2']);

    await mirror.db.execute(sql`delete from ${mirror.t.feedCursors}`);
    await mirror.db.execute(
      sql`update ${mirror.t.userChanges} set written_at = now() - interval '2 days'`,
    );
    await pruneFeed(mirror, { days: 1, steps: 1 }, new AbortController().signal);
    expect(await run()).toEqual(['unsubscribe everybody', everyone[0], everyone[2]]);
    expect(await run()).toEqual(['']);
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

  it('embedded: the whole service in a process that ends by itself', async () => {
    const scene = await createScene({ simulator: { users: 20 } });
    onTestFinished(() => scene.stop());
    // What an operator sees is the service's log, which has nothing to say here.
    expect(await runWith({ ...scene.env, LOG_LEVEL: 'warn' }, 'embedded.js')).toEqual(['20 users']);
  });
});
