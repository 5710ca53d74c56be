import { setTimeout as delay } from 'node:timers/promises';

import { say, type Benchmark } from './benchmark.ts';
import { quantile, show, showCount } from './measure.ts';
import { productEnv } from './product.ts';
import { startService } from './programs.ts';

import type { Database } from './lab.ts';

const RUNS = 200;
const OTHERS = 300;
const LONGEST_MS = 100;

export const wait: Benchmark = {
  title: 'Read your own write',
  async run(lab) {
    const directory = await lab.startDirectory(10);
    const database = await lab.createDatabase();
    const delays: number[] = [];
    try {
      const service = await startService('web', productEnv(lab, directory, database));
      const url = `http://127.0.0.1:${service.adminPort}/api/wait`;
      const leave = new AbortController();
      try {
        // They wait for somebody who never comes, in the same process, for as long as this takes.
        const others = Array.from({ length: OTHERS }, (_, n) => loiter(url, n, leave.signal));
        for (let run = 0; run < RUNS; run++) delays.push(await measure(url, database, run));
        leave.abort();
        await Promise.all(others);
      } finally {
        leave.abort();
        await service.stop();
      }
    } finally {
      await directory.stop();
      await database.drop();
    }
    delays.sort((a, b) => a - b);
    const [p50Ms, p99Ms, mostMs] = [0.5, 0.99, 1].map((share) => quantile(delays, share)) as [
      number,
      number,
      number,
    ];
    say(`p50 ${show(p50Ms)} ms, p99 ${show(p99Ms)} ms`);
    return {
      title: 'Read your own write',
      how: `
\`GET /api/wait\` for one user while ${showCount(OTHERS)} other requests wait for users who do not come. Measured from the
commit of the user's row (Postgres' own commit time) until the answer has been read, ${showCount(RUNS)} times.`,
      tables: [
        {
          head: ['others waiting', 'answers', 'p50, ms', 'p99, ms', 'longest, ms'],
          rows: [
            [showCount(OTHERS), showCount(delays.length), ...[p50Ms, p99Ms, mostMs].map(show)],
          ],
        },
      ],
      targets: [
        {
          what: `p99 from commit to answer of /api/wait, ${OTHERS} others waiting, ms`,
          target: `< ${LONGEST_MS}`,
          measured: show(p99Ms),
          met: p99Ms < LONGEST_MS,
        },
      ],
    };
  },
};

async function loiter(url: string, n: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await fetch(`${url}?userId=nobody${n}&timeoutMs=55000`, { signal }).catch(() => undefined);
  }
}

/** From the commit of the row to the answer, in ms. */
async function measure(url: string, database: Database, run: number): Promise<number> {
  const since = new Date().toISOString();
  const answered = fetch(`${url}?userId=W${run}&since=${since}`).then(async (response) => {
    await response.arrayBuffer();
    if (response.status !== 200) throw new Error(`answered ${response.status}`);
    return performance.timeOrigin + performance.now();
  });
  // Any moment of the service's round.
  await delay(40 + ((run * 7) % 25));
  await database.query(
    `insert into descope.users (user_id, observed_at, changed_at, witness)
     values ($1, clock_timestamp(), clock_timestamp(), 'webhook')`,
    [`W${run}`],
  );
  const answeredMs = await answered;
  const [row] = await database.query<{ committedMs: number }>(
    `select extract(epoch from pg_xact_commit_timestamp(xmin))::float8 * 1000 as "committedMs"
     from descope.users where user_id = $1`,
    [`W${run}`],
  );
  return answeredMs - (row?.committedMs ?? NaN);
}
