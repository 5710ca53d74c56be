import { setMaxListeners } from 'node:events';

import { Stopping } from './errors.ts';

/** Calls `stop` when the signal aborts, at once if it has; returns what ends the listening. */
export function onAbort(signal: AbortSignal, stop: () => void): () => void {
  // A whole process may wait on one signal: Node would take the eleventh listener for a leak.
  setMaxListeners(0, signal);
  if (signal.aborted) stop();
  signal.addEventListener('abort', stop, { once: true });
  return () => {
    signal.removeEventListener('abort', stop);
  };
}

/**
 * The value of `promise`, unless the signal aborts first. What `promise` does later is then nobody's
 * business, its rejection included.
 * @throws Stopping on abort; whatever `promise` rejects with
 */
export async function orStop<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let ignore: () => void = () => undefined;
  const stopped = new Promise<never>((_resolve, reject) => {
    ignore = onAbort(signal, () => {
      reject(new Stopping());
    });
  });
  try {
    // Stopping comes first in the race: an aborted call answers nothing, even if it could.
    return await Promise.race([stopped, promise]);
  } finally {
    ignore();
  }
}

/**
 * Runs `work` with a signal that aborts when `signal` does, or after `ms` with a TimeoutError. Of
 * `AbortSignal.any()` something would stay with a signal that lives as long as the process (Node 20).
 */
export async function withTimeout<T>(
  ms: number,
  signal: AbortSignal,
  work: (either: AbortSignal) => Promise<T>,
): Promise<T> {
  const either = new AbortController();
  const timer = setTimeout(() => {
    either.abort(new DOMException('out of time', 'TimeoutError'));
  }, ms);
  const ignore = onAbort(signal, () => {
    either.abort(signal.reason);
  });
  try {
    return await work(either.signal);
  } finally {
    clearTimeout(timer);
    ignore();
  }
}

/** @throws Stopping as soon as the signal aborts; no timer is left behind */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await orStop(over, signal);
  } finally {
    clearTimeout(timer);
  }
}
