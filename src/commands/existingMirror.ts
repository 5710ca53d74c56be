import { openMirror, type Mirror } from '../mirror/database.ts';
import { hasEmbeddedPostgres } from '../mirror/embedded.ts';
import { readSchemaState } from '../mirror/migrate.ts';
import { readProject } from '../mirror/project.ts';
import { createReleaseStack } from '../release.ts';
import { openDatabase } from './openDatabase.ts';

import type { CommandContext } from './command.ts';

/**
 * Runs `work` with the mirror where there is one of this version and this project, and else with null:
 * nothing is made, migrated or claimed. For commands that only share its budget.
 */
export async function withExistingMirror<T>(
  context: CommandContext,
  work: (mirror: Mirror | null) => Promise<T>,
): Promise<T> {
  const { config, folder } = context;
  const releases = createReleaseStack();
  try {
    if (config.DATABASE_URL === undefined && !(await hasEmbeddedPostgres(folder))) {
      return await work(null);
    }
    const database = await openDatabase(context);
    releases.push('database', () => database.stop());
    const mirror = openMirror({
      databaseUrl: database.url,
      schema: config.MIRROR_SCHEMA,
      maxConnections: 1,
      onError: () => undefined,
    });
    releases.push('mirror', () => mirror.pool.end());
    // A Postgres that is away is no reason not to do without its budget.
    const isOurs = await isUsable(mirror, config.DESCOPE_PROJECT_ID).catch(() => false);
    return await work(isOurs ? mirror : null);
  } finally {
    await releases.release();
  }
}

async function isUsable(mirror: Mirror, projectId: string): Promise<boolean> {
  const client = await mirror.pool.connect();
  try {
    const { kind } = await readSchemaState(client, mirror.schema);
    if (kind !== 'current') return false;
  } finally {
    client.release();
  }
  const project = await readProject(mirror);
  return project === null || project === projectId;
}
