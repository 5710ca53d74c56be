import { migrateMirror } from '../mirror/migrate.ts';
import { openDatabase } from './openDatabase.ts';

import type { CommandContext, ExitCode } from './command.ts';

/** `rollcall migrate`: the schema only. */
export async function run(context: CommandContext): Promise<ExitCode> {
  const database = await openDatabase(context);
  try {
    const schema = context.config.MIRROR_SCHEMA;
    const { applied } = await migrateMirror({ databaseUrl: database.url, schema });
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
