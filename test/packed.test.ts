import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';

import { compile, installPacked, run } from './support/packed.ts';
import { createScene } from './support/world.ts';

/*
 * What is packed, as a package of somebody else finds it.
 */

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rollcall-packed-'));
  await installPacked(folder);
  await writeFile(join(folder, 'package.json'), '{"type": "module"}');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('the package has what it runs with, and nothing else', async () => {
  const packed = join(folder, 'node_modules/rollcall');
  const files = (await readdir(packed, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name).slice(packed.length + 1));
  const others = files.filter(
    (file) => !/^dist\/(src|jobs)\/[\w/]+(\.d\.ts|\.js)$/.test(file) && !/page\//.test(file),
  );
  expect(others.sort()).toEqual([
    'README.md',
    ...others.filter((file) => /^dist\/src\/mirror\/migrations\/\d{4}_\w+\.sql$/.test(file)),
    'dist/src/mirror/migrations/comments.sql',
    ...others.filter((file) => /^dist\/src\/mirror\/migrations\/meta\/\w+\.json$/.test(file)),
    'package.json',
  ]);
  expect(files).toEqual(
    expect.arrayContaining([
      ...['dist/src/main.js', 'dist/src/service.js', 'dist/src/service.d.ts'],
      ...['dist/src/mirror/migrations/0000_mirror.sql', 'dist/src/http/page/overview.html'],
      'dist/src/mirror/migrations/meta/_journal.json',
    ]),
  );
});

/** Uses what each entry promises; the line that is wrong has to be found wrong. */
const USES = `
import { createLogger, parseConfig, startService, type Config, type Service, type ServiceOptions } from 'rollcall';
import { changes, findUser, usersWithRole, waitFor, type Change, type Reader, type User } from 'rollcall/readers';

const config: Config = parseConfig({ PORT: '0' });
const port: number = config.PORT;
const options: ServiceOptions = { config, log: createLogger({ level: 'warn' }), databaseUrl: '', role: 'all' };
// @ts-expect-error there is no such role
const wrong: ServiceOptions = { ...options, role: 'both' };
// @ts-expect-error the level is one of pino's
createLogger({ level: 'loud' });
export async function begin(reader: Reader): Promise<[Service, User | null]> {
  const service = await startService(options);
  service.adminPort.toFixed();
  // @ts-expect-error a service has no such thing
  service.start();
  for await (const change of changes(reader)) {
    const kind: Change['kind'] = change.kind;
    // @ts-expect-error no change is of this kind
    if (kind === 'moved') continue;
  }
  await usersWithRole(reader, 'admin', { tenantId: null });
  const seen = await waitFor(reader, 'U1', new Date());
  seen?.asOf.toISOString();
  return [service, await findUser(reader, 'U1')];
}
export { port, wrong };
`;

const TABLES = `
import { mirrorTables, liveUsers } from 'rollcall/schema';

type Row = typeof liveUsers.$inferSelect;
export const name: Row['name'] = null;
// @ts-expect-error an id is never null
export const id: Row['userId'] = null;
export const { roleMembers, tenantMembers } = mirrorTables('other');
`;

const NODENEXT = { module: 'nodenext', moduleResolution: 'nodenext' };
const BUNDLER = { module: 'esnext', moduleResolution: 'bundler' };

describe('types of the package', () => {
  // The declarations of drizzle-orm do not pass the compiler themselves, so behind `schema` they are not checked.
  test.each([
    ['nodenext', USES, { ...NODENEXT, skipLibCheck: false }],
    ['bundler', USES, { ...BUNDLER, skipLibCheck: false }],
    ['bundlerSchema', TABLES, { ...BUNDLER, skipLibCheck: true }],
    ['nodenextSchema', TABLES, { ...NODENEXT, skipLibCheck: true }],
  ])('resolve and hold, strict: %s', async (name, source, options) => {
    const at = join(folder, name);
    await mkdir(at);
    await writeFile(join(at, 'uses.ts'), source);
    const compilerOptions = {
      ...{ target: 'es2023', lib: ['es2023'], types: ['node'], strict: true, noEmit: true },
      ...{ exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true },
      ...options,
    };
    await writeFile(
      join(at, 'tsconfig.json'),
      JSON.stringify({ compilerOptions, include: ['*.ts'] }),
    );
    await compile(at);
  });
});

/** Starts and stops the service twice, and tells what that left behind in the process. */
const TWICE = `
import { createLogger, parseConfig, startService } from 'rollcall';

const EVENTS = ['exit', 'beforeExit', 'SIGINT', 'SIGTERM', 'SIGHUP', 'uncaughtException', 'unhandledRejection', 'message'];
const look = () => JSON.stringify({
  env: { ...process.env }, exitCode: process.exitCode, cwd: process.cwd(),
  listeners: EVENTS.map((event) => process.listenerCount(event)),
});
const { DATABASE_URL: databaseUrl, ...env } = JSON.parse(process.argv[2]);
const before = look();
const ports = [];
for (let turn = 0; turn < 2; turn++) {
  const config = parseConfig(env);
  const service = await startService({ config, log: createLogger({ level: 'warn' }), databaseUrl, role: 'all' });
  const ready = await fetch('http://127.0.0.1:' + service.publicPort + '/readyz');
  ports.push(ready.status);
  if (look() !== before) throw new Error('while it runs: ' + look() + ' was ' + before);
  await service.stop();
  await service.stop();
}
if (look() !== before) throw new Error('afterwards: ' + look());
console.log(ports.join());
`;

test('starts and stops twice in a process, which it leaves as it was and lets end', async () => {
  const scene = await createScene({ simulator: { users: 5 } });
  onTestFinished(() => scene.stop());
  await writeFile(join(folder, 'twice.js'), TWICE);
  const { stdout, stderr } = await run(
    process.execPath,
    [join(folder, 'twice.js'), JSON.stringify({ ...scene.env, LOG_LEVEL: 'warn' })],
    // Nothing of ours is in its environment; nothing of it keeps the process.
    { cwd: folder, env: { PATH: process.env['PATH'] }, timeout: 50_000 },
  );
  expect(stdout).toBe('200,200\n');
  expect(stderr).toBe('');
});
