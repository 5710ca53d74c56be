import { once } from 'node:events';

/** Waits for the signal that ends a command which would otherwise run for ever. */
export async function untilAborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort');
}
