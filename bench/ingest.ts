import { idOf } from '../src/simulator/random.ts';
import { say, type Benchmark, type Options } from './benchmark.ts';
import { toDeliveries } from './deliveries.ts';
import { ratioOf, show, showCount, showTurns, turnsOf } from './measure.ts';
import { HMAC_SECRET, nameOf, productEnv, queuesOf, type QueueKind } from './product.ts';
import { startPart, startService } from './programs.ts';
import { send, type Sent } from './sender.ts';

import type { BareRouteApi } from './bareRoute.ts';
import type { Directory, Lab } from './lab.ts';
import type { Target } from './report.ts';

/** As many requests at once as keep any of the contestants busy. */
const CONNECTIONS = 64;
/** More than any of them takes in a second. */
const MOST_A_SECOND = 12_000;
const PACE = 1_000;
/** Before anything is counted, the compiler of a fresh process gets to know its work. */
const WARM_UP = 3_000;

/** What one contestant did, a value a turn. */
interface Ingest {
  readonly perSecond: number[];
  readonly p50Ms: number[];
  readonly p99Ms: number[];
  readonly pacedP50Ms: number[];
  readonly pacedP99Ms: number[];
}

type Contestant = QueueKind | 'bare';

export const ingest: Benchmark = {
  title: 'Webhook ingest',
  async run(lab, options) {
    const directory = await lab.startDirectory(10);
    const contestants: readonly Contestant[] = [...queuesOf(lab), 'bare'];
    const results = new Map(contestants.map((name) => [name, emptyIngest()]));
    const durable: Durable = { answered: 0, kept: 0 };
    try {
      const deliveries = prepare(directory, options);
      for (let turn = 1; turn <= options.turns; turn++) {
        for (const [name, result] of results) {
          if (name === 'bare') await measureBare(deliveries, options, result);
          else await measureOurs(lab, directory, name, { deliveries, options, result, durable });
          say(`turn ${turn}, ${name}: ${show(result.perSecond.at(-1) ?? 0)} deliveries/s`);
        }
      }
    } finally {
      await directory.stop();
    }
    return {
      title: 'Webhook ingest',
      how: `
Signed deliveries of one event each to \`start --role web\`: as many as it answers over ${CONNECTIONS} connections, then
${showCount(PACE)} a second at even intervals, timed from the moment each was due. The bare route is express, the
raw body, the HMAC and an answer; it keeps nothing. After each turn our process is killed (\`kill -9\`) and
the inbox is counted: ${showCount(durable.answered)} deliveries were answered 2xx, ${showCount(durable.kept)} events are in Postgres.`,
      tables: [
        {
          head: [
            'contestant',
            'deliveries/s',
            'p50, ms',
            'p99, ms',
            `p50 at ${PACE}/s`,
            `p99 at ${PACE}/s`,
          ],
          rows: [...results].map(([name, result]) => [
            name === 'bare' ? 'bare express route' : `ours, queue on ${nameOf(name)}`,
            ...[result.perSecond, result.p50Ms, result.p99Ms].map((turns) => showTurns(turns)),
            ...[result.pacedP50Ms, result.pacedP99Ms].map((turns) => showTurns(turns)),
          ]),
        },
      ],
      targets: toTargets(results, durable),
    };
  },
};

interface Durable {
  answered: number;
  kept: number;
}

function emptyIngest(): Ingest {
  return { perSecond: [], p50Ms: [], p99Ms: [], pacedP50Ms: [], pacedP99Ms: [] };
}

/** Each event is about a user of its own, so none is a duplicate. */
function prepare(
  directory: Directory,
  { seconds }: Options,
): Record<'warm' | 'fast' | 'paced', Buffer[]> {
  const paced = WARM_UP + seconds * PACE;
  const ids = Array.from({ length: paced + seconds * MOST_A_SECOND }, (_, at) => idOf('U', 3, at));
  const all = toDeliveries(directory.env['DESCOPE_PROJECT_ID'] ?? '', ids);
  return {
    warm: all.slice(0, WARM_UP),
    paced: all.slice(WARM_UP, paced),
    fast: all.slice(paced),
  };
}

async function measureBoth(
  port: number,
  deliveries: ReturnType<typeof prepare>,
  { seconds }: Options,
  result: Ingest,
): Promise<number> {
  const warm = await send(port, deliveries.warm, { connections: CONNECTIONS });
  const fast = await send(port, deliveries.fast, { connections: CONNECTIONS, seconds });
  result.perSecond.push(fast.accepted / fast.seconds);
  result.p50Ms.push(fast.p50Ms);
  result.p99Ms.push(fast.p99Ms);
  const paced = await send(port, deliveries.paced, { connections: CONNECTIONS, perSecond: PACE });
  result.pacedP50Ms.push(paced.p50Ms);
  result.pacedP99Ms.push(paced.p99Ms);
  return [warm, fast, paced].reduce((sum, sent) => sum + acceptedOf(sent), 0);
}

function acceptedOf({ accepted, refused }: Sent): number {
  if (refused > 0) throw new Error(`${refused} deliveries were refused`);
  return accepted;
}

async function measureOurs(
  lab: Lab,
  directory: Directory,
  queue: QueueKind,
  turn: {
    readonly deliveries: ReturnType<typeof prepare>;
    readonly options: Options;
    readonly result: Ingest;
    readonly durable: Durable;
  },
): Promise<void> {
  const { deliveries, options, result, durable } = turn;
  const database = await lab.createDatabase();
  const service = await startService('web', productEnv(lab, directory, database, queue));
  try {
    const answered = await measureBoth(service.port, deliveries, options, result);
    service.kill('SIGKILL');
    await service.exit;
    const [row] = await database.query<{ kept: number }>(
      'select count(*)::int as kept from descope.events',
    );
    durable.answered += answered;
    durable.kept += row?.kept ?? 0;
  } finally {
    await service.stop();
    await database.drop();
  }
}

async function measureBare(
  deliveries: ReturnType<typeof prepare>,
  options: Options,
  result: Ingest,
): Promise<void> {
  const route = await startPart<BareRouteApi>('bareRoute');
  try {
    const { port } = await route.ask('listen', { hmacSecret: HMAC_SECRET });
    await measureBoth(port, deliveries, options, result);
  } finally {
    await route.stop();
  }
}

function toTargets(results: ReadonlyMap<Contestant, Ingest>, durable: Durable): Target[] {
  const bare = results.get('bare') ?? emptyIngest();
  return [
    ...[...results].flatMap(([name, result]): Target[] => {
      if (name === 'bare') return [];
      const ratio = ratioOf(result.perSecond, bare.perSecond);
      const { median } = turnsOf(result.pacedP99Ms);
      return [
        {
          what: `deliveries/s over the bare route (queue on ${nameOf(name)})`,
          target: '>= 0.5',
          measured: show(ratio),
          met: ratio >= 0.5,
        },
        {
          what: `p99 at ${showCount(PACE)} deliveries/s, ms (queue on ${nameOf(name)})`,
          target: '< 25',
          measured: showTurns(result.pacedP99Ms),
          met: median < 25,
        },
      ];
    }),
    {
      what: 'events kept of those answered 2xx',
      target: 'all',
      measured: show(durable.kept / durable.answered),
      met: durable.kept >= durable.answered,
    },
  ];
}
