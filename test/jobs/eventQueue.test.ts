import { expect, test } from 'vitest';

import { createEventQueue } from '../../jobs/eventQueue.ts';

import type { Queues } from '../../jobs/queues.ts';

type EnqueueAll = Queues['enqueueAll'];

/** Keeps what it is given, and answers when told to. */
function createSlowQueue() {
  const calls: { readonly jobs: string[][]; readonly answer: (error?: Error) => void }[] = [];
  const enqueueAll = ((_job, payloads) =>
    new Promise<void>((resolve, reject) => {
      const jobs = payloads.map((payload) => (payload as { eventIds: string[] }).eventIds);
      const answer = (error?: Error) => {
        if (error) reject(error);
        else resolve();
      };
      calls.push({ jobs, answer });
    })) as EnqueueAll;
  const nextCall = async (number: number) => {
    while (calls.length < number) await Promise.resolve();
    return calls[number - 1] ?? expect.fail('no call');
  };
  return { enqueueAll, calls, nextCall };
}

const ids = (from: number, count: number) =>
  Array.from({ length: count }, (_, at) => `e${from + at}`);

test('a delivery that comes alone is one job, of a hundred events at most', async () => {
  const queue = createSlowQueue();
  const enqueue = createEventQueue(queue);

  const told = enqueue(ids(0, 250));
  const call = await queue.nextCall(1);
  expect(call.jobs.map((job) => job.length)).toEqual([100, 100, 50]);
  expect(call.jobs.flat()).toEqual(ids(0, 250));
  call.answer();
  await told;
});

test('deliveries that arrive while the queue is told share the next round trip and its jobs', async () => {
  const queue = createSlowQueue();
  const enqueue = createEventQueue(queue);

  const first = enqueue(ids(0, 1));
  const one = await queue.nextCall(1);
  const others = Array.from({ length: 130 }, (_, at) => enqueue(ids(1 + at, 1)));
  one.answer();
  await first;
  const two = await queue.nextCall(2);
  expect(two.jobs.map((job) => job.length)).toEqual([100, 30]);
  two.answer();
  await Promise.all(others);
  expect(queue.calls.flatMap((call) => call.jobs.flat())).toEqual(ids(0, 131));
});

test('a failure is told to those it concerns, and to nobody after them', async () => {
  const queue = createSlowQueue();
  const enqueue = createEventQueue(queue);

  const first = enqueue(ids(0, 1));
  const one = await queue.nextCall(1);
  const second = enqueue(ids(1, 1));
  one.answer(new Error('the queue is away'));
  await expect(first).rejects.toThrow('away');
  const two = await queue.nextCall(2);
  expect(two.jobs).toEqual([['e1']]);
  two.answer();
  await expect(second).resolves.toBeUndefined();
});
