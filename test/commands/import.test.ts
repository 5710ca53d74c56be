import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';

import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as importArchive from '../../src/commands/import.ts';
import * as sync from '../../src/commands/sync.ts';
import { Stopping, UsageError } from '../../src/errors.ts';
import { startProcess } from '../support/process.ts';
import { createScene, type Scene } from '../support/world.ts';
import { runCommand, withoutCredentials } from './context.ts';

let scene: Scene | undefined;
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rollcall-archive-'));
});
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
  await rm(folder, { recursive: true, force: true });
});

async function begin(env: Record<string, string> = {}, users = 0): Promise<Scene> {
  scene = await createScene({
    simulator: { users },
    env: { PULL_SETTLE_SECONDS: '0', ...env },
  });
  return scene;
}

async function put(file: string, content: string | Buffer): Promise<void> {
  await mkdir(dirname(join(folder, file)), { recursive: true });
  await writeFile(join(folder, file), content);
}

let moment = 1_780_000_000_000;
/** An audit record of its own moment. */
function record(userId: string, action = 'UserModified'): Record<string, unknown> {
  return { action, userId, occurred: String(++moment), data: { Change: { given_name: 'Ada' } } };
}

const lines = (records: unknown[]) => records.map((one) => `${JSON.stringify(one)}\n`).join('');

async function imported(s: Scene) {
  const outcome = await runCommand(importArchive, s, { folder }, { json: true });
  return { exitCode: outcome.exitCode, ...outcome.json() };
}

async function userIds(s: Scene): Promise<string[]> {
  const found = await s.query<{ userId: string }>(
    sql`select user_ids[1] as "userId" from ${s.database.mirror.t.events}
        where state = 'pending' and archive_at is not null and webhook_at is null order by 1`,
  );
  return found.map((row) => row.userId);
}

describe('rollcall import', () => {
  it('takes every form below dated folders, plain and gzipped', async () => {
    const s = await begin();
    await put('2026/11/19/one.json', JSON.stringify(record('U01')));
    await put('2026/11/19/array.json', JSON.stringify([record('U02'), record('U03')], null, 2));
    await put('2026/11/20/line.JSON', JSON.stringify([record('U04'), record('U05')]));
    await put('2026/11/20/envelope.json', JSON.stringify({ audits: [record('U06')] }, null, 1));
    await put('2026/11/20/h00/lines.jsonl', lines([record('U07'), record('U08')]));
    await put(
      '2026/11/20/h01/crlf.ndjson',
      lines([record('U09'), record('U10')]).replaceAll('\n', '\r\n'),
    );
    await put(
      '2026/11/20/h02/noEnd.jsonl',
      `\n\n${lines([record('U11'), record('U12')]).trimEnd()}`,
    );
    await put('2026/11/21/lines.ndjson.gz', gzipSync(lines([record('U13')])));
    const members = [gzipSync(lines([record('U14')])), gzipSync(lines([record('U15')]))];
    await put('2026/11/21/members.jsonl.gz', Buffer.concat(members));
    await put('2026/11/21/array.json.gz', gzipSync(JSON.stringify([record('U16')], null, 2)));
    await put('2026/11/21/unpacked.json.gz', JSON.stringify(record('U17')));
    await put('2026/11/21/bom.json', `\uFEFF${JSON.stringify([record('U18')])}`);
    await put('2026/11/21/empty.json', '');
    await put('2026/11/21/nothing.json', '[]');
    await put('2026/11/21/README.txt', 'not ours');
    await put('.hidden/x.json', 'not ours either');
    expect(await imported(s)).toEqual({
      ...{ exitCode: 0, files: 14, badFiles: 0, otherFiles: 1, bad: [] },
      ...{ accepted: 18, archived: 0, duplicates: 0, ignored: 0 },
    });
    const expected = Array.from({ length: 18 }, (_, at) => `U${String(at + 1).padStart(2, '0')}`);
    expect(await userIds(s)).toEqual(expected);
    expect(await imported(s)).toMatchObject({ exitCode: 0, accepted: 0, duplicates: 18 });
  });

  it('names bad files, takes what is good in them and goes on: exit 3', async () => {
    const s = await begin();
    await put('a/garbage.json', '{"action": "UserCr');
    await put('b/half.jsonl', `${lines([record('U01'), record('U02')])}{"action":"User`);
    await put('c/spoiltFirst.jsonl', `odified"}\n${lines([record('U03'), record('U04')])}`);
    await put('d/cut.jsonl.gz', gzipSync(lines([record('U05')])).subarray(0, 40));
    await put('e/notGzip.json.gz', Buffer.from([0x1f, 0x8b, 1, 2, 3, 4]));
    await put('f/manifest.json', JSON.stringify({ version: 1, entries: ['x'] }, null, 2));
    await put('g/manifest.jsonl', lines([{ version: 1 }]));
    await put('h/good.json', JSON.stringify(record('U06')));
    const outcome = await runCommand(importArchive, s, { folder });
    expect(outcome.exitCode).toBe(3);
    expect(outcome.stderr).toEqual([
      'bad file a/garbage.json: is not JSON',
      'bad file b/half.jsonl: 1 of its 3 lines are no audit records',
      'bad file c/spoiltFirst.jsonl: not all of its lines are audit records',
      'bad file d/cut.jsonl.gz: is not intact gzip',
      'bad file e/notGzip.json.gz: is not intact gzip',
      'bad file f/manifest.json: holds no event',
      'bad file g/manifest.jsonl: holds no audit record',
    ]);
    expect(outcome.stdout).toEqual([
      '8 files read, 7 of them bad',
      '5 events accepted, 0 duplicates, 0 ignored',
      'they are pending: the service applies them, or `rollcall sync` does now',
    ]);
    expect(await userIds(s)).toEqual(['U01', 'U02', 'U03', 'U04', 'U06']);
  });

  it('streams JSON lines of any size, and refuses a larger document', async () => {
    const s = await begin();
    const filler = 'x'.repeat(1_024);
    const line = `${JSON.stringify({ action: 'LoginSucceed', occurred: 1_780_000_000_000, filler })}\n`;
    const large = async (file: string, first: string, middle: string, last: string) => {
      await put(file, first);
      const handle = await open(join(folder, file), 'a');
      const block = middle.repeat(1_000);
      for (let at = 0; at < 66; at++) await handle.write(block);
      await handle.write(last);
      await handle.close();
    };
    await large('large.jsonl', lines([record('U01')]), line, lines([record('U02')]));
    await large('large.json', '[\n', `${' '.repeat(1_023)}\n`, `${JSON.stringify(record('U03'))}]`);
    expect(await imported(s)).toMatchObject({
      ...{ exitCode: 3, files: 2, badFiles: 1, accepted: 2, ignored: 66_000 },
      bad: [{ file: 'large.json', reason: 'is larger than 64 MiB and not JSON lines' }],
    });
    expect(await userIds(s)).toEqual(['U01', 'U02']);
  });

  it('counts what the webhook told already as duplicates, and leaves out what is not ours', async () => {
    const s = await begin();
    const projectId = s.config.DESCOPE_PROJECT_ID;
    await put(
      'x.jsonl',
      lines([
        { ...record('U01'), projectId },
        { ...record('U02'), projectId: 'P2other' },
        record('U03', 'LoginSucceed'),
      ]),
    );
    expect(await imported(s)).toMatchObject({ accepted: 1, ignored: 2, archived: 0 });
    const keeping = { ...s, config: { ...s.config, EVENT_ARCHIVE: 'all' as const } };
    expect(await imported(keeping)).toMatchObject({
      accepted: 0,
      duplicates: 1,
      ignored: 1,
      archived: 1,
    });
  });

  it('leaves events that sync applies: an archive is as good a hint as any', async () => {
    const s = await begin({}, 30);
    await runCommand(backfill, s);
    const { directory } = s.simulator;
    const [changed, gone] = [...directory.users()].filter((user) => !user.test);
    if (!changed || !gone) throw new Error('nobody there');
    // Neither moves the modified time nor is in the audit trail: only the archive tells.
    const silent = { event: false, moveModifiedTime: false };
    directory.modifyUser(changed.userId, { givenName: 'Only The Archive Knows' }, silent);
    directory.deleteUser(gone.userId, silent);
    await put('x.jsonl', lines([record(changed.userId), record(gone.userId, 'UserDeleted')]));
    expect(await imported(s)).toMatchObject({ exitCode: 0, accepted: 2 });
    expect((await runCommand(sync, s)).exitCode).toBe(0);
    await s.assertEqual();
    const { t } = s.database.mirror;
    expect(
      await s.query(sql`select kind, witness from ${t.userChanges}
                        where witness = 'archive' order by kind`),
    ).toEqual([
      { kind: 'deleted', witness: 'archive' },
      { kind: 'updated', witness: 'archive' },
    ]);
  });

  it('stops between two files when the process is asked to', async () => {
    const s = await begin();
    await put('x.json', JSON.stringify(record('U01')));
    const stopped = { signal: AbortSignal.abort() };
    await expect(runCommand(importArchive, s, { folder }, stopped)).rejects.toThrow(Stopping);
  });

  it('wants a folder that is there', async () => {
    const s = await begin();
    const away = runCommand(importArchive, s, { folder: join(folder, 'away') });
    await expect(away).rejects.toThrow(UsageError);
  });

  it('ends with 1 where nothing could be read, 3 where something, 0 where all, without credentials', async () => {
    const s = await begin();
    const env = withoutCredentials(s);
    const cli = async () => {
      const child = startProcess(['import', folder], { env });
      return { exitCode: await child.exit, stdout: child.stdout() };
    };
    expect(await cli()).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining('nothing to import') as string,
    });
    await put('bad.json', 'nonsense');
    expect(await cli()).toMatchObject({ exitCode: 1 });
    await put('good.json', JSON.stringify(record('U01')));
    expect(await cli()).toMatchObject({ exitCode: 3 });
    await rm(join(folder, 'bad.json'));
    expect(await cli()).toEqual({
      exitCode: 0,
      stdout: '1 file read, 0 of them bad\n0 events accepted, 1 duplicate, 0 ignored\n',
    });
  });
});
