import { startProcess, type RunningProcess } from './process.ts';

/** Keeps one process of the built service running. */
export interface Supervisor {
  start(): Promise<void>;
  kill(): Promise<void>;
  /** Why the service ended by itself; undefined while it did not, or had an excuse. */
  failure(): string | undefined;
  /** Tells whether there was a reason to end in a range of time (epoch ms). */
  excuse(hasReason: (fromMs: number, toMs: number) => boolean): void;
}

/** Postgres must be there while the service starts, its workers a moment longer than its ports. */
const STARTING_MS = 3_000;

/**
 * Starts the service with these arguments, again where it could not, as an orchestrator does; `onPort` is
 * told where it listens, and undefined when it is killed.
 */
export function createSupervisor(
  env: Readonly<Record<string, string>>,
  args: readonly string[] = [],
  onPort: (port: number | undefined) => void = () => undefined,
): Supervisor {
  let current: RunningProcess | undefined;
  let failure: string | undefined;
  let starting: Promise<void> = Promise.resolve();
  let isExcused: (fromMs: number, toMs: number) => boolean = () => false;

  /** Resolves to whether it listens. */
  async function startOnce(): Promise<boolean> {
    const startedAtMs = Date.now();
    const started = startProcess(['start', '--json', ...args], { env });
    current = started;
    const line = await started.waitForLine(/"publicPort":(\d+)/).catch(() => null);
    const listensAtMs = Date.now();
    if (line) onPort(Number(line[1]));
    void started.exit.then((code) => {
      if (current !== started) return;
      const nowMs = Date.now();
      const isStarting = line === null || nowMs < listensAtMs + STARTING_MS;
      if (!isStarting || !isExcused(startedAtMs, nowMs)) {
        failure ??= `the service ended with ${code}: ${started.stderr()}`;
      }
      if (line && isStarting) starting = start();
    });
    return line !== null;
  }

  async function start(): Promise<void> {
    for (let attempt = 0; attempt < 10; attempt++) if (await startOnce()) return;
    failure ??= `the service does not start: ${current?.stderr() ?? ''}`;
  }

  return {
    start,
    async kill() {
      await starting;
      const killed = current;
      current = undefined;
      onPort(undefined);
      killed?.kill('SIGKILL');
      await killed?.exit;
    },
    failure: () => failure,
    excuse: (hasReason) => {
      isExcused = hasReason;
    },
  };
}
