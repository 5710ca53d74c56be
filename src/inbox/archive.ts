import { open, readdir, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';

import { Stopping } from '../errors.ts';
import { parseDelivery, UnreadableDelivery, type ParsedDelivery } from './parse.ts';
import { recordEvents } from './record.ts';

import type { Exclusion } from '../exclude.ts';
import type { Mirror } from '../mirror/database.ts';
import type { DirectoryEvent } from './event.ts';

/*
 * In: a folder of audit records, as a stream into a bucket leaves them: JSON files below dated folders,
 * each an object, an array, an envelope, or one of these a line, gzipped or not. Out: events of the
 * inbox, witness `archive`. Goes file by file and line by line; a bad file is named and passed over.
 */

export interface ArchiveDeps {
  readonly mirror: Pick<Mirror, 'db' | 't'>;
  /** Keep events that are not about users as well (`EVENT_ARCHIVE=all`). */
  readonly archiveAll: boolean;
  /** Fields that no payload is to tell of. */
  readonly exclude?: Exclusion;
  /** Records of other projects are ignored; empty checks nothing. */
  readonly projectId: string;
  readonly signal: AbortSignal;
  /** Told of each file that could not be read, or not all of it; `reason` quotes nothing of it. */
  readonly onBadFile: (file: string, reason: string) => void;
}

export interface ArchiveCounts {
  /** JSON files found, good and bad. */
  files: number;
  badFiles: number;
  /** Files of other kinds, left alone. */
  otherFiles: number;
  /** New events, pending now. */
  accepted: number;
  /** New events kept without being acted on. */
  archived: number;
  duplicates: number;
  /** Records that are no user events, and those of other projects. */
  ignored: number;
}

/** A document, or a line, is held in memory as a whole. */
const MAX_BYTES = 64 * 1024 * 1024;
/** One statement stays small enough to be quick, as the webhook's do. */
const BATCH_EVENTS = 500;
const BATCH_BYTES = 2 * 1024 * 1024;

/** A file is not what it should be, from here on or altogether. */
class BadFile extends Error {}

/**
 * Records every event of the folder's files. May be run again: what is there is counted a duplicate.
 * @throws InboxUnavailable, Stopping; what was recorded before that stays
 */
export async function importArchive(deps: ArchiveDeps, folder: string): Promise<ArchiveCounts> {
  const counts: ArchiveCounts = {
    ...{ files: 0, badFiles: 0, otherFiles: 0 },
    ...{ accepted: 0, archived: 0, duplicates: 0, ignored: 0 },
  };
  const collector = createCollector(deps, counts);
  const refuse = (path: string, reason: string) => {
    counts.badFiles++;
    deps.onBadFile(relative(folder, path), reason);
  };
  for await (const { path, kind } of listFiles(folder)) {
    if (deps.signal.aborted) throw new Stopping();
    if (kind === 'other') {
      counts.otherFiles++;
      continue;
    }
    counts.files++;
    try {
      for await (const parsed of parseFile(path, deps.projectId)) await collector.add(parsed);
    } catch (error) {
      if (!(error instanceof BadFile)) throw error;
      refuse(path, error.message);
    }
  }
  await collector.flush();
  return counts;
}

/** Gathers events across files, since a stream into a bucket leaves many small ones. */
function createCollector({ mirror, ...options }: ArchiveDeps, counts: ArchiveCounts) {
  let waiting: DirectoryEvent[] = [];
  let bytes = 0;
  async function flush(): Promise<void> {
    if (waiting.length === 0) return;
    const events = waiting;
    waiting = [];
    bytes = 0;
    const recorded = await recordEvents(mirror.db, mirror.t, events, 'archive', options);
    counts.accepted += recorded.accepted.length;
    counts.archived += recorded.archived;
    counts.duplicates += recorded.duplicates;
    counts.ignored += recorded.ignored;
  }
  return {
    flush,
    async add({ events, ignored }: ParsedDelivery): Promise<void> {
      counts.ignored += ignored;
      for (const event of events) {
        waiting.push(event);
        bytes += event.payload.length;
        if (waiting.length >= BATCH_EVENTS || bytes >= BATCH_BYTES) await flush();
      }
    },
  };
}

interface Found {
  readonly path: string;
  readonly kind: 'json' | 'other';
}

/** The files below a folder in the order of their names, which is that of dates; hidden ones are left out. */
async function* listFiles(folder: string): AsyncGenerator<Found, void> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => null);
  if (entries === null) {
    // Opening it tells why it cannot be read.
    yield { path: folder, kind: 'json' };
    return;
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.name.startsWith('.')) continue;
    if (entry.isDirectory()) yield* listFiles(path);
    // A link to a folder might lead back up.
    else if (entry.isFile() || (entry.isSymbolicLink() && (await isFile(path)))) {
      yield { path, kind: /\.(json|jsonl|ndjson)(\.gz)?$/i.test(entry.name) ? 'json' : 'other' };
    }
  }
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}

/** What a file holds, a line or the whole document at a time. @throws BadFile, after all that can be read */
async function* parseFile(path: string, projectId: string): AsyncGenerator<ParsedDelivery, void> {
  try {
    if (await beginsWithJsonLine(path)) yield* parseLines(path, projectId);
    else yield* parseDocument(path, projectId);
  } catch (error) {
    if (error instanceof BadFile || !(error instanceof Error)) throw error;
    // The system's and zlib's errors have codes; anything else is a mistake of ours.
    if (!('code' in error) || typeof error.code !== 'string') throw error;
    throw new BadFile(
      error.code.startsWith('Z_') ? 'is not intact gzip' : `cannot be read (${error.code})`,
    );
  }
}

/** Whether the first line is a JSON value of its own: then every line should be. */
async function beginsWithJsonLine(path: string): Promise<boolean> {
  for await (const line of linesOf(path)) {
    const text = line.toString('utf8').replace(/^\uFEFF/, '');
    if (text.trim() === '') continue;
    try {
      JSON.parse(text);
      return true;
    } catch {
      return false;
    }
  }
  return true;
}

async function* parseLines(path: string, projectId: string): AsyncGenerator<ParsedDelivery, void> {
  let good = 0;
  let bad = 0;
  for await (const line of linesOf(path)) {
    if (line.every(isBlank)) continue;
    const parsed = tryParse(line, projectId);
    if (parsed instanceof UnreadableDelivery) bad++;
    else {
      good++;
      yield parsed;
    }
  }
  if (bad === 0) return;
  throw new BadFile(
    good === 0 ? 'holds no audit record' : `${bad} of its ${good + bad} lines are no audit records`,
  );
}

async function* parseDocument(
  path: string,
  projectId: string,
): AsyncGenerator<ParsedDelivery, void> {
  const document = await readWhole(path);
  const parsed = document && tryParse(document, projectId);
  if (parsed && !(parsed instanceof UnreadableDelivery)) {
    yield parsed;
    return;
  }
  // Lines after all, the first of them spoilt?
  let good = 0;
  for await (const line of linesOf(path)) {
    const single = line.every(isBlank) ? undefined : tryParse(line, projectId);
    if (!single || single instanceof UnreadableDelivery || single.events.length === 0) continue;
    good++;
    yield single;
  }
  if (good > 0) throw new BadFile('not all of its lines are audit records');
  throw new BadFile(
    parsed?.message.replace(/^the body /, '') ??
      `is larger than ${MAX_BYTES / 1024 / 1024} MiB and not JSON lines`,
  );
}

function tryParse(body: Buffer, projectId: string): ParsedDelivery | UnreadableDelivery {
  try {
    return parseDelivery(body, Date.now(), projectId);
  } catch (error) {
    if (error instanceof UnreadableDelivery) return error;
    throw error;
  }
}

/** Space, tab and line ends. */
function isBlank(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
}

/** The bytes of a file, unpacked where they begin as gzip does: a download may have unpacked a `.gz`. */
async function* bytesOf(path: string): AsyncGenerator<Buffer, void> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(2), 0, 2, 0);
    const source = file.createReadStream({ start: 0, autoClose: false });
    const isGzip = bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
    const stream = isGzip ? pipeline(source, createGunzip(), () => undefined) : source;
    yield* stream as AsyncIterable<Buffer>;
  } finally {
    await file.close();
  }
}

/** @throws BadFile at a line that is too long */
async function* linesOf(path: string): AsyncGenerator<Buffer, void> {
  let parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of bytesOf(path)) {
    let from = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, from)) {
      parts.push(chunk.subarray(from, end));
      yield Buffer.concat(parts);
      parts = [];
      bytes = 0;
      from = end + 1;
    }
    parts.push(chunk.subarray(from));
    bytes += chunk.length - from;
    if (bytes > MAX_BYTES) {
      throw new BadFile(`holds a line of more than ${MAX_BYTES / 1024 / 1024} MiB`);
    }
  }
  if (bytes > 0) yield Buffer.concat(parts);
}

/** Undefined where it is too large. */
async function readWhole(path: string): Promise<Buffer | undefined> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of bytesOf(path)) {
    parts.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_BYTES) return undefined;
  }
  return Buffer.concat(parts);
}
