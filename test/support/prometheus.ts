import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { eventually } from './eventually.ts';
import { freePort } from './redisServer.ts';

export const RULES = join(import.meta.dirname, '../../deploy/prometheus/rules.yaml');

/** An alert that fires, as people would read it. */
export interface Firing {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A Prometheus that scrapes a service once a second and judges it by our alerts. */
export interface Prometheus {
  readonly firing: () => Promise<Firing[]>;
  /** How often the rules have been evaluated since it has samples of the service. */
  readonly evaluations: () => Promise<number>;
  /** The values of an expression. @throws Error where Prometheus does not understand it */
  readonly query: (expression: string) => Promise<number[]>;
  readonly stop: () => Promise<void>;
}

interface Answer<Data> {
  readonly status: string;
  readonly error?: string;
  readonly data: Data;
}

interface RuleGroups {
  readonly groups: readonly {
    readonly lastEvaluation: string;
    readonly rules: readonly {
      readonly name: string;
      readonly health: string;
      readonly lastError?: string;
      readonly alerts: readonly (Omit<Firing, 'name'> & { readonly state: string })[];
    }[];
  }[];
}

/** Our rules, but for the time that an alert's condition has to last: a test would wait for nothing else. */
async function readImpatientRules(): Promise<string> {
  const rules = await readFile(RULES, 'utf8');
  return rules.replaceAll(/^( +for: ).+$/gm, (_, key: string) => `${key}2s`);
}

function toSettings(adminPort: number): string {
  return JSON.stringify({
    global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
    rule_files: ['rules.yaml'],
    scrape_configs: [
      {
        job_name: 'rollcall',
        static_configs: [{ targets: [`127.0.0.1:${adminPort}`], labels: { mirror: 'test' } }],
      },
    ],
  });
}

/** Starts one that scrapes this admin port. Null where no `prometheus` is installed. */
export async function startPrometheus(adminPort: number): Promise<Prometheus | null> {
  if (!(await isInstalled('prometheus'))) return null;
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-prometheus-'));
  await writeFile(join(folder, 'rules.yaml'), await readImpatientRules());
  // JSON is YAML too.
  await writeFile(join(folder, 'prometheus.yaml'), toSettings(adminPort));
  const port = await freePort();
  const child = spawn(
    'prometheus',
    [
      `--config.file=${join(folder, 'prometheus.yaml')}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ],
    { stdio: 'ignore' },
  );
  const gone = once(child, 'exit');

  async function ask<Data>(path: string): Promise<Data> {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`);
    const { status, error, data } = (await response.json()) as Answer<Data>;
    if (status !== 'success') throw new Error(`${path}: ${error ?? 'no reason told'}`);
    return data;
  }
  const seen = new Set<string>();
  const query = async (expression: string) => {
    const { result } = await ask<{ result: { value: [number, string] }[] }>(
      `query?query=${encodeURIComponent(expression)}`,
    );
    return result.map(({ value }) => Number(value[1]));
  };
  const readRules = async () => {
    const { groups } = await ask<RuleGroups>('rules');
    const rules = groups.flatMap((group) => group.rules);
    const ill = rules.filter(({ health }) => health === 'err');
    if (ill.length > 0) throw new Error(ill.map((r) => `${r.name}: ${r.lastError}`).join('; '));
    return { groups, rules };
  };
  const prometheus: Prometheus = {
    query,
    async firing() {
      const { rules } = await readRules();
      return rules.flatMap(({ name, alerts }) =>
        alerts
          .filter(({ state }) => state === 'firing')
          .map(({ labels, annotations }) => ({ name, labels, annotations })),
      );
    },
    async evaluations() {
      const { groups } = await readRules();
      const [scraped] = await query('count_over_time(rollcall_build_info[1h])');
      for (const { lastEvaluation } of groups) if (scraped) seen.add(lastEvaluation);
      return seen.size;
    },
    async stop() {
      child.kill('SIGKILL');
      await gone;
      await rm(folder, { recursive: true, force: true });
    },
  };
  try {
    await eventually(() => query('vector(1)'), { timeoutMs: 30_000 });
  } catch (error) {
    // Nobody else could end it.
    await prometheus.stop();
    throw error;
  }
  return prometheus;
}

/** What `promtool` says to these arguments, its complaints included; null where it is not installed. */
export async function runPromtool(
  args: readonly string[],
  input = '',
): Promise<{ readonly exitCode: number; readonly output: string } | null> {
  if (!(await isInstalled('promtool'))) return null;
  const child = spawn('promtool', args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  child.stdin.end(input);
  const [exitCode] = (await once(child, 'close')) as [number];
  return { exitCode, output };
}

async function isInstalled(program: string): Promise<boolean> {
  return promisify(execFile)(program, ['--version']).then(
    () => true,
    () => false,
  );
}
