import { sql } from 'drizzle-orm';

import { asInstant, rows, type Mirror } from '../mirror/database.ts';

import type { Instant } from '../observation.ts';

/** Something a person did through the admin port or a command. */
export interface AdminEntry {
  readonly entryId: number;
  readonly at: Instant;
  /** dashboard or command. */
  readonly actor: string;
  readonly action: string;
  /** What it was done to and what came of it; of people user ids at most. */
  readonly detail: Readonly<Record<string, unknown>>;
  /** begun, done, stopped, or `failed: …`. */
  readonly outcome: string;
}

/** The latest entries, newest first. */
export async function listAdminLog(
  { db, t }: Pick<Mirror, 'db' | 't'>,
  most: number,
): Promise<AdminEntry[]> {
  return rows<AdminEntry>(
    db,
    sql`select entry_id::float8 as "entryId", ${asInstant(sql`at`)} as at, actor, action, detail, outcome
        from ${t.adminLog} order by entry_id desc limit ${most}`,
  );
}
