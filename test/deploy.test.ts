import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, test } from 'vitest';

import { settings } from '../src/config.ts';
import { createWorld, type World } from './support/world.ts';

/* What can be told of deploy/ without a Docker and without a systemd that runs. */

const root = join(import.meta.dirname, '..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const dockerfile = read('deploy/Dockerfile');
const compose = read('deploy/compose.yaml');
const unit = read('deploy/rollcall.service');
const manifest = JSON.parse(read('package.json')) as { bin: { rollcall: string } };

let world: World | undefined;
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

/** What a program comes to: its exit code and all it said; null where it is not installed. */
function run(
  program: string,
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): Promise<{ exitCode: number; output: string } | null> {
  return new Promise((resolve) => {
    const options = { env: { PATH: process.env['PATH'], ...env } };
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error?.code === 'ENOENT') resolve(null);
      else resolve({ exitCode: Number(error?.code ?? 0), output: stdout + stderr });
    });
  });
}

describe('the image', () => {
  test('copies what is there, and what the ignore file lets in', () => {
    const copied = [...dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(
      ([, sources = '']) => sources.split(' '),
    );
    expect(copied.length).toBeGreaterThan(5);
    const kept = read('deploy/Dockerfile.dockerignore')
      .split('\n')
      .flatMap((line) => (line.startsWith('!') ? [line.slice(1)] : []));
    for (const path of copied) {
      expect(existsSync(join(root, path)), path).toBe(true);
      expect(kept).toContain(path);
    }
    expect(kept.filter((path) => !copied.includes(path))).toEqual([]);
  });

  test('starts the program as nobody in particular, and asks no shell to', () => {
    const last = dockerfile.split(/^FROM /m).at(-1) ?? '';
    expect(last).toContain(`ENTRYPOINT ["node", "${manifest.bin.rollcall}"]`);
    expect(last).toMatch(/^USER node$/m);
    expect(last.indexOf('USER node')).toBeLessThan(last.indexOf('ENTRYPOINT'));
  });

  it('knows whether the service lives', async () => {
    const [, command = '[]'] = /HEALTHCHECK[^[]*(\[.*\])/.exec(dockerfile) ?? [];
    const [program, ...args] = JSON.parse(command) as string[];
    expect(program).toBe('node');
    world = await createWorld({ simulator: { users: 1 } });
    const PORT = String(world.service.publicPort);
    expect(await run(process.execPath, args, { PORT })).toEqual({ exitCode: 0, output: '' });
    await world.service.stop();
    expect(await run(process.execPath, args, { PORT })).toEqual({ exitCode: 1, output: '' });
  });
});

describe('the compose file', () => {
  test('sets what is a setting, and no secret to a value', () => {
    const named = [...compose.matchAll(/^ {4,6}([A-Z][A-Z_]+):/gm)].map(([, name = '']) => name);
    const ours = named.filter((name) => !name.startsWith('POSTGRES_'));
    expect(ours).toContain('DESCOPE_MANAGEMENT_KEY');
    expect(ours.filter((name) => !(name in settings))).toEqual([]);
    const secrets = /^ +\S*(?:KEY|TOKEN|SECRETS|PASSWORD): (.*)$/gm;
    const values = [...compose.matchAll(secrets)].map(([, value = '']) => value);
    expect(values).toHaveLength(3);
    for (const value of values) expect(value).toMatch(/^\$\{\w+:\?[^}]+\}$/);
  });

  test('keeps the admin port to the machine, and Redis from evicting', () => {
    const ports = [...compose.matchAll(/^ {6}- '(.*)'$/gm)].map(([, port]) => port);
    expect(ports).toEqual(['8787:8787', '127.0.0.1:8788:8788']);
    expect(compose).toContain('--maxmemory-policy noeviction');
  });
});

describe('the unit', () => {
  test('starts the program', () => {
    expect(unit).toContain(`ExecStart=/usr/bin/node ${manifest.bin.rollcall} start\n`);
  });

  it('is understood by systemd', async (context) => {
    const told = await run('systemd-analyze', ['verify', join(root, 'deploy/rollcall.service')]);
    if (told === null || !existsSync('/usr/bin/node')) {
      context.skip('no systemd-analyze is installed, or no /usr/bin/node');
      return;
    }
    expect(told).toEqual({ exitCode: 0, output: '' });
  });
});
