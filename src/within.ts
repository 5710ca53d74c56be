/**
 * What `work` comes to; where it takes longer than `ms`, what `late` returns or throws instead. What
 * late work does then is nobody's business, its rejection included; no timer is left behind.
 */
export async function within<T>(ms: number, work: Promise<T>, late: () => T): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    return await Promise.race([work, deadline.then(late)]);
  } finally {
    clearTimeout(timer);
  }
}

/** The same, where being late is a failure. @throws Error `<what> within <n> s`; what `work` rejects with */
export function inTime<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  return within(ms, work, () => {
    throw new Error(`${what} within ${ms / 1000} s`);
  });
}
