import { setTimeout as delay } from 'node:timers/promises';

import { say, sizesOf, type Benchmark } from './benchmark.ts';
import { show, showCount, showTurns, turnsOf } from './measure.ts';
import { countRequests, productEnv, sweep } from './product.ts';
import { runCommand } from './programs.ts';

import type { Database, Directory, Lab } from './lab.ts';

const CHANGED = 100;
/** Short turns, and a difference of a fifth is to be seen. */
const TURNS_EACH = 3;
/** Descope's clock is known to half a second, and the newest second is left for the next pull. */
const SETTLE_MS = 2_500;

interface Mirror {
  readonly directory: Directory;
  readonly database: Database;
  readonly env: Readonly<Record<string, string>>;
  readonly ms: number[];
  readonly cpuSeconds: number[];
  readonly requests: number[];
  readonly written: number[];
}

export const delta: Benchmark = {
  title: 'Delta pull',
  async run(lab, options) {
    const { small, large } = sizesOf(options);
    const mirrors: Mirror[] = [];
    try {
      for (const users of [small, large]) mirrors.push(await fillMirror(lab, users));
      // The first pull learns what the directory is like, and reads what changed during the fill.
      for (let turn = 0; turn <= options.turns * TURNS_EACH; turn++) {
        for (const mirror of mirrors) await pull(mirror, turn);
      }
    } finally {
      for (const { directory, database } of mirrors) {
        await directory.stop();
        await database.drop();
      }
    }
    const [first, second] = mirrors;
    if (!first || !second) throw new Error('two mirrors were to be measured');
    const growth = turnsOf(second.ms).median / turnsOf(first.ms).median;
    const isSame = Math.abs(growth - 1) <= 0.2;
    const asked = turnsOf(second.requests).median / turnsOf(first.requests).median;
    return {
      title: 'Delta pull',
      how: `
${CHANGED} users change without an event, then \`rollcall sync\` finds them. Time is from the opening of the window to its
proof, rows written; requests are all of the command, its audit pull included. No overlap with the pull
before, so that each reads its own ${CHANGED}.`,
      tables: [
        {
          head: ['mirror', 'pull, ms', 'requests', 'processor s of the command', 'rows written'],
          rows: mirrors.map(({ directory, ms, requests, cpuSeconds, written }) => [
            showCount(directory.users),
            showTurns(ms),
            showTurns(requests, showCount),
            showTurns(cpuSeconds),
            showTurns(written, showCount),
          ]),
        },
      ],
      targets: [
        {
          what: `time in the mirror of ${showCount(large)} over that of ${showCount(small)}`,
          target: '0.8 to 1.2',
          measured: show(growth),
          met: large >= 1_000_000 ? isSame : null,
        },
        {
          what: 'requests, likewise',
          target: '0.8 to 1.2',
          measured: show(asked),
          met: large >= 1_000_000 ? Math.abs(asked - 1) <= 0.2 : null,
        },
      ],
    };
  },
};

async function fillMirror(lab: Lab, users: number): Promise<Mirror> {
  const directory = await lab.startDirectory(users);
  const database = await lab.createDatabase();
  const env = {
    ...productEnv(lab, directory, database),
    PULL_OVERLAP_SECONDS: '0',
    PULL_SETTLE_SECONDS: '0',
  };
  await sweep(directory, database, env);
  // As it would be after a night: statistics taken, nothing left to vacuum.
  await database.query('vacuum analyze');
  say(`filled ${showCount(users)}`);
  return { directory, database, env, ms: [], cpuSeconds: [], requests: [], written: [] };
}

async function pull(mirror: Mirror, turn: number): Promise<void> {
  const { directory, database, env } = mirror;
  await directory.ask('changeSilently', { count: CHANGED, turn });
  await delay(SETTLE_MS);
  await directory.ask('forgetRequests');
  const { cpuSeconds } = await runCommand(['sync'], env);
  const { requests } = await countRequests(directory);
  const [window] = await database.query<{ ms: number; written: number }>(`
    select (extract(epoch from w.proven_at - r.started_at) * 1000)::float8 as ms,
           (w.created + w.updated)::int as written
    from descope.sync_windows w join descope.sync_runs r using (run_id)
    where w.pull = 'modified' order by w.window_id desc limit 1`);
  if (turn === 0 || !window) return;
  if (window.written !== CHANGED) throw new Error(`${window.written} of ${CHANGED} were written`);
  mirror.ms.push(window.ms);
  mirror.cpuSeconds.push(cpuSeconds);
  mirror.requests.push(requests);
  mirror.written.push(window.written);
}
