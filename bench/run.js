// Builds the product and the benchmarks, installs what they compare with, and runs them.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const here = import.meta.dirname;
const root = join(here, '..');
const tsc = join(
  dirname(createRequire(import.meta.url).resolve('typescript/package.json')),
  'bin/tsc',
);
const run = (file, ...args) => execFileSync(file, args, { stdio: 'inherit', cwd: root });

run(process.execPath, join(root, 'scripts/build.js'));
rmSync(join(here, 'dist'), { recursive: true, force: true });
run(process.execPath, tsc, '-p', join(here, 'tsconfig.json'));
if (!existsSync(join(here, 'node_modules'))) run('npm', 'ci', '--prefix', here);
const main = join(here, 'dist/bench/main.js');
const { status } = spawnSync(process.execPath, [main, ...process.argv.slice(2)], {
  stdio: 'inherit',
  cwd: root,
});
process.exitCode = status ?? 1;
