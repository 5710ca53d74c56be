import * as fc from 'fast-check';
import { it } from 'vitest';

import { history, isOperation, type History } from './support/convergenceHistory.ts';
import { liveThrough } from './support/convergenceRun.ts';
import { testRedisUrl } from './support/redis.ts';

import type { Role } from '../src/service.ts';

/*
 * Guarantees G1 to G7 over random histories: the built service in one to four processes, a Postgres,
 * a Redis or Redis Cluster and a network that fail, a Descope that plays every unknown of its API.
 * `npm run test:convergence -- --seeds 500` lives through more of them, `-- --seed 7` through one again;
 * `--workers 3` and `--cluster` are for all of them, whatever their seeds draw.
 */

const setting = (name: string, fallback: number) => Number(process.env[name] ?? fallback);
const first = setting('CONVERGENCE_FROM', 1);
const seeds = Array.from({ length: setting('CONVERGENCE_SEEDS', 25) }, (_, at) => first + at);
/** Most of a history is waiting, so that two cores carry this many side by side. */
const lanes = setting('CONVERGENCE_LANES', 4);
/** Goes on after a failure, and shrinks none. */
const isSurvey = process.env['CONVERGENCE_ALL'] !== undefined;
/** How many processes do the work in every history; 0: as many as it draws. */
const workers = setting('CONVERGENCE_WORKERS', 0);
/** Whether the queue of every history is on a cluster. */
const isClustered = process.env['CONVERGENCE_CLUSTER'] !== undefined;
const flags = `${workers === 0 ? '' : ` --workers ${workers}`}${isClustered ? ' --cluster' : ''}`;
/** Tells of each history as it ends. */
const isVerbose = process.env['CONVERGENCE_VERBOSE'] !== undefined;

/** Far longer than one history takes beside others on a busy machine, and how long one that fails is shrunk. */
const RUN_MS = 400_000;
const SHRINK_MS = setting('CONVERGENCE_SHRINK_MS', 120_000);

it(
  'the mirror converges, and never lies on the way, whatever happens',
  async () => {
    if (isClustered && testRedisUrl() === null) throw new Error('a cluster needs redis-server');
    const failures: string[] = [];
    const left = [...seeds];
    const lane = async (): Promise<void> => {
      for (let seed = left.shift(); seed !== undefined; seed = left.shift()) {
        const failure = await tryOut(seed);
        if (failure === null) continue;
        failures.push(failure);
        // One is enough to look at.
        if (!isSurvey) left.length = 0;
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
    // Thrown, not compared: the report is to be read as it is.
    if (failures.length > 0) throw new Error(failures.join('\n\n'));
  },
  seeds.length * RUN_MS + SHRINK_MS,
);

/** Null, or what went wrong: the seed, how to run it alone, and the smallest history found that fails. */
async function tryOut(seed: number): Promise<string | null> {
  const startedAtMs = Date.now();
  const { failed, counterexample, errorInstance, numShrinks, interrupted } = await fc.check(
    fc.asyncProperty(history.map(asAsked), (drawn) => liveThrough(drawn, seed)),
    {
      seed,
      numRuns: 1,
      endOnFailure: isSurvey || SHRINK_MS === 0,
      interruptAfterTimeLimit: RUN_MS + SHRINK_MS,
    },
  );
  const tookMs = Date.now() - startedAtMs;
  if (isVerbose) console.log(`seed ${seed}: ${failed ? 'FAILED' : 'ok'} in ${tookMs} ms`);
  if (!failed) return null;
  const [smallest] = counterexample ?? [];
  const reason = errorInstance instanceof Error ? errorInstance.message : String(errorInstance);
  const failure = [
    `seed ${seed} fails: ${interrupted && !smallest ? 'its history does not end' : reason}`,
    `run it again: npm run test:convergence -- --seed ${seed}${flags}`,
    `the history, after ${numShrinks} steps of shrinking:`,
    smallest === undefined ? '' : toText(smallest),
  ].join('\n');
  // At once: others may take an hour more.
  if (isVerbose) console.log(failure);
  return failure;
}

/** With what the flags want; where no Redis is installed, the queue is in Postgres. */
function asAsked(drawn: History): History {
  const { roles, queue } = drawn.settings;
  const wanted = isClustered ? 'cluster' : queue;
  return {
    ...drawn,
    settings: {
      ...drawn.settings,
      queue: testRedisUrl() === null ? 'postgres' : wanted,
      roles: workers === 0 ? roles : withWorkers(roles, workers),
    },
  };
}

/** Deliveries are taken as before; so many processes do the work. */
function withWorkers([first = 'all']: readonly Role[], count: number): readonly Role[] {
  const more = first === 'all' ? count - 1 : count;
  return [first, ...Array.from({ length: more }, () => 'worker' as const)];
}

function toText({ steps, ...circumstances }: History): string {
  const lines = steps.map(({ pauseMs, act }) => {
    const { kind, ...how } = act;
    return `  +${pauseMs} ms ${isOperation(act) ? '' : '! '}${kind} ${JSON.stringify(how)}`;
  });
  return [JSON.stringify(circumstances), ...lines].join('\n');
}
