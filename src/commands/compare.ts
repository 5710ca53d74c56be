import { isDeepStrictEqual } from 'node:util';

import { readErasedIds, readEveryone, type MirroredUser } from '../readers/everyone.ts';

import type { Mirror } from '../mirror/database.ts';
import type { Directory } from '../simulator/directory.ts';

export interface Comparison {
  /** Users compared. */
  readonly users: number;
  /** `<user id>: the fields that differ`, no values. */
  readonly differences: readonly string[];
}

type Answer = NonNullable<ReturnType<Directory['answer']>>;

/**
 * Compares mirror and directory user by user and field by field: `raw` with the whole answer, each
 * typed column with its field, the tenants. It shares no code with what fills the mirror. Users for
 * whom `isSettling` is true are in motion and left out. Of erased ones the mirror must have nothing.
 */
export async function compareWithDirectory(
  directory: Directory,
  mirror: Pick<Mirror, 'db' | 't'>,
  includeTestUsers: boolean,
  isSettling: (userId: string) => boolean = () => false,
): Promise<Comparison> {
  const mirrored = await readEveryone(mirror);
  const erased = await readErasedIds(mirror);
  const left = new Map(mirrored.map((user) => [user.userId, user]));
  const differences: string[] = [];
  let users = 0;
  for (const answer of directory.users()) {
    if ((answer.test && !includeTestUsers) || erased.has(answer.userId)) continue;
    const row = left.get(answer.userId);
    left.delete(answer.userId);
    if (isSettling(answer.userId)) continue;
    users++;
    const fields = row ? differingFields(answer, row) : ['missing'];
    if (fields.length > 0) differences.push(`${answer.userId}: ${fields.join(', ')}`);
  }
  for (const userId of left.keys()) {
    if (!isSettling(userId)) differences.push(`${userId}: should be gone`);
  }
  return { users, differences };
}

function differingFields(answer: Answer, row: MirroredUser): string[] {
  const told = JSON.parse(JSON.stringify(answer)) as Record<string, unknown>;
  const tenants = (told['userTenants'] ?? []) as { tenantId: string }[];
  const expected: Record<string, unknown> = {
    ...told,
    userTenants: [...tenants].sort((a, b) => (a.tenantId < b.tenantId ? -1 : 1)),
  };
  const fields = Object.keys(row).filter((field) => field !== 'raw' && field !== 'userId');
  // An empty text is null in its column; `raw` keeps it as it came.
  const isEqual = (field: string) => isDeepStrictEqual(row[field] ?? '', expected[field] ?? '');
  const differing = fields.filter((field) => !isEqual(field));
  return isDeepStrictEqual(row['raw'], told) ? differing : [...differing, 'raw'];
}
