import { Queue, type Job } from 'bullmq';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';

import { defineJob, KEEP, type AnyJob } from '../../jobs/define.ts';
import {
  connectBackend,
  migrateQueues,
  openQueues,
  type QueueSettings,
} from '../../jobs/queues.ts';
import { startWorkers, type JobOutcome } from '../../jobs/workers.ts';
import { DescopeUnauthorised, DescopeUnavailable, Stopping } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { readMirrorId } from '../../src/mirror/database.ts';
import { createReleaseStack } from '../../src/release.ts';
import { createTestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testRedisUrl } from '../support/redis.ts';

const payload = z.strictObject({ userId: z.string() });
const options = { attempts: 2, backoff: { type: 'fixed', delay: 1 }, ...KEEP } as const;

function jobOf(name: string, process: () => Promise<void>) {
  return defineJob({ name, queue: 'events', payload, options, process });
}

const fine = jobOf('fine', () => Promise.resolve());
const shaky = jobOf('shaky', () =>
  Promise.reject(new DescopeUnavailable('users load', 'no answer for ada@example.com')),
);
const refused = jobOf('refused', () => Promise.reject(new DescopeUnauthorised('users load', 403)));
const stopped = jobOf('stopped', () => Promise.reject(new Stopping()));
const JOBS: readonly AnyJob<object>[] = [fine, shaky, refused, stopped];

interface Line {
  readonly level: string;
  readonly job: string;
  readonly jobId: string;
  readonly attempt: number;
  readonly outcome: string;
}

let releases = createReleaseStack();
beforeEach(() => {
  releases = createReleaseStack();
});
afterEach(() => releases.release());

/** Workers on a queue of their own, and all that they log. */
async function begin(redisUrl: string | null) {
  const database = await createTestDatabase();
  releases.push('database', () => database.drop());
  const settings: QueueSettings = {
    redisNodes: redisUrl === null ? null : [redisUrl],
    databaseUrl: database.url,
    schema: 'descope',
    mirrorId: await readMirrorId(database.mirror),
    onError: () => undefined,
  };
  await migrateQueues(settings);
  const queues = openQueues(settings);
  releases.push('queues', () => queues.stop());
  await eventually(() => queues.ping());
  const lines: string[] = [];
  const ended: { name: string; outcome: JobOutcome }[] = [];
  const workers = startWorkers({
    queues: settings,
    jobs: JOBS,
    deps: {},
    log: createLogger({ level: 'debug', destination: { write: (line) => lines.push(line) } }),
    concurrency: { events: 4, pulls: 1 },
    signal: new AbortController().signal,
    onJob: ({ name, outcome }) => ended.push({ name, outcome }),
  });
  releases.push('workers', () => workers.stop());
  return { settings, queues, lines, ended };
}

/** Adds a job that we would never add: what a newer version, or a stranger, may have left behind. */
async function addForeign(settings: QueueSettings): Promise<void> {
  const backend = connectBackend(settings, 'producer');
  const queue = new Queue('events', backend.options, backend.factory);
  await queue.waitUntilReady();
  const added: Job = await queue.add('ofTomorrow', { email: 'ada@example.com' });
  expect(added.name).toBe('ofTomorrow');
  await queue.close();
  await backend.close();
}

describe.each([
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const)('a run of a job, with the queue on %s', (kind, redisUrl) => {
  it.skipIf(kind === 'redis' && redisUrl === null)(
    'is one line in the log, always of the same fields, and nothing personal in it',
    async () => {
      const { settings, queues, lines, ended } = await begin(redisUrl);
      for (const job of [fine, shaky, refused, stopped]) {
        await queues.enqueue(job, { userId: `of ${job.name}` });
      }
      await addForeign(settings);
      // `fine`, `refused` and the foreign one run once, the others twice.
      await eventually(() => {
        expect(ended).toHaveLength(7);
      });

      const logged = lines.map((line) => JSON.parse(line) as Line);
      const fields = ['level', 'time', 'job', 'queue', 'jobId', 'attempt', 'waitedMs', 'ms'];
      for (const line of logged) {
        const reason = line.outcome === 'failed' ? ['reason'] : [];
        expect(Object.keys(line)).toEqual([...fields, 'outcome', ...reason, 'msg']);
      }
      const told = logged.map(({ level, job, attempt, outcome }) =>
        [level, job, attempt, outcome].join(' '),
      );
      expect(told.sort()).toEqual([
        'debug fine 1 done',
        'debug stopped 1 stopped',
        'debug stopped 2 stopped',
        'error refused 1 failed',
        'warn ofTomorrow 1 failed',
        'warn shaky 1 failed',
        'warn shaky 2 failed',
      ]);
      expect(new Set(logged.map(({ jobId }) => jobId)).size).toBe(5);
      expect(lines.join('\n')).not.toContain('ada@');
      expect(ended).toContainEqual({ name: 'unknown', outcome: 'failed' });
      expect(ended.map(({ name }) => name)).not.toContain('ofTomorrow');
    },
  );
});
