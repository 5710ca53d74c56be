// Runs test/convergence.test.ts over as many histories as asked for: --seeds 500, --seed 7 for one again;
// --workers 3 --cluster lets three processes do the work of each, with the queue on a Redis Cluster.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    /** How many histories. */
    seeds: { type: 'string' },
    /** The first of them; alone where --seeds is not given. */
    seed: { type: 'string' },
    /** How many side by side. */
    lanes: { type: 'string' },
    /** How many processes do the work in every history; as many as its seed draws where not given. */
    workers: { type: 'string' },
    /** The queue of every history is on a Redis Cluster. */
    cluster: { type: 'boolean', default: false },
    /** Go on after a failure, and do not shrink. */
    all: { type: 'boolean', default: false },
  },
});

const require = createRequire(import.meta.url);
const vitest = join(dirname(require.resolve('vitest/package.json')), 'vitest.mjs');
const { status } = spawnSync(process.execPath, [vitest, 'run', 'test/convergence.test.ts'], {
  stdio: 'inherit',
  cwd: join(import.meta.dirname, '..'),
  env: {
    ...process.env,
    ...(values.seed === undefined ? {} : { CONVERGENCE_FROM: values.seed }),
    CONVERGENCE_SEEDS: values.seeds ?? (values.seed === undefined ? '25' : '1'),
    ...(values.lanes === undefined ? {} : { CONVERGENCE_LANES: values.lanes }),
    ...(values.workers === undefined ? {} : { CONVERGENCE_WORKERS: values.workers }),
    ...(values.cluster ? { CONVERGENCE_CLUSTER: '1' } : {}),
    ...(values.all ? { CONVERGENCE_ALL: '1' } : {}),
    CONVERGENCE_VERBOSE: '1',
  },
});
process.exitCode = status ?? 1;
