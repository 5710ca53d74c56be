import { say, type Benchmark, type Options } from './benchmark.ts';
import { countSearches, rateOf, toTargets, type Contest } from './fillTargets.ts';
import { ratioOf, show, showCount, showMegabytes, showTurns, turnsOf } from './measure.ts';
import { productEnv, sweep, type Sweep } from './product.ts';
import { runCommand, startPart, type Part } from './programs.ts';

import type { BareLoopApi } from './bareLoop.ts';
import type { FakeStripeApi } from './fakeStripe.ts';
import type { Directory, Lab } from './lab.ts';
import type { PeerApi } from './peer.ts';

/** A larger fill takes minutes, and one turn says enough. */
const MANY_TURNS_UP_TO = 100_000;
/** What an answer takes over the internet, more or less; contestants that wait for each answer feel it. */
const DISTANCE_MS = 40;
const PAGES = 300;

export const fill: Benchmark = {
  title: 'Fill',
  async run(lab, options) {
    const contests: Contest[] = [];
    for (const users of options.users) contests.push(await hold(lab, users, 0, options));
    const distant = options.users.filter((users) => users <= MANY_TURNS_UP_TO).at(-1);
    if (distant !== undefined) contests.push(await hold(lab, distant, DISTANCE_MS, options));
    const counted = await countSearches(lab, options);
    return {
      title: 'Fill',
      how: `
\`rollcall backfill\` into an empty mirror, with no budget in the way, against a bare loop (one SDK search
and one bulk upsert of the same columns a page, nothing checked, one page after the other) and against
\`syncBackfill\` of @supabase/stripe-sync-engine for as many customers, with its own defaults: it writes one
row a statement, five at a time, over a pool of ten. Its customers are made from the same people by a fake
Stripe that is about as fast as the simulated Descope (last table). Times are of the fill itself, without the start of
the process and the migrations; processor times are of the contestant's process alone, its start
included. The second run finds nothing changed, in tables vacuumed and analysed as they would be a day later. In the rows "away" both sources answer each request after
${DISTANCE_MS} ms, as over the internet: the bare loop and the peer wait for each page, we read several windows side by side.`,
      tables: [
        {
          head: ['users', 'ours, users/s', 'bare loop', 'peer', 'ours / bare', 'ours / peer'],
          rows: contests.map((contest) => [
            nameOf(contest),
            showTurns(contest.ours),
            showTurns(contest.bare),
            showTurns(contest.peer),
            show(ratioOf(contest.ours, contest.bare)),
            show(ratioOf(contest.ours, contest.peer)),
          ]),
        },
        {
          head: ['users', 'run', 'users/s', 'requests', 'peak memory, MB', 'rows written'],
          rows: contests.flatMap((contest) => [
            toRow(nameOf(contest), 'fill', contest.fills),
            toRow(nameOf(contest), 'second run', contest.again),
          ]),
        },
        {
          head: [
            'users',
            'processor s: ours',
            'bare loop',
            'peer',
            'simulated Descope, pages/s',
            'fake Stripe, pages/s',
          ],
          rows: contests.map((contest) => [
            nameOf(contest),
            showTurns(contest.fills.map((one) => one.cpuSeconds)),
            showTurns(contest.bareCpu),
            showTurns(contest.peerCpu),
            showCount(contest.sources.descope),
            showCount(contest.sources.stripe),
          ]),
        },
      ],
      targets: [...toTargets(contests), counted],
    };
  },
};

function nameOf({ users, latencyMs }: Contest): string {
  return latencyMs === 0 ? showCount(users) : `${showCount(users)}, ${latencyMs} ms away`;
}

function toRow(users: string, run: string, sweeps: readonly Sweep[]): string[] {
  const turns = (of: (one: Sweep) => number) => turnsOf(sweeps.map(of));
  return [
    users,
    run,
    showTurns(sweeps.map(rateOf)),
    showCount(turns((one) => one.requests).max),
    showMegabytes(turns((one) => one.peakBytes).max),
    showCount(turns((one) => one.written).max),
  ];
}

async function hold(
  lab: Lab,
  users: number,
  latencyMs: number,
  options: Options,
): Promise<Contest> {
  const directory = await lab.startDirectory(users, { latencyMs });
  const stripe = await startPart<FakeStripeApi>('fakeStripe');
  try {
    const { port } = await stripe.ask('start', { customers: users, latencyMs });
    const sources = {
      descope: await pagesASecond((page) => askDescope(directory, page)),
      stripe: await pagesASecond((page) => askStripe(port, page)),
    };
    const contest: Contest = {
      ...{ users, latencyMs, sources },
      ...{ ours: [], bare: [], peer: [], bareCpu: [], peerCpu: [], fills: [], again: [] },
    };
    const turns = users > MANY_TURNS_UP_TO ? 1 : options.turns;
    for (let turn = 1; turn <= turns; turn++) {
      await fillOurs(lab, directory, contest);
      const bare = await fillBare(lab, directory);
      contest.bare.push(rateOf(bare));
      contest.bareCpu.push(bare.cpuSeconds);
      const peer = await fillPeer(lab, users, port);
      contest.peer.push(rateOf(peer));
      contest.peerCpu.push(peer.cpuSeconds);
      const rates = [contest.ours, contest.bare, contest.peer].map((of) => show(of.at(-1) ?? 0));
      say(`${nameOf(contest)}, turn ${turn}: ours, bare, peer ${rates.join(', ')} users/s`);
    }
    return contest;
  } finally {
    await directory.stop();
    await stripe.stop();
  }
}

async function fillOurs(lab: Lab, directory: Directory, contest: Contest): Promise<void> {
  const database = await lab.createDatabase();
  try {
    const env = productEnv(lab, directory, database);
    const filled = await sweep(directory, database, env);
    contest.fills.push(filled);
    contest.ours.push(rateOf(filled));
    // A sweep comes a day later: statistics taken, nothing left to vacuum.
    await database.query('vacuum analyze');
    contest.again.push(await sweep(directory, database, env));
  } finally {
    await database.drop();
  }
}

async function fillBare(lab: Lab, directory: Directory): Promise<Timed> {
  const database = await lab.createDatabase();
  try {
    const env = productEnv(lab, directory, database);
    await runCommand(['migrate'], env);
    return await timed<BareLoopApi>('bareLoop', directory.users, (part) => part.ask('fill', env));
  } finally {
    await database.drop();
  }
}

async function fillPeer(lab: Lab, users: number, stripePort: number): Promise<Timed> {
  const database = await lab.createDatabase();
  try {
    const { adminUrl } = database;
    return await timed<PeerApi>('peer', users, async (part) => {
      const setup = { databaseUrl: adminUrl, stripePort, webhookSecret: '', revalidate: false };
      await part.ask('start', setup);
      return part.ask('fill');
    });
  } finally {
    await database.drop();
  }
}

interface Timed {
  readonly users: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
}

/** What a contestant in a process of its own did, which has to have read everyone. */
async function timed<Api>(
  file: string,
  users: number,
  work: (part: Part<Api>) => Promise<{ readonly users: number; readonly seconds: number }>,
): Promise<Timed> {
  const part = await startPart<Api>(file);
  try {
    const done = await work(part);
    if (done.users !== users) throw new Error(`${file} read ${done.users} of ${users}`);
    return { ...done, cpuSeconds: part.cpuSeconds() };
  } finally {
    await part.stop();
  }
}

async function pagesASecond(ask: (page: number) => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  for (let page = 0; page < PAGES; page++) await ask(page % 10);
  return (PAGES * 1000) / (performance.now() - startedMs);
}

async function askDescope({ env }: Directory, page: number): Promise<string> {
  const { DESCOPE_BASE_URL, DESCOPE_PROJECT_ID, DESCOPE_MANAGEMENT_KEY } = env;
  const response = await fetch(`${DESCOPE_BASE_URL ?? ''}/v2/mgmt/user/search`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${DESCOPE_PROJECT_ID ?? ''}:${DESCOPE_MANAGEMENT_KEY ?? ''}`,
    },
    body: JSON.stringify({ page, limit: 100 }),
  });
  return response.text();
}

async function askStripe(port: number, page: number): Promise<string> {
  const after = `cus_${String(page * 100).padStart(14, '0')}`;
  const query = `limit=100&starting_after=${after}`;
  const response = await fetch(`http://127.0.0.1:${port}/v1/customers?${query}`);
  return response.text();
}
