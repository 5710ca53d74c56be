import { say, sizesOf, type Benchmark } from './benchmark.ts';
import { toDeliveries, toStripeDeliveries, untilApplied } from './deliveries.ts';
import { ratioOf, show, showCount, showTurns } from './measure.ts';
import { nameOf, productEnv, queuesOf, sweep, type QueueKind } from './product.ts';
import { startPart, startService, type Service } from './programs.ts';
import { send } from './sender.ts';

import type { Database, Directory, Lab } from './lab.ts';
import type { FakeStripeApi } from './fakeStripe.ts';
import type { PeerApi } from './peer.ts';

const CONNECTIONS = 64;
const LATENCY_MS = 100;
const MOST_EVENTS = 20_000;

type Contestant = QueueKind | 'peer' | 'peer, asking';

export const saturation: Benchmark = {
  title: 'Events applied under saturation',
  async run(lab, options) {
    const events = Math.min(MOST_EVENTS, sizesOf(options).small);
    const contestants: Contestant[] = [...queuesOf(lab), 'peer', 'peer, asking'];
    const rates = new Map<Contestant, number[]>(contestants.map((name) => [name, []]));
    const cpu = new Map<Contestant, number[]>(contestants.map((name) => [name, []]));
    const directory = await lab.startDirectory(events);
    try {
      for (let turn = 1; turn <= options.turns; turn++) {
        for (const [name, perSecond] of rates) {
          const measured =
            name === 'redis' || name === 'postgres'
              ? await measureOurs(lab, directory, name, turn)
              : await measurePeer(lab, events, name === 'peer, asking');
          perSecond.push(measured.perSecond);
          cpu.get(name)?.push((measured.cpuSeconds * 1000) / events);
          say(`turn ${turn}, ${name}: ${show(measured.perSecond)} events/s`);
        }
      }
    } finally {
      await directory.stop();
    }
    return {
      title: 'Events applied under saturation',
      how: `
${showCount(events)} deliveries of one event each, each about another user of a filled mirror, over ${CONNECTIONS} connections as fast as
they are answered; the API answers after ${LATENCY_MS} ms. Ours is \`start --role all\` and its time ends with the last row's
commit. The peer's is \`processWebhook\` behind an express route, which answers when the row is written. As
it comes, the peer writes what the event says and asks nobody; with \`revalidateObjectsViaStripeApi\` it asks
for each customer, which is what ours always does.`,
      tables: [
        {
          head: [
            'contestant',
            'events/s',
            'processor ms an event',
            'ours over it, Redis',
            'ours over it, Postgres',
          ],
          rows: [...rates].map(([name, perSecond]) => [
            labelOf(name),
            showTurns(perSecond),
            showTurns(cpu.get(name) ?? []),
            ...(['redis', 'postgres'] as const).map((queue) => {
              const ours = rates.get(queue);
              const isPeer = name !== 'redis' && name !== 'postgres';
              return ours && isPeer ? show(ratioOf(ours, perSecond)) : '';
            }),
          ]),
        },
      ],
      targets: [],
    };
  },
};

function labelOf(name: Contestant): string {
  if (name === 'peer') return 'peer, believing the event';
  if (name === 'peer, asking') return 'peer, asking for each customer';
  return `ours, queue on ${nameOf(name)}`;
}

interface Measured {
  readonly perSecond: number;
  /** Of the contestant's process. */
  readonly cpuSeconds: number;
}

async function measureOurs(
  lab: Lab,
  directory: Directory,
  queue: QueueKind,
  turn: number,
): Promise<Measured> {
  const database = await lab.createDatabase();
  const env = productEnv(lab, directory, database, queue);
  let service: Service | undefined;
  try {
    await directory.ask('behave', { latencyMs: 0 });
    await sweep(directory, database, env);
    service = await startService('all', env);
    const before = service.cpuSeconds();
    const perSecond = await applyMany(directory, database, service.port, turn);
    return { perSecond, cpuSeconds: service.cpuSeconds() - before };
  } finally {
    await service?.stop();
    await database.drop();
  }
}

/** Changes everyone and tells of each; returns events applied a second. */
export async function applyMany(
  directory: Directory,
  database: Database,
  port: number,
  turn: number,
): Promise<number> {
  const count = directory.users;
  const userIds = await directory.ask('changeSilently', { count, turn });
  await directory.ask('behave', { latencyMs: LATENCY_MS });
  const requests = toDeliveries(directory.env['DESCOPE_PROJECT_ID'] ?? '', userIds);
  const sent = await send(port, requests, { connections: CONNECTIONS });
  if (sent.accepted !== count) throw new Error(`${sent.accepted} of ${count} were accepted`);
  const { lastMs } = await untilApplied(database, count);
  return (count * 1000) / (lastMs - sent.startedMs);
}

async function measurePeer(lab: Lab, events: number, revalidate: boolean): Promise<Measured> {
  const database = await lab.createDatabase();
  const stripe = await startPart<FakeStripeApi>('fakeStripe');
  const peer = await startPart<PeerApi>('peer');
  try {
    const latencyMs = revalidate ? LATENCY_MS : 0;
    const { port: stripePort } = await stripe.ask('start', { customers: events, latencyMs });
    const webhookSecret = 'whsec_bench';
    await peer.ask('start', {
      ...{ databaseUrl: database.adminUrl, stripePort },
      ...{ webhookSecret, revalidate },
    });
    await peer.ask('fill');
    const { port } = await peer.ask('listen');
    const customers = await stripe.ask('customersFrom', { count: events });
    const requests = toStripeDeliveries(customers, webhookSecret);
    const before = peer.cpuSeconds();
    const sent = await send(port, requests, { connections: CONNECTIONS });
    if (sent.accepted !== events) throw new Error(`the peer took ${sent.accepted} of ${events}`);
    return { perSecond: events / sent.seconds, cpuSeconds: peer.cpuSeconds() - before };
  } finally {
    await peer.stop();
    await stripe.stop();
    await database.drop();
  }
}
