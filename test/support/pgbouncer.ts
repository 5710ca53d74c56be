import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { eventually } from './eventually.ts';
import { query } from './query.ts';
import { freePort } from './redisServer.ts';

/** A pgbouncer of a test's own, in transaction mode: a connection is lent for one transaction at a time. */
export interface Pgbouncer {
  /** The same database, through it. */
  readonly url: string;
  stop(): Promise<void>;
}

/** As the README wants it. */
const IGNORING = 'ignore_startup_parameters = statement_timeout';

/** Null where no `pgbouncer` is installed. */
export async function startPgbouncer(
  databaseUrl: string,
  more = IGNORING,
): Promise<Pgbouncer | null> {
  const target = new URL(databaseUrl);
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-pgbouncer-'));
  const settings = join(folder, 'pgbouncer.ini');
  const database = target.pathname.slice(1);
  await writeFile(
    settings,
    [
      '[databases]',
      `${database} = host=${target.hostname} port=${target.port} user=${target.username}` +
        ` password=${decodeURIComponent(target.password)} dbname=${database}`,
      '[pgbouncer]',
      `listen_addr = 127.0.0.1\nlisten_port = ${port}\nunix_socket_dir =`,
      'auth_type = any\npool_mode = transaction\ndefault_pool_size = 4',
      more,
    ].join('\n'),
  );
  // It does not run as root, and whoever it becomes must be able to read this.
  await chmod(folder, 0o755);
  const become = process.getuid?.() === 0 ? ['-u', 'nobody'] : [];
  const child = spawn('pgbouncer', [...become, settings], { stdio: 'ignore' });
  const state = { isMissing: false };
  child.on('error', () => {
    state.isMissing = true;
  });
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String(port);
  await eventually(async () => {
    if (!state.isMissing) await query(url.toString(), 'select 1');
  });
  if (state.isMissing) return null;
  return {
    url: url.toString(),
    async stop() {
      child.kill('SIGKILL');
      await once(child, 'exit');
      await rm(folder, { recursive: true, force: true });
    },
  };
}
