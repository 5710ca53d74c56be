// Breaks one rule after the other (mutants.txt), each in a private copy of the tree, and runs the
// convergence test over it: a test that does not notice proves nothing. Exits with 1 where one survives.
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    /** Most histories a mutant lives through. */
    seeds: { type: 'string', default: '40' },
    /** How many side by side. */
    lanes: { type: 'string', default: '4' },
    /** Only mutants whose name matches this regular expression. */
    only: { type: 'string', default: '' },
  },
});

const root = join(import.meta.dirname, '..');

/** Names, rules and edits, as `mutants.txt` tells them. */
function readMutants() {
  const [, list] = readFileSync(join(root, 'scripts/mutants.txt'), 'utf8').split(/^----$/m);
  const mutants = [];
  for (const line of list.split('\n')) {
    const [sign, text] = [line[0], line.slice(2)];
    const mutant = mutants.at(-1);
    const edit = mutant?.edits.at(-1);
    if (sign === '#') mutants.push({ name: text, breaks: '', edits: [] });
    else if (sign === '>') mutant.breaks = text;
    else if (sign === '@') mutant.edits.push({ file: text, find: [], put: [] });
    else if (sign === '-') edit.find.push(text);
    else if (sign === '+') edit.put.push(text);
  }
  return mutants;
}

/** What git knows or would know, as it is now; installed packages are shared. */
function copyTree() {
  const folder = mkdtempSync(join(tmpdir(), 'rollcall-mutant-'));
  const listed = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  });
  for (const file of listed.split('\0')) {
    if (file === '' || file === 'node_modules' || !existsSync(join(root, file))) continue;
    cpSync(join(root, file), join(folder, file));
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}

/** Throws unless the text is there exactly once: a mutant of code that has moved on is none. */
function replaceOnce(folder, { file, find, put }) {
  const path = join(folder, file);
  const wanted = find.join('\n');
  const pieces = readFileSync(path, 'utf8').split(wanted);
  if (pieces.length !== 2) {
    throw new Error(`${file}: found ${pieces.length - 1} times, not once: ${wanted}`);
  }
  writeFileSync(path, pieces.join(put.join('\n')));
}

function run(folder, script, args = []) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join('scripts', script), ...args], {
      cwd: folder,
      env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0', CONVERGENCE_SHRINK_MS: '0' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let text = '';
    child.stdout.on('data', (chunk) => (text += chunk));
    child.stderr.on('data', (chunk) => (text += chunk));
    child.on('close', (code) => {
      resolve({ code, text });
    });
  });
}

/** The seed and the first line of its failure; null where every history went well. */
async function live({ name, edits }) {
  const folder = copyTree();
  try {
    for (const edit of edits) replaceOnce(folder, edit);
    const built = await run(folder, 'build.js');
    if (built.code !== 0) throw new Error(`"${name}" does not compile:\n${built.text}`);
    const lived = await run(folder, 'convergence.js', [
      ...['--seeds', values.seeds],
      ...['--lanes', values.lanes],
    ]);
    const failed = /seed (\d+) fails: (.*)/.exec(lived.text);
    if (failed) return `seed ${failed[1]}: ${failed[2]}`;
    if (lived.code === 0) return null;
    throw new Error(`"${name}" could not be tried:\n${lived.text.slice(-2_000)}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

// A mistake in the list is told before hours of work.
const chosen = readMutants().filter(({ name }) => new RegExp(values.only).test(name));
const folder = copyTree();
try {
  for (const { file, find } of chosen.flatMap(({ edits }) => edits)) {
    replaceOnce(folder, { file, find, put: find });
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

const control = { name: 'none', breaks: 'nothing: the control', edits: [] };
let survivors = 0;
for (const mutant of [control, ...chosen]) {
  const startedAtMs = Date.now();
  const caughtBy = await live(mutant);
  const seconds = Math.round((Date.now() - startedAtMs) / 1000);
  const isRight = (caughtBy === null) === (mutant === control);
  if (!isRight) survivors++;
  const outcome = caughtBy ?? (mutant === control ? 'lives, as it must' : 'SURVIVED');
  console.log(`| ${mutant.name} | ${mutant.breaks} | ${outcome.slice(0, 160)} | ${seconds} s |`);
  // Beside a test that fails anyway, nothing is proven by being caught.
  if (mutant === control && !isRight) break;
}
process.exitCode = survivors === 0 ? 0 : 1;
