import { cpus } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';

import { say, sizesOf, type Benchmark } from './benchmark.ts';
import { show, showCount } from './measure.ts';
import { productEnv, queuesOf, sweep } from './product.ts';
import { startService, type Service } from './programs.ts';
import { applyMany } from './saturation.ts';

import type { Database, Directory, Lab } from './lab.ts';

const WORKERS = [1, 2, 4];
const MOST_USERS = 100_000;
const MOST_EVENTS = 20_000;
/** The plan's first answer takes this long, so that every worker is up when the windows are handed out. */
const HOLD_MS = 8_000;

/** What some workers did together, and who used how much of a core meanwhile. */
interface Shares {
  readonly workers: number;
  readonly perSecond: number;
  readonly ours: number;
  readonly postgres: number;
  readonly descope: number;
  /** Everything on the machine, the load generator and Redis too. */
  readonly machine: number;
}

export const scaling: Benchmark = {
  title: 'Scaling',
  async run(lab, options) {
    const cores = cpus().length;
    const counts = WORKERS.filter((workers) => workers <= cores);
    const users = Math.min(MOST_USERS, sizesOf(options).large);
    const events = Math.min(MOST_EVENTS, sizesOf(options).small);
    const fills: Shares[] = [];
    const applied: Shares[] = [];
    for (const workers of counts) {
      fills.push(await withDirectory(lab, users, (directory) => fill(lab, directory, workers)));
      applied.push(await withDirectory(lab, events, (directory) => apply(lab, directory, workers)));
    }
    return {
      title: 'Scaling',
      how: `
Processes of \`start --role worker\`, the queue on ${queuesOf(lab)[0] === 'redis' ? 'Redis' : 'Postgres'}: a first fill of ${showCount(users)} users, and ${showCount(events)} single
deliveries to one \`--role web\` (with 100 ms of API latency). All share ${cores} cores with Postgres and the simulated Descope;
more processes than cores are not tried. The shares are cores kept busy: where the machine stands at ${cores}, it is
the limit; where the simulated Descope stands at 1, that is.`,
      tables: [
        { head: ['workers', 'fill, users/s', ...SHARES], rows: fills.map(toRow) },
        { head: ['workers', 'events applied/s', ...SHARES], rows: applied.map(toRow) },
      ],
      targets: [],
    };
  },
};

const SHARES = ['our processes, cores', 'Postgres', 'simulated Descope', 'the machine'];

function toRow({ workers, perSecond, ours, postgres, descope, machine }: Shares): string[] {
  return [
    String(workers),
    showCount(perSecond),
    ...[ours, postgres, descope, machine].map((cores) => cores.toFixed(2)),
  ];
}

async function withDirectory<T>(
  lab: Lab,
  users: number,
  work: (directory: Directory) => Promise<T>,
): Promise<T> {
  const directory = await lab.startDirectory(users);
  try {
    return await work(directory);
  } finally {
    await directory.stop();
  }
}

/** Watches who uses the processor while `work` is done. */
async function shares(
  lab: Lab,
  directory: Directory,
  services: readonly Service[],
  work: () => Promise<number>,
): Promise<Omit<Shares, 'workers'>> {
  const read = async () => ({
    atMs: performance.now(),
    ours: services.reduce((sum, service) => sum + service.cpuSeconds(), 0),
    postgres: await lab.postgresCpuSeconds(),
    descope: directory.cpuSeconds(),
    machine: readMachine(),
  });
  const before = await read();
  const perSecond = await work();
  const after = await read();
  const seconds = (after.atMs - before.atMs) / 1000;
  return {
    perSecond,
    ours: (after.ours - before.ours) / seconds,
    postgres: (after.postgres - before.postgres) / seconds,
    descope: (after.descope - before.descope) / seconds,
    machine: (after.machine - before.machine) / seconds,
  };
}

/** Processor seconds of everything on the machine. */
function readMachine(): number {
  const busyMs = cpus().map(({ times }) => times.user + times.nice + times.sys + times.irq);
  return busyMs.reduce((sum, ms) => sum + ms, 0) / 1000;
}

async function fill(lab: Lab, directory: Directory, workers: number): Promise<Shares> {
  const database = await lab.createDatabase();
  const [queue] = queuesOf(lab);
  const env = productEnv(lab, directory, database, queue);
  const services: Service[] = [];
  try {
    await directory.ask('behave', { latencyMs: HOLD_MS });
    for (let at = 0; at < workers; at++) services.push(await startService('worker', env));
    await directory.ask('behave', { latencyMs: 0 });
    await untilFirstRow(database);
    const measured = await shares(lab, directory, services, async () => {
      const startedMs = performance.now();
      await untilFilled(database, directory.users);
      return (directory.users * 1000) / (performance.now() - startedMs);
    });
    say(`workers: ${workers}, ${show(measured.perSecond)} users/s`);
    return { workers, ...measured };
  } finally {
    await Promise.all(services.map((service) => service.stop()));
    await database.drop();
  }
}

async function untilFirstRow(database: Database): Promise<void> {
  for (;;) {
    const rows = await database.query('select 1 from descope.users limit 1');
    if (rows.length > 0) return;
    await delay(10);
  }
}

async function untilFilled(database: Database, users: number): Promise<void> {
  for (;;) {
    const [run] = await database.query<{ outcome: string | null }>(
      "select outcome from descope.sync_runs where pull = 'sweep'",
    );
    if (run?.outcome === 'complete') break;
    if (run?.outcome != null) throw new Error(`the sweep ended ${run.outcome}`);
    await delay(20);
  }
  const [row] = await database.query<{ count: number }>(
    'select count(*)::int as count from descope.users',
  );
  if (row?.count !== users) throw new Error(`${row?.count ?? 0} of ${users} users came`);
}

async function apply(lab: Lab, directory: Directory, workers: number): Promise<Shares> {
  const database = await lab.createDatabase();
  const [queue] = queuesOf(lab);
  const env = productEnv(lab, directory, database, queue);
  const services: Service[] = [];
  try {
    await sweep(directory, database, env);
    const web = await startService('web', env);
    services.push(web);
    for (let at = 0; at < workers; at++) services.push(await startService('worker', env));
    const measured = await shares(lab, directory, services, () =>
      applyMany(directory, database, web.port, workers),
    );
    say(`workers: ${workers}, ${show(measured.perSecond)} events/s`);
    return { workers, ...measured };
  } finally {
    await Promise.all(services.map((service) => service.stop()));
    await database.drop();
  }
}
