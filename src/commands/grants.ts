import { findCode, UsageError } from '../errors.ts';
import { applyGrants, grantsOf, type RoleNames } from '../mirror/grants.ts';
import { openDatabase } from './openDatabase.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

const DEFAULTS: RoleNames = {
  migrate: 'rollcall_migrate',
  write: 'rollcall_write',
  read: 'rollcall_read',
};

/** `rollcall grants [--apply]`: three roles with no more rights than they need, as SQL or in the database. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const { MIRROR_SCHEMA: schema, REDIS_URL } = context.config;
  const roles = parseRoles(options);
  const queueSchema = REDIS_URL === null ? `${schema}_queue` : null;
  const cursors = options['cursors'] === true;
  const statements = grantsOf({ schema, queueSchema, roles, cursors });
  if (options['apply'] === true) {
    await apply(context, statements);
    if (context.json) context.stdout(JSON.stringify({ applied: true, schema, roles }));
    else context.stdout(`roles ${Object.values(roles).join(', ')} have their rights on ${schema}`);
    return 0;
  }
  const sql = [...head(schema), 'begin;', ...statements.map((one) => `${one};`), 'commit;'];
  if (context.json) context.stdout(JSON.stringify({ schema, roles, statements }));
  else for (const line of [...sql, ...logins(roles)]) context.stdout(line);
  return 0;
}

async function apply(context: CommandContext, statements: readonly string[]): Promise<void> {
  const database = await openDatabase(context);
  try {
    await applyGrants(database.url, statements);
  } catch (error) {
    if (findCode(error) !== '42501') throw error;
    throw new Error(
      'the user of DATABASE_URL may not do this: it takes one who owns schema and database and may create ' +
        'roles (CREATEROLE), or a superuser. Let such a one run `rollcall grants | psql <address>`',
      { cause: error },
    );
  } finally {
    await database.stop();
  }
}

const ROLE = /^[a-z_][a-z0-9_]{0,62}$/;

/** @throws UsageError where a name is none, or two are the same */
function parseRoles(options: CommandOptions): RoleNames {
  const roles = Object.fromEntries(
    Object.entries(DEFAULTS).map(([role, fallback]: [string, string]) => {
      const given = options[`${role}Role`] ?? fallback;
      if (typeof given === 'string' && ROLE.test(given)) return [role, given];
      throw new UsageError(
        `--${role}-role must be a plain role name: lower-case letters, digits and _, 63 at most`,
      );
    }),
  );
  if (new Set(Object.values(roles)).size < 3) throw new UsageError('grants: name three roles');
  return { ...DEFAULTS, ...roles };
}

function head(schema: string): string[] {
  return [
    `-- Three roles for the mirror in schema ${schema}, each with no more than it needs. Run it as a user who`,
    '-- may create roles (CREATEROLE) and owns the database; run it again after the first migration, and',
    '-- whenever you like.',
  ];
}

function logins({ migrate, write, read }: RoleNames): string[] {
  return [
    '-- Then logins of your own, with passwords of your own:',
    `--   create role migrator login password '…' in role ${migrate};   -- for rollcall migrate`,
    `--   alter role migrator set role = ${migrate};                    -- what it makes belongs to the group`,
    `--   create role service login password '…' in role ${write};      -- for rollcall start`,
    `--   grant ${read} to <the role of an application>;`,
  ];
}
