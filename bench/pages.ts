import { setTimeout as delay } from 'node:timers/promises';

import { say, sizesOf, type Benchmark } from './benchmark.ts';
import { show, showCount, turnsOf } from './measure.ts';
import { fillPages } from './pagesFill.ts';
import { productEnv } from './product.ts';
import { runCommand, startService } from './programs.ts';

import type { Table, Target } from './report.ts';

const MOST_MS = 200;
const MOST_KILOBYTES = 200;
const TIMES = 7;
/** The status keeps its dear counts for 15 s: as many are asked after as within. */
const STATUS_PAUSE_MS = 16_000;

/** What a page asks for: as a person would who looks for something common, and for something rare. */
interface Question {
  readonly name: string;
  readonly path: string;
  readonly body?: object;
}

const PAGES = ['/', '/users', '/deletions', '/events', '/log'];

/** `address` and `userId` are of somebody in the mirror. */
function questions({ userId, address }: { userId: string; address: string }): Question[] {
  const users = (name: string, query: string): Question => ({
    name: `users: ${name}`,
    path: '/api/users/search',
    body: { query },
  });
  const events = (name: string, filter: object): Question => ({
    name: `audit trail: ${name}`,
    path: '/api/events/search',
    body: { ...filter, limit: 50 },
  });
  return [
    ...PAGES.map((path) => ({ name: `page ${path}`, path })),
    { name: 'status', path: '/api/status' },
    { name: 'metrics', path: '/metrics' },
    { name: 'history of a day', path: '/api/history?hours=24' },
    { name: 'history of 90 days', path: '/api/history?hours=2160' },
    { name: 'coverage of an hour', path: '/api/coverage?hours=1' },
    { name: 'coverage of 30 days', path: '/api/coverage?hours=720' },
    { name: 'held deletions', path: '/api/deletions?limit=50' },
    { name: 'parked events', path: '/api/parked?limit=50' },
    { name: 'admin log', path: '/api/admin-log?limit=50' },
    { name: "a user's story", path: `/api/users/${userId}/explain` },
    users('a user id', userId),
    users('an address', address),
    users('the beginning of a common login id', address.slice(0, 1)),
    users('the beginning of one login id', address.slice(0, -5)),
    users('nobody', 'nobody@nowhere.example'),
    events('the newest', {}),
    events("a user's", { user: address }),
    events("an actor's", { actor: userId }),
    events('a common action', { action: 'UserDeleted' }),
    events('a rare action', { action: 'UserImpersonated' }),
    events('a rare tenant', { tenant: 'T2rare' }),
    events('a common tenant', { tenant: 'Tc4ca4238a0b923820dcc509a' }),
    events('a rare change', { changed: 'roleNames=admin' }),
    events('a month ago', { until: new Date(Date.now() - 28 * 86_400_000).toISOString() }),
  ];
}

export const pages: Benchmark = {
  title: 'Dashboard',
  async run(lab, options) {
    const { large } = sizesOf(options);
    const database = await lab.createDatabase();
    const directory = await lab.startDirectory(1);
    try {
      const env = productEnv(lab, directory, database);
      await runCommand(['migrate'], env);
      say(`filling ${showCount(large)} users and as many events`);
      await fillPages(database, { users: large, events: large });
      const [somebody] = await database.query<{ userId: string; address: string }>(
        `select user_id as "userId", email as address from descope.users
         where deleted_at is null order by user_id offset 1000 limit 1`,
      );
      if (!somebody) throw new Error('nobody is in the mirror');
      const service = await startService('web', env);
      try {
        const origin = `http://127.0.0.1:${service.adminPort}`;
        return describe(large, await measure(origin, questions(somebody)), await weigh(origin));
      } finally {
        await service.stop();
      }
    } finally {
      await directory.stop();
      await database.drop();
    }
  },
};

interface Answered {
  readonly name: string;
  readonly ms: readonly number[];
}

/** Each asked several times, one after the other; the first is the first of a fresh process. */
async function measure(origin: string, asked: readonly Question[]): Promise<Answered[]> {
  const answered: Answered[] = [];
  for (const { name, path, body } of asked) {
    const ms: number[] = [];
    for (let time = 1; time <= TIMES; time++) {
      if (path === '/api/status' && time === TIMES) await delay(STATUS_PAUSE_MS);
      const startedMs = performance.now();
      const response = await fetch(`${origin}${path}`, {
        ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
        headers: { 'content-type': 'application/json', 'x-rollcall': '1' },
      });
      await response.arrayBuffer();
      ms.push(performance.now() - startedMs);
      if (!response.ok) throw new Error(`${name}: ${response.status}`);
    }
    say(`${name}: ${show(turnsOf(ms).median)} ms, at most ${show(turnsOf(ms).max)}`);
    answered.push({ name, ms });
  }
  return answered;
}

/** Bytes of each page and of all that it loads from us, as they are sent. */
async function weigh(origin: string): Promise<ReadonlyMap<string, number>> {
  const weights = new Map<string, number>();
  for (const page of PAGES) {
    const seen = new Map<string, number>();
    const waiting = [page];
    for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
      if (seen.has(path)) continue;
      const text = await (await fetch(`${origin}${path}`)).text();
      seen.set(path, Buffer.byteLength(text));
      for (const [, name = ''] of text.matchAll(/(?:["']\/page\/|from ["']\.\/)([\w.]+)["']/g)) {
        waiting.push(`/page/${name}`);
      }
    }
    weights.set(
      page,
      [...seen.values()].reduce((sum, bytes) => sum + bytes, 0),
    );
  }
  return weights;
}

function describe(
  large: number,
  answered: readonly Answered[],
  weights: ReadonlyMap<string, number>,
) {
  const slowest = Math.max(...answered.map(({ ms }) => turnsOf(ms).max));
  const heaviest = Math.max(...weights.values()) / 1000;
  const times: Table = {
    head: ['what is asked', 'median, ms', 'slowest, ms'],
    rows: answered.map(({ name, ms }) => [name, show(turnsOf(ms).median), show(turnsOf(ms).max)]),
  };
  const sizes: Table = {
    head: ['page', 'kB, with all that it loads'],
    rows: [...weights].map(([page, bytes]) => [page, show(bytes / 1000)]),
  };
  const targets: Target[] = [
    {
      what: 'slowest answer, ms',
      target: `<= ${MOST_MS}`,
      measured: show(slowest),
      met: large >= 1_000_000 ? slowest <= MOST_MS : null,
    },
    {
      what: 'heaviest page, kB',
      target: `<= ${MOST_KILOBYTES}`,
      measured: show(heaviest),
      met: heaviest <= MOST_KILOBYTES,
    },
  ];
  return {
    title: 'Dashboard',
    how: `
Pages and the answers behind them, of \`start --role web\` over a mirror of ${showCount(large)} users and as many events, a month
old, each asked ${TIMES} times. A rare action, tenant or login id is met at the far end of the table, or nowhere.`,
    tables: [times, sizes],
    targets,
  };
}
