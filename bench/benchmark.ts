import type { Lab } from './lab.ts';
import type { Section } from './report.ts';

/** How long and how large. */
export interface Options {
  /** Sizes of directories, ascending; one at least. */
  readonly users: readonly number[];
  readonly turns: number;
  /** Of each phase that is measured by time. */
  readonly seconds: number;
  /** Of the trial of the budget. */
  readonly minutes: number;
}

/** One part of the bench; it has the machine for itself while it runs. */
export interface Benchmark {
  readonly title: string;
  run(lab: Lab, options: Options): Promise<Section>;
}

/** Where it stands, for whoever watches. */
export function say(line: string): void {
  console.error(`  ${line}`);
}

/** The smallest and the largest size. */
export function sizesOf({ users }: Options): { readonly small: number; readonly large: number } {
  return { small: users[0] ?? 0, large: users.at(-1) ?? 0 };
}
