import { fork, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/*
 * Everything that is measured runs in a process of its own, watched from outside: what it used of
 * memory and processor is the kernel's word, not its own.
 */

/** The checkout, seen from the compiled `bench/dist/bench/`. */
export const ROOT = join(import.meta.dirname, '../../..');
const PRODUCT = join(ROOT, 'dist/src/main.js');

/** Linux counts processor time in hundredths of a second. */
const TICKS_A_SECOND = 100;
/** The last sample before the end has to be near it. */
const SAMPLE_MS = 25;
const STOP_DEADLINE_MS = 20_000;

export interface Program {
  readonly pid: number;
  /** Most memory it ever held, in bytes; 0 where the kernel does not tell. */
  readonly peakBytes: () => number;
  /** Processor time it has used, in seconds. */
  readonly cpuSeconds: () => number;
  /** The exit code; -1 where a signal ended it. */
  readonly exit: Promise<number>;
  readonly kill: (signal: NodeJS.Signals) => void;
  /** Asks it to end, and after a while makes it. */
  stop(): Promise<void>;
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Processor seconds of a process, from `/proc`; 0 where it has ended. */
export function readCpuSeconds(pid: number, andEndedChildren = false): number {
  // The name, in parentheses, may hold blanks; fields are counted from behind it.
  const fields =
    readProc(`${pid}/stat`)
      ?.replace(/^.*\) /s, '')
      .split(' ') ?? [];
  const wanted = andEndedChildren ? [11, 12, 13, 14] : [11, 12];
  return wanted.reduce((sum, at) => sum + Number(fields[at] ?? 0), 0) / TICKS_A_SECOND;
}

export function readParent(pid: number): number {
  return Number(
    readProc(`${pid}/stat`)
      ?.replace(/^.*\) /s, '')
      .split(' ')[1] ?? 0,
  );
}

function readProc(path: string): string | undefined {
  try {
    return readFileSync(`/proc/${path}`, 'utf8');
  } catch {
    return undefined;
  }
}

function watch(child: ChildProcess): Program {
  const pid = child.pid ?? 0;
  let peakBytes = 0;
  let cpuSeconds = 0;
  const sample = () => {
    const kilobytes = /^VmHWM:\s+(\d+) kB/m.exec(readProc(`${pid}/status`) ?? '')?.[1];
    peakBytes = Math.max(peakBytes, Number(kilobytes ?? 0) * 1024);
    cpuSeconds = Math.max(cpuSeconds, readCpuSeconds(pid));
  };
  const timer = setInterval(sample, SAMPLE_MS);
  running.add(child);
  const exit = once(child, 'exit').then(([code]: unknown[]) => {
    clearInterval(timer);
    running.delete(child);
    return typeof code === 'number' ? code : -1;
  });
  return {
    pid,
    peakBytes: () => (sample(), peakBytes),
    cpuSeconds: () => (sample(), cpuSeconds),
    exit,
    kill: (signal) => child.kill(signal),
    async stop() {
      child.kill('SIGTERM');
      const late = delay(STOP_DEADLINE_MS, 'late', { ref: false });
      if ((await Promise.race([exit, late])) === 'late') child.kill('SIGKILL');
      await exit;
    },
  };
}

/** What a command of the product did. */
export interface Finished {
  /** What it said with `--json`. */
  readonly output: Readonly<Record<string, unknown>>;
  /** From its start to its end. */
  readonly ms: number;
  readonly peakBytes: number;
  readonly cpuSeconds: number;
}

interface Product extends Program {
  /** The first line of its standard output, parsed; fails where it ends without one. */
  readonly firstLine: Promise<Readonly<Record<string, unknown>>>;
}

function startProduct(args: readonly string[], env: Readonly<Record<string, string>>): Product {
  const child = spawn(process.execPath, [PRODUCT, ...args, '--json'], {
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], ...env },
    // The log is not looked at; errors are.
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const program = watch(child);
  let stdout = '';
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-2_000);
  });
  const firstLine = new Promise<Readonly<Record<string, unknown>>>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
      const [line, ...more] = stdout.split('\n');
      if (line !== undefined && more.length > 0) {
        resolve(JSON.parse(line) as Readonly<Record<string, unknown>>);
      }
    });
    void program.exit.then((code) => {
      reject(new Error(`rollcall ${args.join(' ')} ended with ${code}: ${stderr}`));
    });
  });
  // Whoever waits for it hears of it.
  firstLine.catch(() => undefined);
  return { ...program, firstLine };
}

/** Runs a command of the product to its end. @throws Error where it does not exit with 0 */
export async function runCommand(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Finished> {
  const startedMs = performance.now();
  const program = startProduct(args, env);
  const code = await program.exit;
  const ms = performance.now() - startedMs;
  const output = await program.firstLine;
  if (code !== 0) {
    throw new Error(`rollcall ${args.join(' ')} ended with ${code}: ${JSON.stringify(output)}`);
  }
  const { peakBytes, cpuSeconds } = program;
  return { output, ms, peakBytes: peakBytes(), cpuSeconds: cpuSeconds() };
}

export interface Service extends Program {
  /** Of the webhook; 0 for a worker. */
  readonly port: number;
  /** Of the dashboard. */
  readonly adminPort: number;
}

/** Starts the service in one of its roles; resolves once it says that it runs. */
export async function startService(
  role: 'all' | 'web' | 'worker',
  env: Readonly<Record<string, string>>,
): Promise<Service> {
  const program = startProduct(['start', '--role', role], env);
  const { publicPort, adminPort } = await program.firstLine;
  return { ...program, port: Number(publicPort), adminPort: Number(adminPort) };
}

/** A function over plain data. */
type Served<F> = Extract<F, (...asked: never[]) => unknown>;

/** A process of the bench's own. */
export interface Part<Api> extends Program {
  /** Calls one of the functions the process serves; rejects with its error. */
  ask<Name extends keyof Api & string>(
    name: Name,
    ...asked: Parameters<Served<Api[Name]>>
  ): Promise<Awaited<ReturnType<Served<Api[Name]>>>>;
}

interface Question {
  readonly id: number;
  readonly name: string;
  readonly asked: unknown;
}
interface Reply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

/** Starts `bench/<file>.ts` in a process of its own; it calls `serve`. */
export async function startPart<Api>(file: string): Promise<Part<Api>> {
  const child = fork(join(import.meta.dirname, `${file}.js`), {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const program = watch(child);
  const waiting = new Map<number, (reply: Reply) => void>();
  let asked = 0;
  const ready = new Promise<void>((resolve, reject) => {
    child.on('message', (message) => {
      const reply = message as Reply;
      if (reply.id === 0) resolve();
      waiting.get(reply.id)?.(reply);
      waiting.delete(reply.id);
    });
    void program.exit.then(() => {
      reject(new Error(`${file} ended before it was ready`));
      for (const [id, settle] of waiting) settle({ id, error: 'it ended' });
    });
  });
  await ready;
  return {
    ...program,
    ask: ((name: string, argument?: unknown) =>
      new Promise<unknown>((resolve, reject) => {
        const id = ++asked;
        waiting.set(id, ({ error, result }) => {
          if (error === undefined) resolve(result);
          else reject(new Error(`${file}.${name}: ${error}`));
        });
        child.send({ id, name, asked: argument } satisfies Question);
      })) as unknown as Part<Api>['ask'],
  };
}

/** Answers what the parent process asks, until it goes away. */
export function serve(functions: object): void {
  const send = (reply: Reply) => {
    process.send?.(reply);
  };
  process.on('message', (message) => {
    const { id, name, asked } = message as Question;
    const known = functions as Readonly<Record<string, (asked: unknown) => unknown>>;
    Promise.resolve()
      .then(() => known[name]?.(asked))
      .then(
        (result) => {
          send({ id, result });
        },
        (error: unknown) => {
          send({
            id,
            error: error instanceof Error ? (error.stack ?? error.message) : String(error),
          });
        },
      );
  });
  process.on('disconnect', () => process.exit(0));
  send({ id: 0 });
}
