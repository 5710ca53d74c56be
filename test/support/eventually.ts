import { setTimeout as delay } from 'node:timers/promises';

export interface Patience {
  readonly timeoutMs?: number;
  readonly everyMs?: number;
}

/** Runs `check` until it does not throw, and returns what it returned; after `timeoutMs` its last error. */
export async function eventually<T>(
  check: () => Promise<T> | T,
  { timeoutMs = 15_000, everyMs = 25 }: Patience = {},
): Promise<T> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() + everyMs > deadlineMs) throw error;
    }
    await delay(everyMs);
  }
}
