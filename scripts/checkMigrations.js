// Fails when schema.ts and the committed migrations have drifted apart: generating again must add nothing.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

const root = join(import.meta.dirname, '..');
const committed = join(root, 'src/mirror/migrations');
const scratch = mkdtempSync(join(root, '.migrations-'));
try {
  cpSync(committed, scratch, { recursive: true });
  execFileSync(
    process.execPath,
    [
      join(root, 'node_modules/drizzle-kit/bin.cjs'),
      'generate',
      '--dialect=postgresql',
      `--schema=${join(root, 'src/mirror/schema.ts')}`,
      `--out=${relative(root, scratch)}`,
    ],
    { cwd: root, stdio: 'pipe', env: { ...process.env, TMPDIR: tmpdir() } },
  );
  const added = readdirSync(scratch).filter((name) => !readdirSync(committed).includes(name));
  if (added.length > 0) {
    console.error(`schema.ts has changes without a migration (${added.join(', ')}).`);
    console.error('Run: npm run migrations:generate');
    process.exitCode = 1;
  } else {
    console.log('migrations match the schema');
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
