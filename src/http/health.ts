import { describeError } from '../errors.ts';
import { within } from '../within.ts';

/** A dependency that does not answer as it should. */
export interface Failing {
  readonly dependency: string;
  readonly reason: string;
}

export interface Readiness {
  readonly ready: boolean;
  /** Also of a process that is ready, where it can do without them. */
  readonly failing: readonly Failing[];
}

/** Whether this process can do its work. Freshness is data, not health. */
export interface Health {
  /**
   * Adds a dependency; `check` rejects, with a reason fit for strangers, where it is unwell. One that
   * is not `needed` is named when it fails, and the process stays ready.
   */
  register(dependency: string, check: () => Promise<void>, options?: { needed: boolean }): void;
  /** The names of all that were added. */
  dependencies(): readonly string[];
  /** Not ready from now on: the process is stopping, and traffic should go elsewhere. */
  markStopping(): void;
  /** Asks every dependency at once, each within the deadline. Never rejects. */
  readReadiness(): Promise<Readiness>;
}

const MAX_REASON_CHARS = 200;

/** One short line: drivers like to append the statement, and connection errors to say nothing but a code. */
function toReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const [line = ''] = describeError(error).split('\n');
  return line.slice(0, MAX_REASON_CHARS) || code || 'failed';
}

async function findFailure(
  dependency: string,
  check: () => Promise<void>,
  deadlineMs: number,
): Promise<Failing[]> {
  try {
    await within(deadlineMs, Promise.resolve().then(check), () => {
      throw new Error(`no answer within ${deadlineMs} ms`);
    });
    return [];
  } catch (error) {
    return [{ dependency, reason: toReason(error) }];
  }
}

/** An empty registry, ready until something says otherwise. */
export function createHealth({ deadlineMs = 2_000 } = {}): Health {
  const checks = new Map<string, () => Promise<void>>();
  const spared = new Set<string>();
  let isStopping = false;
  let asking: Promise<Failing[]> | undefined;

  async function ask(): Promise<Failing[]> {
    try {
      const answers = [...checks].map(([name, check]) => findFailure(name, check, deadlineMs));
      return (await Promise.all(answers)).flat();
    } finally {
      asking = undefined;
    }
  }

  return {
    register(dependency, check, { needed } = { needed: true }) {
      checks.set(dependency, check);
      if (!needed) spared.add(dependency);
    },
    dependencies: () => [...checks.keys()],
    markStopping() {
      isStopping = true;
    },
    async readReadiness() {
      // Anyone may ask: however many do at once, each dependency is asked once.
      const failing = isStopping
        ? [{ dependency: 'process', reason: 'stopping' }]
        : await (asking ??= ask());
      return { ready: failing.every(({ dependency }) => spared.has(dependency)), failing };
    },
  };
}
