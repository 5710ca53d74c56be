import { EventEmitter, once } from 'node:events';
import { expect, it } from 'vitest';

import { startTicks } from '../../jobs/ticks.ts';

/** Ticks that go on until a test lets them end, one way or the other. */
function begin() {
  const events = new EventEmitter();
  const errors: unknown[] = [];
  const ends: ((error?: Error) => void)[] = [];
  let running = 0;
  let most = 0;
  const ticks = startTicks({
    everyMs: 1,
    onError: (error) => errors.push(error),
    work() {
      most = Math.max(most, ++running);
      events.emit('tick');
      return new Promise<void>((resolve, reject) => {
        ends.push((error) => {
          running--;
          if (error) reject(error);
          else resolve();
        });
      });
    },
  });
  return {
    ...{ ticks, errors },
    count: () => ends.length,
    most: () => most,
    /** Ends the tick under way. */
    end: (error?: Error) => ends.at(-1)?.(error),
    next: () => once(events, 'tick'),
  };
}

it('ticks at once, and again when a tick has ended, also by a failure', async () => {
  const { ticks, errors, count, most, end, next } = begin();
  expect(count()).toBe(1);
  const failure = new Error('a test');
  for (const error of [undefined, failure, undefined]) {
    const ticked = next();
    end(error);
    await ticked;
  }
  expect([count(), most(), errors]).toEqual([4, 1, [failure]]);
  end();
  await ticks.stop();
});

it('ends once the tick under way has, whose failure nobody is told of then', async () => {
  const { ticks, errors, end } = begin();
  let hasStopped = false;
  const stopped = ticks.stop().then(() => {
    hasStopped = true;
  });
  await Promise.resolve();
  expect(hasStopped).toBe(false);
  end(new Error('a test'));
  await stopped;
  expect(errors).toEqual([]);
});

it('waits a second at most for a tick that hangs', async () => {
  const { ticks } = begin();
  const startMs = performance.now();
  await ticks.stop();
  expect(performance.now() - startMs).toBeLessThan(3_000);
});
