import { createPageSize, isShort } from '../descope/pageSize.ts';
import { DescopeRejected } from '../errors.ts';
import { ok, warning, type Check } from './check.ts';

import type { FoundUsers, Probe } from '../descope/probe.ts';
import type { Mirror } from '../mirror/database.ts';
import type { Learn } from './learn.ts';

/* How many users come in one answer at most, whatever is asked for, and what they carry. */

/** More than this no SDK or page of the documentation speaks of. */
const MANY = 1_000;

export interface PagesDeps {
  readonly probe: Probe;
  /** PAGE_SIZE. */
  readonly pageSize: number;
  /** Null where nothing can be kept. */
  readonly mirror: Mirror | null;
  readonly learn: Learn;
}

/** @param first what the first request for a page of PAGE_SIZE was answered */
export async function checkPages(deps: PagesDeps, first: FoundUsers): Promise<Check[]> {
  if (first.users.length === 0) return [];
  return [await checkSize(deps, first), await checkModifiedTime(deps, first)];
}

async function checkSize(deps: PagesDeps, first: FoundUsers): Promise<Check> {
  const name = 'page size';
  const { pageSize } = deps;
  const note = createNote(deps);
  await note(pageSize, first);
  if (isShort(pageSize, first.users.length, first.total)) return confirmShort(deps, first, note);
  if (first.total <= pageSize) {
    return ok(name, `PAGE_SIZE is ${pageSize}, and all ${first.total} users fit in one answer`);
  }
  const largest = pageSize < MANY ? await findLargest(deps, note) : null;
  if (largest === null) return ok(name, `PAGE_SIZE is ${pageSize}, and as many come`);
  if (largest <= pageSize) return ok(name, `PAGE_SIZE is ${pageSize}, and more do not come`);
  return ok(
    name,
    `PAGE_SIZE is ${pageSize}, and up to ${largest} come in one answer: ` +
      `with PAGE_SIZE=${largest} a sweep would need ${(largest / pageSize).toFixed(1)} times fewer requests`,
  );
}

type Note = (limit: number, found: FoundUsers) => Promise<void>;

/** The client's own notice of short pages: what it has seen twice, it remembers and goes by. */
function createNote({ mirror }: PagesDeps): Note {
  if (mirror === null) return () => Promise.resolve();
  const pageSize = createPageSize(mirror);
  return (limit, { users, total }) => pageSize.note(limit, users.length, total);
}

/** One short answer may be a fault on the way, two of the same length are a rule. */
async function confirmShort(
  { probe, pageSize, learn }: PagesDeps,
  { users }: FoundUsers,
  note: Note,
): Promise<Check> {
  const name = 'page size';
  const again = await probe.oldest(pageSize);
  await note(pageSize, again);
  const [came, cameThen] = [users.length, again.users.length];
  if (came !== cameThen) {
    return warning(
      name,
      `of ${pageSize} users asked for, ${came} came and then ${cameThen}`,
      'run doctor again: answers are cut short on the way',
    );
  }
  await learn('largestPage', came);
  return warning(
    name,
    `PAGE_SIZE is ${pageSize}, but only ${came} users come in one answer`,
    `set PAGE_SIZE=${came}; until then it is allowed for, and requests are sized by what comes`,
  );
}

/** The most that ever come, null where that is not sure. */
async function findLargest({ probe, learn }: PagesDeps, note: Note): Promise<number | null> {
  try {
    const many = await probe.oldest(MANY);
    await note(MANY, many);
    const { length } = many.users;
    if (isShort(MANY, length, many.total)) {
      const again = await probe.oldest(MANY);
      await note(MANY, again);
      if (again.users.length !== length) return null;
      await learn('largestPage', length);
    }
    return length;
  } catch (error) {
    // Refused for being too much: what PAGE_SIZE asks for came.
    if (error instanceof DescopeRejected) return null;
    throw error;
  }
}

async function checkModifiedTime({ learn }: PagesDeps, { users }: FoundUsers): Promise<Check> {
  const isSent = users.some(({ modifiedTime }) => modifiedTime !== null);
  await learn('sendsModifiedTime', isSent);
  return ok(
    'modified time',
    isSent
      ? 'users carry modifiedTime'
      : 'users carry no modifiedTime, which is usual: windows of changes are cut by counting',
  );
}
