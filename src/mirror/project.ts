import { sql } from 'drizzle-orm';

import { UsageError } from '../errors.ts';
import { rows, type Mirror } from './database.ts';

/**
 * Makes the mirror that of this project; one filled before projects were kept takes the first that
 * comes. A sweep of another project would find everyone gone. Of processes that start at once the
 * first to insert wins.
 * @throws UsageError where the mirror is another project's
 */
export async function claimProject(
  { db, t, schema }: Pick<Mirror, 'db' | 't' | 'schema'>,
  projectId: string,
): Promise<void> {
  await db.execute(sql`
    insert into ${t.learnt} (name, value) values ('projectId', to_jsonb(${projectId}::text))
    on conflict (name) do nothing`);
  const kept = await readProject({ db, t });
  if (kept === projectId) return;
  throw new UsageError(
    `the mirror in schema "${schema}" is that of project ${kept ?? 'unknown'}, ` +
      `but DESCOPE_PROJECT_ID is ${projectId}: give each project a MIRROR_SCHEMA or a DATABASE_URL of its own`,
  );
}

/** The project whose mirror this is; null before it was first used. */
export async function readProject({ db, t }: Pick<Mirror, 'db' | 't'>): Promise<string | null> {
  const [kept] = await rows<{ projectId: string }>(
    db,
    sql`select value #>> '{}' as "projectId" from ${t.learnt} where name = 'projectId'`,
  );
  return kept?.projectId ?? null;
}
