import { within } from '../src/within.ts';

export interface TickSettings {
  readonly work: () => Promise<unknown>;
  readonly everyMs: number;
  /** Told of ticks that fail; the next one tries again. */
  readonly onError: (error: unknown) => void;
}

export interface Ticks {
  /** No tick begins after this; one under way has a second to end. */
  stop(): Promise<void>;
}

/** A tick under way may be waiting for a queue that is away: whatever it left, the next start finds. */
const STOP_DEADLINE_MS = 1_000;

/** Does `work` at once, then again and again, never twice at a time. */
export function startTicks({ work, everyMs, onError }: TickSettings): Ticks {
  let running: Promise<void> = Promise.resolve();
  let busy = false;
  let stopped = false;
  const tick = () => {
    // A tick that is still waiting for something slow is not joined by a second one.
    if (busy) return;
    busy = true;
    running = work()
      .catch((error: unknown) => {
        if (!stopped) onError(error);
      })
      .then(() => {
        busy = false;
      });
  };
  tick();
  const timer = setInterval(tick, everyMs);
  return {
    async stop() {
      stopped = true;
      clearInterval(timer);
      await within(STOP_DEADLINE_MS, running, () => undefined);
    },
  };
}
