import { say, sizesOf, type Benchmark, type Options } from './benchmark.ts';
import { toDeliveries, untilApplied } from './deliveries.ts';
import { show, showCount } from './measure.ts';
import { countRequests, HMAC_SECRET, nameOf, productEnv, queuesOf, sweep } from './product.ts';
import { startService } from './programs.ts';
import { send } from './sender.ts';

import type { Database, Directory } from './lab.ts';
import type { QueueKind } from './product.ts';
import type { Service } from './programs.ts';
import type { Table, Target } from './report.ts';

const RATES = [50, 200, 1_000];
const LATENCY_MS = 100;
/** Before anything is counted, the compiler of a fresh process gets to know its work. */
const WARM_UP = { perSecond: 200, seconds: 3 };

/** One rate on one queue. */
interface Phase {
  readonly queue: QueueKind;
  readonly perSecond: number;
  readonly events: number;
  readonly deliveries: number;
  readonly requests: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** What a burst of single deliveries cost. */
interface Burst {
  readonly queue: QueueKind;
  readonly deliveries: number;
  readonly loads: number;
  /** From the last answer to the last commit. */
  readonly tailMs: number;
}

const BURST = {
  deliveries: 3_000,
  connections: 16,
  latencyMs: 40,
  mostLoads: 60,
  mostTailMs: 3_000,
};

export const eventToRow: Benchmark = {
  title: 'Event to row',
  async run(lab, options) {
    const { small } = sizesOf(options);
    const directory = await lab.startDirectory(small);
    const database = await lab.createDatabase();
    const phases: Phase[] = [];
    const bursts: Burst[] = [];
    try {
      await sweep(directory, database, productEnv(lab, directory, database));
      for (const queue of queuesOf(lab)) {
        const service = await startService('all', productEnv(lab, directory, database, queue));
        const scene = { directory, database, service, queue };
        try {
          await live(scene, WARM_UP.perSecond, WARM_UP.seconds);
          for (const rate of RATES) phases.push(await live(scene, rate, options.seconds));
          bursts.push(await burst(scene));
        } finally {
          await service.stop();
        }
      }
    } finally {
      await directory.stop();
      await database.drop();
    }
    return {
      title: 'Event to row',
      how: `
Users of a mirror of ${showCount(small)} change at an even rate for ${options.seconds} s; the simulated connector delivers each event to
\`start --role all\` after 10 ms at most, alone or with those that came meanwhile, eight requests at a time.
Descope answers after ${LATENCY_MS} ms. Measured from the change to the commit of the user's row (Postgres' own
commit times), for every event. The requests show what budget such a rate takes.`,
      tables: [toPhaseTable(phases, options), toBurstTable(bursts)],
      targets: [...phases.flatMap(toTargets), ...bursts.flatMap(toBurstTargets)],
    };
  },
};

function toPhaseTable(phases: readonly Phase[], options: Options): Table {
  return {
    head: [
      'queue',
      'events/s',
      'events',
      'deliveries',
      'p50, ms',
      'p99, ms',
      'requests',
      'requests/min',
    ],
    rows: phases.map((phase) => [
      nameOf(phase.queue),
      showCount(phase.perSecond),
      showCount(phase.events),
      showCount(phase.deliveries),
      show(phase.p50Ms),
      show(phase.p99Ms),
      showCount(phase.requests),
      showCount((phase.requests * 60) / options.seconds),
    ]),
  };
}

function toBurstTable(bursts: readonly Burst[]): Table {
  return {
    head: ['queue', 'burst of single deliveries', 'loads', 'last commit after the last answer, ms'],
    rows: bursts.map(({ queue, deliveries, loads, tailMs }) => [
      nameOf(queue),
      showCount(deliveries),
      showCount(loads),
      show(tailMs),
    ]),
  };
}

interface Scene {
  readonly directory: Directory;
  readonly database: Database;
  readonly service: Service;
  readonly queue: QueueKind;
}

async function live(scene: Scene, perSecond: number, seconds: number): Promise<Phase> {
  const { directory, database, service, queue } = scene;
  await reset(scene, LATENCY_MS);
  const { events, acked, posts } = await directory.ask('live', {
    perSecond,
    seconds,
    url: `http://127.0.0.1:${service.port}/webhooks/descope`,
    hmacSecret: HMAC_SECRET,
  });
  if (acked !== events) throw new Error(`${acked} of ${events} events were taken`);
  const { p50Ms, p99Ms } = await untilApplied(database, events);
  const { requests } = await countRequests(directory);
  say(`queue on ${nameOf(queue)}, ${perSecond}/s: p50 ${show(p50Ms)} ms, p99 ${show(p99Ms)} ms`);
  return { queue, perSecond, events, deliveries: posts, requests, p50Ms, p99Ms };
}

/** An empty inbox, and nothing counted. */
async function reset({ directory, database }: Scene, latencyMs: number): Promise<void> {
  await database.query('truncate descope.events');
  await directory.ask('behave', { latencyMs });
  await directory.ask('forgetRequests');
}

async function burst(scene: Scene): Promise<Burst> {
  const { directory, database, service, queue } = scene;
  const count = Math.min(BURST.deliveries, directory.users);
  await reset(scene, BURST.latencyMs);
  const userIds = await directory.ask('changeSilently', { count, turn: 1 });
  const requests = toDeliveries(directory.env['DESCOPE_PROJECT_ID'] ?? '', userIds);
  const sent = await send(service.port, requests, { connections: BURST.connections });
  if (sent.accepted !== count) throw new Error(`${sent.accepted} of ${count} were accepted`);
  const { lastMs } = await untilApplied(database, count);
  const { loads } = await countRequests(directory);
  return { queue, deliveries: count, loads, tailMs: lastMs - sent.endedMs };
}

function toTargets({ queue, perSecond, p50Ms, p99Ms }: Phase): Target[] {
  if (perSecond !== 200) return [];
  const where = `at 200 events/s, ms (queue on ${nameOf(queue)})`;
  return [
    { what: `p50 ${where}`, target: '<= 300', measured: show(p50Ms), met: p50Ms <= 300 },
    { what: `p99 ${where}`, target: '< 1,000', measured: show(p99Ms), met: p99Ms < 1_000 },
  ];
}

function toBurstTargets({ queue, deliveries, loads, tailMs }: Burst): Target[] {
  const what = `${showCount(BURST.deliveries)} single deliveries, ${BURST.connections} at a time, ${BURST.latencyMs} ms API (queue on ${nameOf(queue)})`;
  const judge = (value: boolean) => (deliveries === BURST.deliveries ? value : null);
  return [
    {
      what: `loads for ${what}`,
      target: `<= ${BURST.mostLoads}`,
      measured: showCount(loads),
      met: judge(loads <= BURST.mostLoads),
    },
    {
      what: `last commit after the last answer, s, of ${what}`,
      target: '<= 3',
      measured: show(tailMs / 1000),
      met: judge(tailMs <= BURST.mostTailMs),
    },
  ];
}
