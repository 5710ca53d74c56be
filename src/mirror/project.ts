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
  const [kept] = await rows<{ projectId: string }>(
    db,
    sql`select value #>> '{}' as "projectId" from ${t.learnt} where name = 'projectId'`,
  );
  if (kept?.projectId === projectId) return;
  throw new UsageError(
    `the mirror in schema "${schema}" is that of project ${kept?.projectId ?? 'unknown'}, ` +
      `but DESCOPE_PROJECT_ID is ${projectId}: give each project a MIRROR_SCHEMA or a DATABASE_URL of its own`,
  );
}
