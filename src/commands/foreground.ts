import { createEngine, type Engine, type EngineOptions } from '../engine.ts';
import { UsageError } from '../errors.ts';
import { openMirror, type Mirror } from '../mirror/database.ts';
import { hasEmbeddedPostgres } from '../mirror/embedded.ts';
import { migrateMirror } from '../mirror/migrate.ts';
import { claimProject } from '../mirror/project.ts';
import { assertExclusion } from '../pull/exclusion.ts';
import { createReleaseStack } from '../release.ts';
import { openDatabase } from './openDatabase.ts';

import type { CommandContext } from './command.ts';

const CONNECTIONS = 6;

/**
 * Runs `work` with the mirror, migrated, and where it is; cleans up after it. Needs no credentials of Descope.
 * @throws UsageError where there is no mirror: what only asks or decides makes no Postgres of its own
 */
export async function withMirror<T>(
  context: CommandContext,
  work: (mirror: Mirror, databaseUrl: string) => Promise<T>,
): Promise<T> {
  const { config, folder } = context;
  if (config.DATABASE_URL === undefined && !(await hasEmbeddedPostgres(folder))) {
    throw new UsageError(
      'DATABASE_URL is not set, and there is no embedded Postgres in this folder: set it as the service has it, ' +
        'or run this where the service runs',
    );
  }
  return withAnyMirror(context, work);
}

/** The same, which may begin the mirror. */
async function withAnyMirror<T>(
  context: CommandContext,
  work: (mirror: Mirror, databaseUrl: string) => Promise<T>,
): Promise<T> {
  const { config, log } = context;
  const releases = createReleaseStack();
  try {
    const database = await openDatabase(context);
    releases.push('database', () => database.stop());
    await migrateMirror({ databaseUrl: database.url, schema: config.MIRROR_SCHEMA });
    const mirror = openMirror({
      databaseUrl: database.url,
      schema: config.MIRROR_SCHEMA,
      maxConnections: CONNECTIONS,
      onError: (error) => {
        log.debug({ err: error }, 'an idle database connection failed');
      },
    });
    releases.push('mirror', () => mirror.pool.end());
    return await work(mirror, database.url);
  } finally {
    await releases.release();
  }
}

/**
 * Runs `work` with an engine of its own, migrated and without a queue, and cleans up after it.
 * @throws UsageError where the mirror is another project's, or leaves out other fields
 */
export async function withEngine<T>(
  context: CommandContext,
  hooks: Pick<EngineOptions, 'onStep' | 'onEvents'>,
  work: (engine: Engine) => Promise<T>,
): Promise<T> {
  const { config, log } = context;
  return withAnyMirror(context, async (mirror) => {
    await claimProject(mirror, config.DESCOPE_PROJECT_ID);
    await assertExclusion(mirror, config.MIRROR_EXCLUDE);
    const engine = createEngine({ config, log, mirror, queues: null, ...hooks });
    context.signal.addEventListener('abort', engine.abort, { once: true });
    try {
      return await work(engine);
    } finally {
      engine.abort();
    }
  });
}
