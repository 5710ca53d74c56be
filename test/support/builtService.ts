import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { startProcess, type RunningProcess } from './process.ts';

/** The built program's service, in a process of its own. */
export interface BuiltService {
  readonly child: RunningProcess;
  /** Of the webhook and the probes. */
  readonly port: number;
  /** Of the dashboard and its API. */
  readonly adminPort: number;
  /** `kill -9`; resolves once the process is gone. @throws Error where it had ended by itself */
  kill(): Promise<void>;
}

/** Every service that a test starts, one after the other or side by side. */
export interface BuiltServices {
  /** Starts one with this environment and waits until it serves. @throws Error where it does not */
  start(env: Readonly<Record<string, string>>, args?: readonly string[]): Promise<BuiltService>;
  /** Kills those that still run; returns all that any of them printed. */
  end(): Promise<string>;
}

/** Starts nothing yet. Their working folder is an empty one: no `.env` of a developer reaches them. */
export async function createBuiltServices(): Promise<BuiltServices> {
  const cwd = await mkdtemp(join(tmpdir(), 'rollcall-service-'));
  const started: RunningProcess[] = [];
  return {
    async start(env, args = []) {
      const child = startProcess(['start', '--json', ...args], { cwd, env });
      started.push(child);
      const line = /"publicPort":(\d+),"adminPort":(\d+)/;
      const [, port = '', adminPort = ''] = await child.waitForLine(line);
      return {
        child,
        port: Number(port),
        adminPort: Number(adminPort),
        async kill() {
          child.kill('SIGKILL');
          const code = await child.exit;
          if (code !== 137) throw new Error(`ended with ${code} before it was killed`);
        },
      };
    },
    async end() {
      for (const child of started) {
        child.kill('SIGKILL');
        await child.exit;
      }
      await rm(cwd, { recursive: true, force: true });
      return started.map((child) => `${child.stdout()}\n${child.stderr()}`).join('\n');
    },
  };
}
