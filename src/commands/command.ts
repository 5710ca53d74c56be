import { UsageError } from '../errors.ts';
import { parseMoment } from '../inbox/fields.ts';

import type { Config, Needs } from '../config.ts';
import type { Logger } from '../log.ts';
import type { Screen } from './screen.ts';

/** 0 done · 1 failed · 2 usage or configuration · 3 done, but the answer is "no" (drift, gaps, held). */
export type ExitCode = 0 | 1 | 2 | 3;

/** All that a command knows of the process it runs in. */
export interface CommandContext {
  readonly config: Config;
  readonly log: Logger;
  /** Prints one line of the answer. With `json`, a command's answer is one line of JSON. */
  stdout(line: string): void;
  /** Prints one line for a person, beside the answer. */
  stderr(line: string): void;
  /**
   * Writes text to stdout; resolves once it is taken, so that an answer of any length is held nowhere.
   * False where nobody reads any more (`| head`): the rest can be left out.
   */
  print(text: string): Promise<boolean>;
  /** A person is watching stderr: a progress bar makes sense. */
  readonly isTerminal: boolean;
  /** Asks a person a question, to be answered by yes or no; null where nobody is there to be asked. */
  readonly confirm: ((question: string) => Promise<boolean>) | null;
  /** What stdout is written on: how wide, and coloured or not. */
  readonly screen: Screen;
  /** `--json` was given. */
  readonly json: boolean;
  /** Aborts at the first SIGINT, SIGTERM or SIGHUP: finish what cannot be left, then return. */
  readonly signal: AbortSignal;
  /** Absolute path of `.rollcall/`, where the embedded Postgres lives. */
  readonly folder: string;
}

/** Options and arguments by name, as the command line gave them. */
export type CommandOptions = Readonly<
  Record<string, string | boolean | readonly string[] | undefined>
>;

/** What `src/commands/<name>.ts` exports. */
export interface CommandModule {
  run(context: CommandContext, options: CommandOptions): Promise<ExitCode>;
}

/** How a command, or one of its subcommands, presents itself. */
export interface Presentation {
  /** As typed. */
  readonly name: string;
  readonly summary: string;
  /** Lines that work as they stand. */
  readonly example: string | readonly string[];
  /** In commander's notation: `<required>`, `[optional]`, `[several...]`. */
  readonly arguments?: readonly (readonly [notation: string, meaning: string])[];
  readonly options?: readonly (readonly [notation: string, meaning: string])[];
}

/** A command; its name is that of its file too, and the module behind it is loaded when it is run. */
export interface CommandDescription extends Presentation {
  /** What follows the name; which one was typed is told to the module as the option `action`. */
  readonly subcommands?: readonly Presentation[];
  /** Which settings must be there. */
  needs(options: CommandOptions): Needs;
}

/** @throws UsageError unless the option is absent (then undefined) or a whole number from `min` to `max` */
export function parseWholeNumber(
  options: CommandOptions,
  name: string,
  [min, max]: readonly [number, number],
): number | undefined {
  const text = options[name];
  if (text === undefined) return undefined;
  const value = typeof text === 'string' && text.trim() !== '' ? Number(text) : Number.NaN;
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new UsageError(`--${name} must be a whole number from ${min} to ${max}`);
}

/** ISO-8601; undefined where the option is absent. @throws UsageError where it is no instant */
export function parseInstant(options: CommandOptions, name: string): string | undefined {
  const text = options[name];
  if (text === undefined) return undefined;
  const instantMs = typeof text === 'string' ? parseMoment(text) : null;
  if (instantMs !== null) return new Date(instantMs).toISOString();
  throw new UsageError(
    `--${name} must be an instant such as 2026-11-21, 2026-11-21T08:00Z or 2026-11-21T08:00+01:00 ` +
      '(UTC where it names no zone)',
  );
}
