import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';

import { format } from 'prettier';

import { ROOT } from './programs.ts';

/*
 * In: what the parts measured. Out: the same Markdown on the terminal and in `docs/benchmarks.md`.
 */

/** What was aimed at, and what came of it; `met` null where this run was of another size, or none. */
export interface Target {
  readonly what: string;
  readonly target: string;
  readonly measured: string;
  readonly met: boolean | null;
}

export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Section {
  readonly title: string;
  /** How it was measured: whole sentences. */
  readonly how: string;
  readonly tables: readonly Table[];
  readonly targets: readonly Target[];
}

const FILE = join(ROOT, 'docs/benchmarks.md');

const INTRODUCTION = `
What \`npm run bench\` measured. Every part runs in a process of its own: the built product, the
simulated Descope, one Postgres for all contestants, one Redis. Contestants take turns (ours, the bare
loop, the peer, ours, …); where there were several turns, the median stands first and the range behind
it. Ratios are of medians of one run, so they say more than the figures of one machine.

The simulated Descope, the load generator, Postgres and Redis share the machine with what is measured.
A service on a machine of its own has more room than these figures show. Postgres has its own defaults
(every commit is synced to disk) but for \`max_connections\` and \`track_commit_timestamp\`. Outside the
part about the budget no pull runs by the clock, and the budget is out of the way.
`;

function toRow(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

function toTable({ head, rows }: Table): string {
  return [toRow(head), toRow(head.map(() => '---')), ...rows.map(toRow)].join('\n');
}

function toVerdict({ met, measured }: Target): string {
  if (met !== null) return met ? 'yes' : 'no';
  return measured === '' ? 'not measured' : 'other size';
}

/** One section as formatted Markdown, its load at the start of the part behind the title. */
export async function toMarkdown(section: Section, settings: string): Promise<string> {
  const targets: Table = {
    head: ['target', 'at', 'measured', 'met'],
    rows: section.targets.map((t) => [t.what, t.target, t.measured, toVerdict(t)]),
  };
  const parts = [
    `## ${section.title}`,
    section.how,
    ...section.tables.map(toTable),
    ...(section.targets.length > 0 ? [toTable(targets)] : []),
    `_${settings}_`,
  ];
  return format(parts.join('\n\n'), { parser: 'markdown' });
}

/** When, and how busy the machine was before: figures of a busy machine are worth little. */
export function describeMoment(settings: string): string {
  const [load = 0] = loadavg();
  return `${new Date().toISOString().slice(0, 10)}, ${settings}, load before: ${load.toFixed(2)}`;
}

/** Puts sections into the file; those of parts that did not run stay where they are. */
export async function writeReport(
  machine: string,
  titles: readonly string[],
  sections: ReadonlyMap<string, string>,
): Promise<string> {
  const before = readSections();
  const kept = titles.flatMap((title) => sections.get(title) ?? before.get(title) ?? []);
  const text = ['# Benchmarks', INTRODUCTION.trim(), machine, ...kept].join('\n\n');
  mkdirSync(join(ROOT, 'docs'), { recursive: true });
  writeFileSync(FILE, await format(text, { parser: 'markdown' }));
  return 'docs/benchmarks.md';
}

function readSections(): Map<string, string> {
  const text = existsSync(FILE) ? readFileSync(FILE, 'utf8') : '';
  const sections = text.split(/^(?=## )/m).slice(1);
  return new Map(sections.map((part) => [/^## (.*)/.exec(part)?.[1] ?? '', part.trim()]));
}
