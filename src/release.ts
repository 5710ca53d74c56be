import { describeError } from './errors.ts';

/** What to undo, last acquired first released. */
export interface ReleaseStack {
  /** Registers the undo of something just acquired. */
  push(what: string, release: () => Promise<void> | void): void;
  /** Runs every release once, last first; a second call waits for the first. Throws what failed, at the end. */
  release(): Promise<void>;
}

/** Shutdown is correct by construction when every acquisition pushes its own undo. */
export function createReleaseStack(): ReleaseStack {
  const steps: { what: string; release: () => Promise<void> | void }[] = [];
  let running: Promise<void> | undefined;

  async function unwind(): Promise<void> {
    const failures: string[] = [];
    for (let step = steps.pop(); step; step = steps.pop()) {
      try {
        await step.release();
      } catch (error) {
        failures.push(`${step.what}: ${describeError(error)}`);
      }
    }
    if (failures.length > 0) throw new Error(`could not stop cleanly: ${failures.join('; ')}`);
  }

  return {
    push(what, release) {
      steps.push({ what, release });
    },
    release() {
      running ??= unwind();
      return running;
    },
  };
}
