import { migrateService } from '../migrateService.ts';
import { openDatabase } from './openDatabase.ts';

import type { CommandContext, ExitCode } from './command.ts';

/** `rollcall migrate`: the schema only, and the queue's where that is in Postgres. */
export async function run(context: CommandContext): Promise<ExitCode> {
  const database = await openDatabase(context);
  try {
    const { config, log } = context;
    const schema = config.MIRROR_SCHEMA;
    const { applied } = await migrateService({ config, log, databaseUrl: database.url });
    context.stdout(
      context.json
        ? JSON.stringify({ schema, applied })
        : applied === 0
          ? `schema ${schema} is up to date`
          : `schema ${schema}: applied ${applied} ${applied === 1 ? 'migration' : 'migrations'}`,
    );
    return 0;
  } finally {
    await database.stop();
  }
}
