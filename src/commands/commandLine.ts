import { extname, join } from 'node:path';

import { Command, CommanderError, Option } from 'commander';

import { UsageError } from '../errors.ts';
import { COMMANDS, GROUPS } from './descriptions.ts';

import type { CommandDescription, CommandOptions, Presentation } from './command.ts';
import type { Screen } from './screen.ts';

/* In: the words after `rollcall`. Out: which command they mean, help, or one line that says what is wrong. */

/** A command as it was asked for. */
export interface Invocation {
  readonly description: CommandDescription;
  /** Absolute path of its module. */
  readonly file: string;
  readonly options: CommandOptions;
}

export interface CommandLineView {
  readonly version: string;
  readonly screen: Pick<Screen, 'paint'>;
  /** Takes help and version. */
  write(text: string): void;
}

type Choose = (description: CommandDescription, options: CommandOptions) => void;

const EXIT_CODES = `Exit codes:
  0 done, 1 failed, 2 usage or configuration, 3 done, but the answer is "no"`;

/**
 * Reads the words of a command line; where they ask for help or the version, prints that and returns
 * undefined.
 * @throws UsageError in one line, with the nearest match where something was misspelt
 */
export function parseCommandLine(
  words: readonly string[],
  view: CommandLineView,
): Invocation | undefined {
  let chosen: Invocation | undefined;
  const program = createProgram(view, (description, options) => {
    chosen = { description, file: fileOf(description), options };
  });
  try {
    // `rollcall help status` is what some are used to.
    const [first, ...others] = words;
    program.parse(first === 'help' ? [...others, '--help'] : [...words], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return undefined;
    throw new UsageError(toMistake(error, words));
  }
  return chosen;
}

function createProgram(view: CommandLineView, choose: Choose): Command {
  const { paint } = view.screen;
  const program = new Command('rollcall')
    .description("Keeps a Postgres copy of a Descope project's users that is provably complete.")
    .version(view.version)
    .helpCommand(false)
    .configureOutput({
      // Whoever catches the error tells the mistake, like every other: in one line.
      outputError: () => undefined,
      writeErr: () => undefined,
      writeOut: (text) => {
        view.write(text);
      },
      getOutHasColors: () => paint.isColorSupported,
    })
    .configureHelp({
      styleTitle: (text) => paint.bold(text),
      styleCommandText: (text) => paint.cyan(text),
      styleSubcommandText: (text) => paint.cyan(text),
      styleOptionText: (text) => paint.cyan(text),
    })
    .exitOverride();
  for (const [heading, descriptions] of listGroups()) {
    for (const description of descriptions) {
      addCommand(program, description, choose).helpGroup(`${heading}:`);
    }
  }
  const examples = ['rollcall demo', 'rollcall doctor', 'rollcall start', 'rollcall status --json'];
  return program.addHelpText('after', `${toExamples(examples)}\n\n${EXIT_CODES}`);
}

function listGroups(): [heading: string, commands: CommandDescription[]][] {
  return GROUPS.map(([heading, names]) => [
    heading,
    names.flatMap((name) => COMMANDS.filter((description) => description.name === name)),
  ]);
}

function fileOf({ name }: CommandDescription): string {
  return join(import.meta.dirname, `${name}${extname(import.meta.filename)}`);
}

function addCommand(program: Command, description: CommandDescription, choose: Choose): Command {
  const command = present(program, description);
  for (const subcommand of description.subcommands ?? []) {
    const sub = present(command, subcommand);
    sub.action(() => {
      choose(description, { ...optionsOf(sub), action: subcommand.name });
    });
  }
  if (description.subcommands === undefined) {
    command.action(() => {
      choose(description, optionsOf(command));
    });
  }
  return command;
}

function present(parent: Command, { name, summary, example, ...more }: Presentation): Command {
  const command = parent
    .command(name)
    .description(summary)
    .helpCommand(false)
    .addOption(new Option('--json', 'answer in JSON, for programs'))
    .addHelpText('after', toExamples(typeof example === 'string' ? [example] : example));
  for (const [notation, meaning] of more.arguments ?? []) command.argument(notation, meaning);
  for (const [notation, meaning] of more.options ?? []) command.option(notation, meaning);
  return command;
}

function toExamples(examples: readonly string[]): string {
  const heading = examples.length === 1 ? 'Example:' : 'Examples:';
  return `\n${[heading, ...examples.map((example) => `  ${example}`)].join('\n')}`;
}

/** Options and arguments under their names. */
function optionsOf(command: Command): CommandOptions {
  const given = command.processedArgs as (string | string[] | undefined)[];
  const named = command.registeredArguments.map((argument, at) => [argument.name(), given[at]]);
  const options = command.optsWithGlobals<CommandOptions>();
  return { ...options, ...Object.fromEntries(named) } as CommandOptions;
}

/** The library's complaint in one line, and where to read on where it has no guess of its own. */
function toMistake({ code, message }: CommanderError, words: readonly string[]): string {
  const command = COMMANDS.find(({ name }) => name === words.find((word) => !word.startsWith('-')));
  const help = command === undefined ? 'rollcall --help' : `rollcall ${command.name} --help`;
  const what = command?.subcommands === undefined ? 'shows how' : 'lists them';
  if (code === 'commander.help') {
    return command === undefined
      ? 'no command given (rollcall --help lists the commands)'
      : `${command.name}: say one of ${(command.subcommands ?? []).map(({ name }) => name).join(', ')} (${help} ${what})`;
  }
  const [mistake = '', guess] = message.replace(/^error: /, '').split(/\s*\n\s*/);
  if (guess !== undefined) return `${mistake} ${guess.replace('Did you', 'did you')}`;
  return `${mistake.replace(/\.$/, '')} (${help} ${command === undefined ? 'lists the commands' : 'shows how'})`;
}
