import type { Needs } from '../config.ts';
import type { CommandDescription } from './command.ts';

const nothing = (): Needs => ({ descope: false, receives: false, serves: false });

/** How `rollcall erase` presents itself. */
export const ERASE: CommandDescription = {
  name: 'erase',
  summary: "remove one person's data from every table for good, leaving a proof row",
  example: [
    'rollcall erase U2bq0000000000000000000000001',
    'rollcall erase U2bq0000000000000000000000001 --also ada@example.com --by ticket-4711 --yes',
    'rollcall erase U2bq0000000000000000000000001 --undo',
  ],
  arguments: [['<user>', 'user id']],
  options: [
    ['--yes', 'do not ask'],
    ['--by <name>', 'who asked for it, such as a ticket: kept in the proof (default: command)'],
    ['--also <values...>', 'former mail addresses, phone numbers or login ids to look for as well'],
    ['--even-unknown', 'also where nothing is known of the user: kept out from now on'],
    ['--undo', 'let the user be mirrored again, by the next sweep'],
  ],
  needs: nothing,
};

/** How `rollcall grants` presents itself. */
export const GRANTS: CommandDescription = {
  name: 'grants',
  summary:
    'roles with no more rights than they need, to migrate, to write and to read: SQL, or applied',
  example: [
    'rollcall grants | psql "$ADMIN_DATABASE_URL"',
    'rollcall grants --apply',
    'rollcall grants --read-role app_read',
  ],
  options: [
    ['--apply', 'run it in the database of DATABASE_URL'],
    ['--migrate-role <name>', 'owns the schema (default: rollcall_migrate)'],
    ['--write-role <name>', 'of the service (default: rollcall_write)'],
    ['--read-role <name>', 'of applications (default: rollcall_read)'],
    ['--cursors', 'let applications have their cursor of the feed kept by name'],
  ],
  needs: nothing,
};
