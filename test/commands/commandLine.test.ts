import { describe, expect, it, test } from 'vitest';

import { parseCommandLine } from '../../src/commands/commandLine.ts';
import { COMMANDS, GROUPS } from '../../src/commands/descriptions.ts';
import { createScreen, PIPE } from '../../src/commands/screen.ts';
import { layOut, toTable } from '../../src/commands/table.ts';
import { UsageError } from '../../src/errors.ts';

import type { Invocation } from '../../src/commands/commandLine.ts';

interface Read {
  readonly invocation: Invocation | undefined;
  readonly printed: string;
}

function read(words: readonly string[], paint = PIPE.paint): Read {
  let printed = '';
  const invocation = parseCommandLine(words, {
    version: '1.2.3',
    screen: { paint },
    write: (text) => {
      printed += text;
    },
  });
  return { invocation, printed };
}

function mistakeIn(words: readonly string[]): string {
  try {
    read(words);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error('no mistake was found');
}

/** Those whose file is there. */
const THERE = COMMANDS.filter(({ name }) => read(['--help']).printed.includes(`\n  ${name} `));

describe('the command line', () => {
  it('tells the module which subcommand was typed, with its arguments and options', () => {
    expect(read(['deletions', 'approve', 'U1', 'U2', '--json']).invocation?.options).toEqual({
      action: 'approve',
      ids: ['U1', 'U2'],
      json: true,
    });
    expect(read(['deletions', '--json', 'list']).invocation?.options).toMatchObject({
      action: 'list',
      json: true,
    });
    const { description, file } = read(['verify', '--repair']).invocation ?? {};
    expect([description?.name, file]).toEqual([
      'verify',
      expect.stringMatching(/src\/commands\/verify\.ts$/),
    ]);
  });

  test.each([
    [['statsu'], "unknown command 'statsu' (did you mean status?)"],
    [['fly'], "unknown command 'fly' (rollcall --help lists the commands)"],
    [['status', '--jsn'], "unknown option '--jsn' (did you mean --json?)"],
    [['migrate', '--sideways'], "unknown option '--sideways' (rollcall migrate --help shows how)"],
    [['--jsn'], "unknown option '--jsn' (rollcall --help lists the commands)"],
    [['deletions', 'aprove'], "unknown command 'aprove' (did you mean approve?)"],
    [['deletions', 'shred'], "unknown command 'shred' (rollcall deletions --help shows how)"],
    [['deletions'], 'deletions: say one of list, approve, reject (rollcall deletions --help'],
    [['explain'], "missing required argument 'user' (rollcall explain --help shows how)"],
    [['simulate', '--port'], "option '--port <port>' argument missing (rollcall simulate --help"],
    [['migrate', 'extra'], 'too many arguments'],
    [[], 'no command given (rollcall --help lists the commands)'],
  ])('%j is told in one line, with the nearest match or where to read on', (words, mistake) => {
    const message = mistakeIn(words);
    expect(message).toContain(mistake);
    expect(message).not.toContain('\n');
  });

  it('prints version and help, also as `help <command>`', () => {
    expect(read(['--version']).printed).toBe('1.2.3\n');
    expect(read(['help', 'verify']).printed).toBe(read(['verify', '--help']).printed);
    expect(read(['help']).printed).toBe(read(['--help']).printed);
  });

  it('lists every command that is there in a group', () => {
    const help = read(['--help']).printed;
    expect(THERE.length).toBeGreaterThan(10);
    expect(GROUPS.flatMap(([, names]) => names).sort()).toEqual(COMMANDS.map((c) => c.name).sort());
    for (const [heading] of GROUPS) expect(help).toContain(`\n${heading}:\n`);
    expect(help).toContain('Exit codes:\n  0 done');
    expect(help).not.toContain('More:');
    expect(Math.max(...help.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
  });

  it('helps with each command and subcommand, by examples that it understands', () => {
    const words = THERE.flatMap(({ name, subcommands = [] }) => [
      [name],
      ...subcommands.map((subcommand) => [name, subcommand.name]),
    ]);
    expect(words.length).toBeGreaterThan(THERE.length);
    for (const command of words) {
      const help = read([...command, '--help']).printed;
      expect(help, command.join(' ')).toContain('--json');
      const [, examples = ''] = /\nExamples?:\n((?: {2}.+\n)+)/.exec(help) ?? [];
      const lines = examples.trimEnd().split('\n');
      expect(lines.length, command.join(' ')).toBeGreaterThan(0);
      for (const line of lines) {
        // As a shell cuts it: quotes held together, what is piped on left out.
        const typed =
          line
            .trim()
            .replace(/ \| .*$/, '')
            .match(/'[^']*'|\S+/g) ?? [];
        expect(typed.shift()).toBe('rollcall');
        expect(read(typed).invocation?.description.name).toBe(command[0]);
      }
    }
  });

  it('colours help where colours are wanted, and else not', () => {
    const colours = createScreen({ isTTY: true, columns: 80 }, {});
    expect(read(['--help'], colours.paint).printed).toContain('\u001b[1m');
    expect(read(['--help']).printed).not.toContain('\u001b');
  });
});

describe('a screen', () => {
  test.each([
    ['a terminal', { isTTY: true, columns: 120 }, {}, { columns: 120, colour: true }],
    ['a terminal that tells no width', { isTTY: true }, {}, { columns: 80, colour: true }],
    ['a very narrow one', { isTTY: true, columns: 10 }, {}, { columns: 40, colour: true }],
    ['a pipe', { columns: 120 }, {}, { columns: null, colour: false }],
    ['NO_COLOR', { isTTY: true }, { NO_COLOR: '1' }, { columns: 80, colour: false }],
    ['an empty NO_COLOR', { isTTY: true }, { NO_COLOR: '' }, { columns: 80, colour: true }],
    ['a dumb terminal', { isTTY: true }, { TERM: 'dumb' }, { columns: 80, colour: false }],
    ['FORCE_COLOR in a pipe', {}, { FORCE_COLOR: '1' }, { columns: null, colour: true }],
    ['FORCE_COLOR=0', { isTTY: true }, { FORCE_COLOR: '0' }, { columns: 80, colour: false }],
    ['both', {}, { FORCE_COLOR: '1', NO_COLOR: '1' }, { columns: null, colour: false }],
    ['a pipe of a build server', {}, { CI: 'true' }, { columns: null, colour: false }],
  ])('%s', (_what, stream, env, { columns, colour }) => {
    const screen = createScreen(stream, env);
    expect([screen.columns, screen.paint.isColorSupported]).toEqual([columns, colour]);
  });
});

describe('a table', () => {
  const rows = [
    ['user', 'evidence'],
    ['U2bq0000000000000000000000001', 'missing from a proven window, a load by id says gone'],
    ['U2bq0000000000000000000000002', ''],
  ];

  it('wraps within its columns on a terminal, and cuts no word', () => {
    const lines = layOut(rows, { columns: 50 });
    expect(lines).toEqual([
      'user                           evidence',
      'U2bq0000000000000000000000001  missing from a',
      '                               proven window, a',
      '                               load by id says',
      '                               gone',
      'U2bq0000000000000000000000002',
    ]);
    // What is too long for the terminal stays whole.
    expect(layOut(rows, { columns: 20 })[1]).toMatch(/^U2bq0000000000000000000000001 {2}missing$/);
    expect(layOut(rows, { columns: 200 })).toEqual(toTable(rows));
    expect(layOut(rows, { columns: null })).toEqual(toTable(rows));
    expect(layOut([], { columns: 80 })).toEqual([]);
  });

  it('aligns coloured cells like plain ones', () => {
    const { paint } = createScreen({ isTTY: true }, {});
    const coloured = rows.map(([user = '', evidence = '']) => [paint.bold(user), evidence]);
    // eslint-disable-next-line no-control-regex
    const plain = (line: string) => line.replaceAll(/\u001b\[\d+m/g, '').trimEnd();
    for (const columns of [null, 50, 200]) {
      const lines = layOut(coloured, { columns });
      expect(lines.join('')).toContain('\u001b[1m');
      expect(lines.map(plain)).toEqual(layOut(rows, { columns }));
    }
  });
});
