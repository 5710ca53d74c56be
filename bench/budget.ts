import { setTimeout as delay } from 'node:timers/promises';

import { say, type Benchmark, type Options } from './benchmark.ts';
import { show, showCount } from './measure.ts';
import { productEnv, queuesOf } from './product.ts';
import { startService, type Service } from './programs.ts';

import type { LoggedRequest } from '../src/simulator/requestLog.ts';
import type { Database, Directory, Lab } from './lab.ts';
import type { Target } from './report.ts';

const BUDGET = 100;
const LIMIT = 120;
const MINUTE_MS = 60_000;
const LATENCY_MS = 50;
/** What counts in the budget: everything but the audit search, which has one of its own. */
const KINDS = new Set(['userSearch', 'userLoad', 'userGet', 'license']);
/** Of the five the design asks for. */
const FULL_MINUTES = 5;

interface Trial {
  readonly processes: number;
  /** Requests in each whole minute since the first. */
  readonly minutes: readonly number[];
  /** Requests in the fullest minute, wherever it begins. */
  readonly most: number;
  readonly throttled: number;
}

interface Penalty {
  readonly processes: number;
  readonly throttled: number;
  /** From the first 429 to the next request that was answered. */
  readonly silenceMs: number;
  /** Those after that: the provider was asked too early. */
  readonly again: number;
}

export const budget: Benchmark = {
  title: 'Budget',
  async run(lab, options) {
    // Two requests a second each: they do not get into each other's way.
    const [one, two, three, penalty] = await Promise.all([
      tryOut(lab, 1, options),
      tryOut(lab, 2, options),
      tryOut(lab, 3, options),
      provoke(lab, 2),
    ]);
    const trials = [one, two, three];
    return {
      title: 'Budget',
      how: `
A first fill within API_BUDGET_PER_MINUTE=${BUDGET} of a directory too large to end, for ${options.minutes} min, by one, two and three processes of
\`start --role worker\` with their usual pulls, where Descope allows ${LIMIT} a minute. Then the limit falls for
one moment: the 429 that follows costs a minute, and every request during that minute begins it anew. A request that another process had
already sent meets a 429 of its own.`,
      tables: [
        {
          head: [
            'processes',
            'requests in each minute',
            'least share of the budget',
            'most in any minute',
            '429s',
          ],
          rows: trials.map(({ processes, minutes, most, throttled }) => [
            String(processes),
            minutes.join(', '),
            `${show((Math.min(...minutes) * 100) / BUDGET)} %`,
            showCount(most),
            showCount(throttled),
          ]),
        },
        {
          head: ['processes', '429s of one fall of the limit', 'silence, s'],
          rows: [
            [
              String(penalty.processes),
              showCount(penalty.throttled),
              show(penalty.silenceMs / 1000),
            ],
          ],
        },
      ],
      targets: [...trials.flatMap((trial) => toTargets(trial, options)), toPenaltyTarget(penalty)],
    };
  },
};

/** More pages than the budget lets through, in some minutes. */
function usersFor({ minutes }: Options): number {
  return Math.ceil(minutes + 2) * BUDGET * 100;
}

interface Scene {
  readonly directory: Directory;
  readonly database: Database;
  readonly services: readonly Service[];
}

async function withWorkers<T>(
  lab: Lab,
  users: number,
  processes: number,
  work: (scene: Scene) => Promise<T>,
): Promise<T> {
  const limits = { users: LIMIT, audit: 10 };
  const directory = await lab.startDirectory(users, { limits, latencyMs: LATENCY_MS });
  const database = await lab.createDatabase();
  const [queue] = queuesOf(lab);
  // As it comes, but for the sweeps of every night: the first fill is one.
  const env = Object.fromEntries(
    Object.entries({
      ...productEnv(lab, directory, database, queue),
      API_BUDGET_PER_MINUTE: String(BUDGET),
    }).filter(([name]) => !/^(PULL_|VERIFY_|AUDIT_BUDGET)/.test(name)),
  );
  const services: Service[] = [];
  try {
    for (let at = 0; at < processes; at++) services.push(await startService('worker', env));
    return await work({ directory, database, services });
  } finally {
    await Promise.all(services.map((service) => service.stop()));
    await directory.stop();
    await database.drop();
  }
}

async function tryOut(lab: Lab, processes: number, options: Options): Promise<Trial> {
  return withWorkers(lab, usersFor(options), processes, async ({ directory }) => {
    await delay(options.minutes * MINUTE_MS + 2_000);
    const list = await directory.ask('requestList');
    const counted = list.filter(({ kind }) => KINDS.has(kind));
    const minutes = perMinute(counted, options.minutes);
    // The audit search's included.
    const throttled = list.filter(({ status }) => status === 429).length;
    const most = mostInAMinute(counted);
    say(
      `processes: ${processes}, requests: ${minutes.join(', ')}, most in any minute: ${most}, answered 429: ${throttled}`,
    );
    return { processes, minutes, most, throttled };
  });
}

function perMinute(list: readonly LoggedRequest[], minutes: number): number[] {
  const first = list[0]?.atMs ?? 0;
  const whole = Math.max(1, Math.floor(minutes));
  const counts = Array.from({ length: whole }, () => 0);
  for (const { atMs } of list) {
    const at = Math.floor((atMs - first) / MINUTE_MS);
    if (at < whole) counts[at] = (counts[at] ?? 0) + 1;
  }
  return counts;
}

function mostInAMinute(list: readonly LoggedRequest[]): number {
  let most = 0;
  let first = 0;
  list.forEach(({ atMs }, last) => {
    while (atMs - (list[first]?.atMs ?? atMs) >= MINUTE_MS) first++;
    most = Math.max(most, last - first + 1);
  });
  return most;
}

const BEFORE_MS = 15_000;
const AFTER_MS = 100_000;

async function provoke(lab: Lab, processes: number): Promise<Penalty> {
  return withWorkers(lab, 50_000, processes, async ({ directory }) => {
    await delay(BEFORE_MS);
    await directory.ask('behave', { limits: { users: 0 } });
    while (throttledIn(await directory.ask('requestList')).length === 0) await delay(10);
    await directory.ask('behave', { limits: { users: LIMIT } });
    await delay(AFTER_MS);
    const list = await directory.ask('requestList');
    const throttled = throttledIn(list);
    const firstMs = throttled[0]?.atMs ?? 0;
    const next = list.find(({ kind, status, atMs }) => {
      return KINDS.has(kind) && status === 200 && atMs > firstMs;
    });
    const silenceMs = (next?.atMs ?? Infinity) - firstMs;
    say(`answered 429: ${throttled.length}, silence: ${show(silenceMs / 1000)} s`);
    const again = throttled.filter(({ atMs }) => atMs > (next?.atMs ?? Infinity)).length;
    return { processes, throttled: throttled.length, silenceMs, again };
  });
}

function throttledIn(list: readonly LoggedRequest[]): LoggedRequest[] {
  return list.filter(({ kind, status }) => KINDS.has(kind) && status === 429);
}

function toTargets({ processes, minutes, most, throttled }: Trial, options: Options): Target[] {
  const judge = (value: boolean) => (options.minutes >= FULL_MINUTES ? value : null);
  const least = Math.min(...minutes);
  const who = `${processes} ${processes === 1 ? 'process' : 'processes'}, ${options.minutes} min`;
  return [
    {
      what: `429s of ${who}`,
      target: '0',
      measured: showCount(throttled),
      met: judge(throttled === 0),
    },
    {
      what: `requests in the least minute of ${who}`,
      target: `>= 95 of ${BUDGET}`,
      measured: showCount(least),
      met: judge(least >= 95),
    },
    {
      what: `requests in any minute of ${who}`,
      target: `<= ${BUDGET}`,
      measured: showCount(most),
      met: judge(most <= BUDGET),
    },
  ];
}

function toPenaltyTarget({ throttled, silenceMs, again }: Penalty): Target {
  return {
    what: 'penalties of one 429',
    target: '1',
    measured: `answered 429: ${showCount(throttled)}, silence: ${show(silenceMs / 1000)} s`,
    met: again === 0 && silenceMs < 1.5 * MINUTE_MS,
  };
}
