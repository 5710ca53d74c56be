import { startEmbeddedPostgres } from '../mirror/embedded.ts';

import type { CommandContext } from './command.ts';

export interface OpenDatabase {
  /** Holds a password. */
  readonly url: string;
  /** Ends the embedded Postgres where this command was its last user. */
  stop(): Promise<void>;
}

/** The database of DATABASE_URL, or else the embedded Postgres of `.rollcall/`. */
export async function openDatabase(
  context: Pick<CommandContext, 'config' | 'log' | 'folder'>,
): Promise<OpenDatabase> {
  const { DATABASE_URL } = context.config;
  if (DATABASE_URL !== undefined) return { url: DATABASE_URL, stop: () => Promise.resolve() };
  context.log.debug({ folder: context.folder }, 'starting the embedded Postgres');
  return startEmbeddedPostgres({ folder: context.folder });
}
