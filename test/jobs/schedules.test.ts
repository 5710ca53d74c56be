import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { startSchedules } from '../../jobs/schedules.ts';

import type { Enqueue } from '../../jobs/queues.ts';

beforeEach(() => {
  vi.useFakeTimers({ now: new Date(2026, 10, 21, 8, 0, 30) });
});
afterEach(() => {
  vi.useRealTimers();
});

it('asks once an hour for what is kept no longer to be removed, also where all else is off', async () => {
  const asked: [job: string, dedupeId: string | undefined][] = [];
  const enqueue = ((job, _payload, options) => {
    asked.push([job.name, options?.dedupeId]);
    return Promise.resolve();
  }) as Enqueue;
  const errors: unknown[] = [];
  const schedules = startSchedules({
    ...{ modified: null, audit: null, sweep: null, verify: null, enqueue },
    onError: (error) => errors.push(error),
  });
  await vi.advanceTimersByTimeAsync(2 * 3_600_000);
  schedules.stop();
  const idAt = (hour: number) =>
    `prune-${new Date(2026, 10, 21, hour, 23).toISOString().slice(0, 19).replaceAll(':', '')}`;
  expect(asked).toEqual([
    ['prune', idAt(8)],
    ['prune', idAt(9)],
  ]);
  expect(errors).toEqual([]);
});
