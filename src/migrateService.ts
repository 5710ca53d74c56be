import { migrateQueues } from '../jobs/queues.ts';
import { migrateMirror } from './mirror/migrate.ts';

import type { Config } from './config.ts';
import type { Logger } from './log.ts';

export interface MigrateOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly databaseUrl: string;
}

/**
 * Brings the mirror's schema up to date, and the queue's where that is in Postgres. Where both are, a role
 * without DDL rights will do.
 * @throws what migrating throws; UsageError where a schema is not up to date and our role may not migrate it
 */
export async function migrateService({
  config,
  log,
  databaseUrl,
}: MigrateOptions): Promise<{ applied: number }> {
  const schema = config.MIRROR_SCHEMA;
  const migrated = await migrateMirror({ databaseUrl, schema });
  await migrateQueues({
    ...{ redisNodes: config.REDIS_URL, databaseUrl, schema },
    onError: (error) => {
      log.debug({ err: error }, 'a queue connection failed');
    },
  });
  return migrated;
}
