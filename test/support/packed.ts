import { execFile } from 'node:child_process';
import { mkdir, readdir, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const ROOT = join(import.meta.dirname, '../..');

export const run = promisify(execFile);

const TSC = join(
  dirname(createRequire(import.meta.url).resolve('typescript/package.json')),
  'bin/tsc',
);

/** As `npm install <tarball>` would, but with the libraries that are here already. */
export async function installPacked(folder: string): Promise<void> {
  const modules = join(folder, 'node_modules');
  const to = join(modules, 'rollcall');
  await mkdir(to, { recursive: true });
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: ROOT });
  const tarball = (await readdir(folder)).find((name) => name.endsWith('.tgz')) ?? '';
  await run('tar', ['-xzf', join(folder, tarball), '--strip-components=1', '-C', to]);
  for (const name of await readdir(join(ROOT, 'node_modules'))) {
    if (!name.startsWith('.')) await symlink(join(ROOT, 'node_modules', name), join(modules, name));
  }
}

/** Compiles a folder; rejects with what the compiler says. */
export async function compile(folder: string, ...args: string[]): Promise<void> {
  try {
    await run(process.execPath, [TSC, '-p', folder, ...args]);
  } catch (error) {
    throw new Error((error as { stdout: string }).stdout, { cause: error });
  }
}
