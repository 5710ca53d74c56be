// Compiles to dist/ and puts beside the code what tsc leaves behind (SQL migrations, page assets).
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);
const root = join(import.meta.dirname, '..');
const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');

rmSync(join(root, 'dist'), { recursive: true, force: true });
execFileSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json')], {
  stdio: 'inherit',
  cwd: root,
});
for (const folder of ['src/mirror/migrations', 'src/http/page']) {
  if (existsSync(join(root, folder))) {
    cpSync(join(root, folder), join(root, 'dist', folder), { recursive: true });
  }
}
// The dashboard draws with it: no page loads anything from elsewhere.
for (const file of ['uPlot.iife.min.js', 'uPlot.min.css']) {
  const built = join(dirname(require.resolve('uplot/package.json')), 'dist', file);
  cpSync(built, join(root, 'dist/src/http/page', file));
}
chmodSync(join(root, 'dist/src/main.js'), 0o755);
