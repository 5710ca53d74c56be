import { sql } from 'drizzle-orm';

import { describeError } from '../errors.ts';
import { rows, type Mirror } from '../mirror/database.ts';
import { bad, ok, warning, type Check } from './check.ts';
import { checkSchema } from './schema.ts';
import { checkServerSettings } from './postgresSettings.ts';

/* Is Postgres there, is it new enough, may we write, and is what is in it ours? Nothing is written. */

export interface PostgresDeps {
  /** Connects lazily; three connections. */
  readonly mirror: Mirror;
  /** Whether it is the embedded one of the folder, since DATABASE_URL is not set. */
  readonly isEmbedded: boolean;
  readonly projectId: string;
  readonly queueInPostgres: boolean;
  readonly remedyFor: (error: unknown) => string;
}

export interface PostgresFindings {
  readonly checks: readonly Check[];
  /** For the checks that follow; `unusable` where the schema is missing, of another version or not ours. */
  readonly state: 'unreachable' | 'unusable' | 'unclaimed' | 'ours';
  /** Postgres' clock minus this machine's, in ms; null where it was not told. */
  readonly clockOffsetMs: number | null;
}

/** What the server says of itself. */
export interface Server {
  /** Such as 180004. */
  readonly version: number;
  readonly versionText: string;
  readonly role: string;
  readonly database: string;
  readonly isReplica: boolean;
  readonly isReadOnly: boolean;
  readonly maxConnections: number;
  readonly reservedConnections: number;
  /** -1: none. */
  readonly roleLimit: number;
  readonly databaseLimit: number;
  readonly usedConnections: number;
  readonly isDurable: boolean;
  readonly nowMs: number;
}

/** `xid8`, and what BullMQ's queue in Postgres needs at least. */
const LEAST_VERSION = 13;
/** BullMQ advises this at least. */
const ADVISED_VERSION = 14;

export const NO_DATABASE: Check = warning(
  'postgres',
  'DATABASE_URL is not set, and no embedded Postgres has been made in .rollcall/ yet',
  'set DATABASE_URL to a Postgres of your own; without it `rollcall start` makes an embedded one, for a start',
);

export async function checkPostgres(deps: PostgresDeps): Promise<PostgresFindings> {
  const { mirror } = deps;
  let server: Server;
  let clockOffsetMs: number;
  try {
    await mirror.pool.query('select 1');
    const askedMs = Date.now();
    server = await readServer(mirror);
    clockOffsetMs = Math.round(server.nowMs - (askedMs + Date.now()) / 2);
  } catch (error) {
    const check = bad('postgres', describeError(error), deps.remedyFor(error));
    return { checks: [check], state: 'unreachable', clockOffsetMs: null };
  }
  const schema = await checkSchema(deps, server);
  return {
    checks: [
      checkServer(server, deps),
      checkVersion(server),
      ...schema.checks,
      ...(await checkServerSettings(deps, server)),
    ],
    state: schema.state,
    clockOffsetMs,
  };
}

async function readServer({ db }: Mirror): Promise<Server> {
  const [server] = await rows<Server>(
    db,
    sql`select current_setting('server_version_num')::int as version,
               current_setting('server_version') as "versionText",
               current_user as role, current_database() as database,
               pg_is_in_recovery() as "isReplica",
               current_setting('default_transaction_read_only')::boolean as "isReadOnly",
               current_setting('max_connections')::int as "maxConnections",
               current_setting('superuser_reserved_connections')::int
                 + coalesce(current_setting('reserved_connections', true)::int, 0)
                 as "reservedConnections",
               (select rolconnlimit from pg_roles where rolname = current_user) as "roleLimit",
               (select datconnlimit from pg_database where datname = current_database())
                 as "databaseLimit",
               (select sum(numbackends)::int from pg_stat_database)
                 as "usedConnections",
               current_setting('fsync')::boolean and current_setting('full_page_writes')::boolean
                 and current_setting('synchronous_commit') <> 'off' as "isDurable",
               extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs"`,
  );
  if (!server) throw new Error('Postgres did not tell its settings');
  return server;
}

function checkServer(server: Server, { isEmbedded }: PostgresDeps): Check {
  const { role, database, isReplica, isReadOnly } = server;
  const found = `database "${database}" answers to role "${role}"`;
  if (isReplica || isReadOnly) {
    const why = isReplica ? 'the server is a replica' : 'default_transaction_read_only is on';
    return bad(
      'postgres',
      `${found}, but takes no writes: ${why}`,
      isReplica
        ? 'let DATABASE_URL name the primary'
        : `alter role "${role}" set default_transaction_read_only = off`,
    );
  }
  if (!isEmbedded) return ok('postgres', found);
  return warning(
    'postgres',
    'DATABASE_URL is not set: the embedded Postgres of .rollcall/ is used',
    'set DATABASE_URL to a Postgres of your own for anything that matters',
  );
}

function checkVersion({ version, versionText }: Server): Check {
  const major = Math.floor(version / 10_000);
  const found = `PostgreSQL ${versionText}`;
  if (major < LEAST_VERSION) {
    return bad('postgres version', found, `upgrade it to ${ADVISED_VERSION} or newer`);
  }
  if (major >= ADVISED_VERSION) return ok('postgres version', found);
  return warning('postgres version', found, `${ADVISED_VERSION} or newer is advised`);
}
