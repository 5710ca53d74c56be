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
