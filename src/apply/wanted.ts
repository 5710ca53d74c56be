import { sql, type SQL } from 'drizzle-orm';

import type { Present } from '../observation.ts';

/* Whom the mirror is to hold: everyone, and test users only where `INCLUDE_TEST_USERS` says so. */

export interface Wanting {
  readonly includeTestUsers: boolean;
}

export function isWanted({ includeTestUsers }: Wanting, { row }: Present): boolean {
  return includeTestUsers || !row.test;
}

/** The same as a condition on rows of `users`. */
export function whereWanted({ includeTestUsers }: Wanting): SQL {
  return includeTestUsers ? sql`true` : sql`not test`;
}
