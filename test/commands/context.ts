import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { PIPE, type Screen } from '../../src/commands/screen.ts';
import { createLogger } from '../../src/log.ts';

import type {
  CommandContext,
  CommandModule,
  CommandOptions,
  ExitCode,
} from '../../src/commands/command.ts';
import type { Scene } from '../support/world.ts';

/** What a command said, and how it ended. */
export interface Outcome {
  readonly exitCode: ExitCode;
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
  /** The last line of stdout, parsed. */
  json(): Record<string, unknown>;
}

export interface Running {
  readonly json?: boolean;
  readonly signal?: AbortSignal;
  /** A pipe where absent. */
  readonly screen?: Screen;
  /** A folder that is not there where absent: no embedded Postgres. */
  readonly folder?: string;
  /** What is said on stderr also where the command throws. */
  readonly stderr?: string[];
  /** What a person at the terminal answers; nobody is there where absent. */
  readonly answer?: boolean;
}

/** Runs a command in this process against a scene's Descope and database. */
export async function runCommand(
  module: CommandModule,
  scene: Pick<Scene, 'config' | 'logs'>,
  options: CommandOptions = {},
  running: Running = {},
): Promise<Outcome> {
  const { json = false, signal = new AbortController().signal, screen = PIPE } = running;
  const stdout: string[] = [];
  const { stderr = [] } = running;
  const context: CommandContext = {
    config: scene.config,
    log: createLogger({
      level: scene.config.LOG_LEVEL,
      destination: { write: (line: string) => void scene.logs.push(line) },
    }),
    stdout: (line) => stdout.push(line),
    stderr: (line) => stderr.push(line),
    print: (text) => {
      stdout.push(...text.split('\n').slice(0, -1));
      return Promise.resolve(true);
    },
    isTerminal: false,
    confirm:
      running.answer === undefined
        ? null
        : (question) => {
            stderr.push(question);
            return Promise.resolve(running.answer === true);
          },
    screen,
    json,
    signal,
    // For the embedded Postgres, which a scene does not use.
    folder: running.folder ?? join(tmpdir(), 'rollcall-unused'),
  };
  const exitCode = await module.run(context, options);
  return {
    exitCode,
    stdout,
    stderr,
    json: () => JSON.parse(stdout.at(-1) ?? 'null') as Record<string, unknown>,
  };
}

/** Everything a command said, for `assertPrivate`. */
export function textOf({ stdout, stderr }: Outcome): string {
  return [...stdout, ...stderr].join('\n');
}

/** The environment of someone who may not talk to Descope. */
export function withoutCredentials({ env }: Pick<Scene, 'env'>): Record<string, string> {
  const hidden = ['DESCOPE_PROJECT_ID', 'DESCOPE_MANAGEMENT_KEY'];
  return Object.fromEntries(Object.entries(env).filter(([name]) => !hidden.includes(name)));
}
