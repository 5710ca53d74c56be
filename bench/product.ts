import { runCommand, type Finished } from './programs.ts';

import type { Database, Directory, Lab } from './lab.ts';

/*
 * The product as an operator sets it up, but for two things: it may ask Descope as often as it likes
 * unless the part is about the budget, and nothing happens by the clock, so that a turn measures one thing.
 */

export const HMAC_SECRET = 'the-webhook-secret-of-the-bench';

const NO_BUDGET = '10000000';

export type QueueKind = 'redis' | 'postgres';

/** The queues that this machine can measure. */
export function queuesOf(lab: Lab): readonly QueueKind[] {
  return lab.redisUrl === null ? ['postgres'] : ['redis', 'postgres'];
}

export function nameOf(queue: QueueKind): string {
  return queue === 'redis' ? 'Redis' : 'Postgres';
}

/** The product's environment. */
export function productEnv(
  lab: Lab,
  directory: Directory,
  database: Database,
  queue: QueueKind = 'postgres',
): Record<string, string> {
  return {
    ...directory.env,
    DATABASE_URL: database.url,
    ...(queue === 'redis' && lab.redisUrl !== null ? { REDIS_URL: lab.redisUrl } : {}),
    WEBHOOK_HMAC_SECRETS: HMAC_SECRET,
    API_BUDGET_PER_MINUTE: NO_BUDGET,
    AUDIT_BUDGET_PER_MINUTE: NO_BUDGET,
    INCLUDE_TEST_USERS: 'true',
    PULL_MODIFIED_CRON: 'off',
    PULL_AUDIT_CRON: 'off',
    SWEEP_CRON: 'off',
    VERIFY_CRON: 'off',
    PORT: '0',
    ADMIN_PORT: '0',
    LOG_LEVEL: 'error',
  };
}

/** One sweep, by `rollcall backfill`. */
export interface Sweep {
  readonly users: number;
  /** From its entry in the ledger to its end. */
  readonly seconds: number;
  readonly requests: number;
  readonly searches: number;
  readonly peakBytes: number;
  readonly cpuSeconds: number;
  /** Rows of `users` that it wrote. */
  readonly written: number;
}

/** @throws Error where the mirror does not hold everyone afterwards */
export async function sweep(
  directory: Directory,
  database: Database,
  env: Readonly<Record<string, string>>,
): Promise<Sweep> {
  await directory.ask('forgetRequests');
  const done: Finished = await runCommand(['backfill'], env);
  const { requests, searches } = await countRequests(directory);
  const [run] = await database.query<{ seconds: number; started: string }>(`
    select extract(epoch from finished_at - started_at)::float8 as seconds, started_at::text as started
    from descope.sync_runs where pull = 'sweep' order by run_id desc limit 1`);
  const [rows] = await database.query<{ users: number; written: number }>(
    `select count(*)::int as users,
            count(*) filter (where pg_xact_commit_timestamp(xmin) >= $1::timestamptz)::int as written
     from descope.users where deleted_at is null`,
    [run?.started],
  );
  if (!run || rows?.users !== directory.users) {
    throw new Error(`the mirror holds ${rows?.users ?? 0} of ${directory.users} users`);
  }
  const { peakBytes, cpuSeconds } = done;
  const { users, written } = rows;
  return { users, written, seconds: run.seconds, requests, searches, peakBytes, cpuSeconds };
}

/** What the simulated Descope has been asked for since it last forgot. */
export async function countRequests(directory: Directory): Promise<{
  readonly requests: number;
  readonly searches: number;
  readonly loads: number;
  readonly throttled: number;
}> {
  const summary = await directory.ask('requests');
  const count = (kind: string) =>
    Object.values(summary[kind] ?? {}).reduce((sum, times) => sum + times, 0);
  const throttled = Object.values(summary).reduce((sum, kind) => sum + (kind['429'] ?? 0), 0);
  return {
    requests: Object.keys(summary).reduce((sum, kind) => sum + count(kind), 0),
    searches: count('userSearch'),
    loads: count('userLoad') + count('userGet'),
    throttled,
  };
}
