#!/usr/bin/env node
import { existsSync, readFileSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import { Command, CommanderError, Option } from 'commander';

import { COMMANDS } from './commands/descriptions.ts';
import { explainFailure, type Failure } from './commands/explainFailure.ts';
import { parseConfig } from './config.ts';
import { UsageError } from './errors.ts';
import { createLogger, framesOf } from './log.ts';

import type {
  CommandDescription,
  CommandModule,
  CommandOptions,
  ExitCode,
} from './commands/command.ts';

/*
 * The process: command line, environment, signals, exit code. Nothing else in the program touches
 * any of them.
 */

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

/** The first signal asks the command to finish, the second ends the process at once. */
function listenForSignals(): AbortSignal {
  const stopping = new AbortController();
  for (const [name, number] of Object.entries(SIGNALS)) {
    process.on(name, () => {
      if (stopping.signal.aborted) process.exit(128 + number);
      stopping.abort();
    });
  }
  return stopping.signal;
}

function createProgram(version: string, start: (run: () => Promise<ExitCode>) => void): Command {
  const program = new Command('rollcall')
    .description("Keeps a Postgres copy of a Descope project's users that is provably complete.")
    .version(version)
    // `report` tells the mistake, like every other.
    .configureOutput({ outputError: () => undefined })
    .exitOverride();
  for (const description of COMMANDS.filter(exists)) {
    const command = program
      .command(description.name)
      .description(description.summary)
      .addOption(new Option('--json', 'answer in JSON, for programs'))
      .addHelpText('after', `\nExample:\n  ${description.example}`);
    for (const [notation, meaning] of description.arguments ?? []) {
      command.argument(notation, meaning);
    }
    for (const [notation, meaning] of description.options ?? []) command.option(notation, meaning);
    command.action(() => {
      start(() => runCommand(description, optionsOf(command)));
    });
  }
  return program;
}

function fileOf({ name }: CommandDescription): string {
  return join(import.meta.dirname, 'commands', `${name}${extname(import.meta.filename)}`);
}

/** A command is offered once its file is there. */
function exists(description: CommandDescription): boolean {
  return existsSync(fileOf(description));
}

/** Options and arguments under their names. */
function optionsOf(command: Command): CommandOptions {
  const given = command.processedArgs as (string | string[] | undefined)[];
  const named = command.registeredArguments.map((argument, at) => [argument.name(), given[at]]);
  return { ...command.opts<CommandOptions>(), ...Object.fromEntries(named) } as CommandOptions;
}

async function runCommand(
  description: CommandDescription,
  options: CommandOptions,
): Promise<ExitCode> {
  const config = parseConfig(process.env, description.needs(options));
  // Loaded when it is run: `migrate` need not know the queue.
  const module = (await import(pathToFileURL(fileOf(description)).href)) as CommandModule;
  return module.run(
    {
      config,
      log: createLogger({ level: config.LOG_LEVEL }),
      stdout: (line) => process.stdout.write(`${line}\n`),
      stderr: (line) => process.stderr.write(`${line}\n`),
      print,
      isStdoutTerminal: process.stdout.isTTY,
      isTerminal: process.stderr.isTTY,
      json: options['json'] === true,
      signal: listenForSignals(),
      folder: resolve('.rollcall'),
    },
    options,
  );
}

function print(text: string): Promise<boolean> {
  return new Promise((resolve) => {
    process.stdout.write(text, (error) => {
      resolve(!error);
    });
  });
}

/** From src as well as from dist/src. */
function readVersion(): string {
  const file = ['../package.json', '../../package.json']
    .map((path) => join(import.meta.dirname, path))
    .find(existsSync);
  const { version } = JSON.parse(readFileSync(file ?? '', 'utf8')) as { version: string };
  return version;
}

function failureOf(error: unknown): Failure {
  const { DATABASE_URL, REDIS_URL } = process.env;
  return explainFailure(error, {
    ...(DATABASE_URL ? { DATABASE_URL } : {}),
    ...(REDIS_URL ? { REDIS_URL: REDIS_URL.split(',') } : {}),
  });
}

function report(error: unknown): ExitCode {
  const { exitCode, kind, message } = failureOf(error);
  const json = process.argv.includes('--json');
  if (kind !== 'stopped') process.stderr.write(`error: ${message}\n`);
  if (json) process.stdout.write(`${JSON.stringify({ error: { kind, message } })}\n`);
  if (process.env['LOG_LEVEL'] === 'debug' && error instanceof Error) {
    process.stderr.write(`${framesOf(error)}\n`);
  }
  return exitCode;
}

function parseCommandLine(): (() => Promise<ExitCode>) | undefined {
  let chosen: (() => Promise<ExitCode>) | undefined;
  const program = createProgram(readVersion(), (run) => {
    chosen = run;
  });
  try {
    program.parse(process.argv);
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return undefined;
    const mistake =
      error.code === 'commander.help' ? 'no command given' : error.message.replace(/^error: /, '');
    throw new UsageError(`${mistake} (rollcall --help lists the commands)`);
  }
  return chosen;
}

async function main(): Promise<ExitCode> {
  // What the environment has already, the file does not change. (Absent before Node 20.12.)
  if (existsSync('.env') && 'loadEnvFile' in process) process.loadEnvFile('.env');
  return (await parseCommandLine()?.()) ?? 0;
}

function end(exitCode: number): void {
  // A pipe may still hold the last lines.
  process.stdout.write('', () => process.exit(exitCode));
}

for (const stream of [process.stdout, process.stderr]) {
  // Whoever read it (`| head`) has gone: nobody misses the rest.
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') process.exit(1);
  });
}
// A mistake of ours: the state is unknown, so end; what was promised is in Postgres.
process.on('uncaughtException', (error) => {
  end(report(error));
});
process.on('unhandledRejection', (error) => {
  end(report(error));
});
main().then(end, (error: unknown) => {
  end(report(error));
});
