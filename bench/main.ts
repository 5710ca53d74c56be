import { cpus, release, totalmem, type } from 'node:os';
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';

import { budget } from './budget.ts';
import { delta } from './delta.ts';
import { eventToRow } from './eventToRow.ts';
import { fill } from './fill.ts';
import { ingest } from './ingest.ts';
import { openLab, type Lab } from './lab.ts';
import { showCount } from './measure.ts';
import { pages } from './pages.ts';
import { describeMoment, toMarkdown, writeReport } from './report.ts';
import { saturation } from './saturation.ts';
import { scaling } from './scaling.ts';
import { wait } from './wait.ts';

import type { Benchmark, Options } from './benchmark.ts';

/*
 * npm run bench [-- part… --full --users 10000,100000 --turns 3 --seconds 10 --minutes 2 --print]
 */

const PARTS: Readonly<Record<string, Benchmark>> = {
  fill,
  ingest,
  eventToRow,
  saturation,
  delta,
  budget,
  scaling,
  pages,
  wait,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** A million users, and five minutes within the budget. */
    full: { type: 'boolean', default: false },
    users: { type: 'string' },
    turns: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '10' },
    minutes: { type: 'string' },
    /** Only on the terminal; the file stays as it is. */
    print: { type: 'boolean', default: false },
  },
});

function toOptions(): Options {
  const sizes = values.users ?? (values.full ? '10000,100000,1000000' : '10000,100000');
  return {
    users: sizes.split(',').map(Number),
    turns: Number(values.turns),
    seconds: Number(values.seconds),
    minutes: Number(values.minutes ?? (values.full ? 5 : 2)),
  };
}

function chosenParts(): readonly Benchmark[] {
  const names = positionals.length > 0 ? positionals : Object.keys(PARTS);
  return names.map((name) => {
    const part = PARTS[name];
    if (!part) throw new Error(`no part ${name}; there are ${Object.keys(PARTS).join(', ')}`);
    return part;
  });
}

function describeMachine(lab: Lab): string {
  const [first] = cpus();
  const redis = lab.redisUrl === null ? 'no Redis' : redisVersion();
  return [
    `Machine: ${cpus().length} cores (${first?.model.trim() ?? 'unknown'})`,
    `${Math.round(totalmem() / 1024 ** 3)} GB of memory`,
    `${type()} ${release()}, Node ${process.versions.node}`,
    `Postgres ${lab.postgresVersion}`,
    `${redis}.`,
  ].join(', ');
}

function redisVersion(): string {
  const text = execFileSync('redis-server', ['--version'], { encoding: 'utf8' });
  return `Redis ${/v=([\d.]+)/.exec(text)?.[1] ?? 'unknown'}`;
}

async function main(): Promise<void> {
  const options = toOptions();
  const parts = chosenParts();
  const { users, turns, seconds, minutes } = options;
  const sizes = users.map(showCount).join('; ');
  const settings = `users: ${sizes}, turns: ${turns}, phases of ${seconds} s, budget of ${minutes} min`;
  const lab = await openLab();
  const stop = () => {
    lab.stop().then(
      () => process.exit(130),
      () => process.exit(130),
    );
  };
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  const sections = new Map<string, string>();
  try {
    const machine = describeMachine(lab);
    console.error(machine);
    for (const part of parts) {
      console.error(`${part.title} …`);
      const moment = describeMoment(settings);
      const section = await toMarkdown(await part.run(lab, options), moment);
      console.log(`\n${section}`);
      sections.set(part.title, section);
      if (!values.print) {
        const titles = Object.values(PARTS).map(({ title }) => title);
        await writeReport(machine, titles, sections);
      }
    }
  } finally {
    await lab.stop();
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error);
    process.exit(1);
  },
);
