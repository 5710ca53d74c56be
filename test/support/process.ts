import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

import { eventually } from './eventually.ts';

export interface RunningProcess {
  readonly pid: number;
  stdout(): string;
  stderr(): string;
  kill(signal: NodeJS.Signals): void;
  /** The first line of stdout or stderr that matches; fails when the process ends without one. */
  waitForLine(pattern: RegExp, timeoutMs?: number): Promise<RegExpExecArray>;
  /** The exit code; 128 + n where signal n ended it, as a shell tells it. */
  readonly exit: Promise<number>;
}

export interface ProcessOptions {
  /** Replaces the environment but for PATH and HOME: a test must not depend on the developer's. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

const SIGNALS: Partial<Record<NodeJS.Signals, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGKILL: 9,
  SIGTERM: 15,
};

const main = join(import.meta.dirname, '../../dist/src/main.js');

/** Runs the built command line (`npm run build`) as a child process. */
export function startProcess(
  args: readonly string[],
  options: ProcessOptions = {},
): RunningProcess {
  const child = spawn(process.execPath, [main, ...args], {
    cwd: options.cwd,
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      NODE_ENV: 'test',
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  let ended = false;
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  // `close`, not `exit`: by then all output has arrived.
  const exit = once(child, 'close').then(([code, signal]: unknown[]) => {
    ended = true;
    return typeof code === 'number' ? code : 128 + (SIGNALS[signal as NodeJS.Signals] ?? 0);
  });
  return {
    pid: child.pid ?? 0,
    stdout: () => stdout,
    stderr: () => stderr,
    kill: (signal) => child.kill(signal),
    exit,
    async waitForLine(pattern, timeoutMs = 30_000) {
      const find = () =>
        `${stdout}\n${stderr}`
          .split('\n')
          .map((line) => pattern.exec(line))
          .find((match) => match !== null);
      const found = await eventually(
        () => {
          const match = find();
          if (match) return match;
          if (ended) return null;
          throw new Error(`no line matches ${String(pattern)} yet:\n${stdout}\n${stderr}`);
        },
        { timeoutMs },
      );
      if (found) return found;
      throw new Error(
        `ended without a line that matches ${String(pattern)}:\n${stdout}\n${stderr}`,
      );
    },
  };
}
