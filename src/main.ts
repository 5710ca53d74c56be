#!/usr/bin/env node
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';

import { parseCommandLine, type Invocation } from './commands/commandLine.ts';
import { explainFailure, type Failure } from './commands/explainFailure.ts';
import { createScreen } from './commands/screen.ts';
import { parseConfig } from './config.ts';
import { createLogger, framesOf } from './log.ts';
import { readVersion } from './version.ts';

import type { CommandModule, ExitCode } from './commands/command.ts';

/*
 * The process: environment, streams, signals, exit code. Nothing else in the program touches any of them.
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

async function runCommand({ description, file, options }: Invocation): Promise<ExitCode> {
  const config = parseConfig(process.env, description.needs(options));
  // Loaded when it is run: `explain` need not know the queue.
  const module = (await import(pathToFileURL(file).href)) as CommandModule;
  return module.run(
    {
      config,
      log: createLogger({ level: config.LOG_LEVEL }),
      stdout: (line) => process.stdout.write(`${line}\n`),
      stderr: (line) => process.stderr.write(`${line}\n`),
      print,
      isTerminal: process.stderr.isTTY,
      confirm: process.stdin.isTTY && process.stderr.isTTY ? confirm : null,
      screen: createScreen(process.stdout, process.env),
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

/** The question goes where the answer of the command does not. */
async function confirm(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
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
  const { paint } = createScreen(process.stderr, process.env);
  if (kind !== 'stopped') process.stderr.write(`${paint.red('error:')} ${message}\n`);
  if (json) process.stdout.write(`${JSON.stringify({ error: { kind, message } })}\n`);
  if (process.env['LOG_LEVEL'] === 'debug' && error instanceof Error) {
    process.stderr.write(`${framesOf(error)}\n`);
  }
  return exitCode;
}

async function main(): Promise<ExitCode> {
  // What the environment has already, the file does not change.
  if (existsSync('.env')) process.loadEnvFile('.env');
  const screen = createScreen(process.stdout, process.env);
  const invocation = parseCommandLine(process.argv.slice(2), {
    ...{ version: readVersion(), screen },
    write: (text) => process.stdout.write(text),
  });
  return invocation === undefined ? 0 : runCommand(invocation);
}

function end(exitCode: number): void {
  // A pipe may still hold the last lines.
  process.stdout.write('', () => process.exit(exitCode));
}

/*
 * On a large machine V8 lets garbage grow to several times what lives: a fill of a million users then peaks at
 * 383 MB, one of a hundred thousand at 295 (guarantee G8). By two fifths at a time it is some 200, and as fast.
 */
setFlagsFromString('--heap-growing-percent=40');

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
