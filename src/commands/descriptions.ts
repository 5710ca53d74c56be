import { DELIVERIES } from './describeDeliveries.ts';
import { ERASE, GRANTS } from './describePrivacy.ts';

import type { Needs } from '../config.ts';
import type { CommandDescription } from './command.ts';

const nothing = (): Needs => ({ descope: false, receives: false, serves: false });
const descope = (): Needs => ({ descope: true, receives: false, serves: false });

/** Commands by what they are for, as the help lists them. */
export const GROUPS: readonly (readonly [heading: string, names: readonly string[]])[] = [
  ['To look around', ['demo', 'simulate']],
  ['To set up', ['doctor', 'webhook', 'migrate', 'grants', 'attributes']],
  ['To run', ['start', 'backfill', 'sync', 'import']],
  ['To ask', ['status', 'verify', 'explain', 'events']],
  ['To decide', ['deletions', 'deliveries', 'replay', 'rebuild', 'erase']],
];

/** Every command; each has its file in this folder. */
export const COMMANDS: readonly CommandDescription[] = [
  {
    name: 'start',
    summary: 'migrate, then run the service: webhook, pulls, sweeps, dashboard',
    example: 'rollcall start --role worker',
    options: [['--role <role>', 'all, web or worker (default: all)']],
    needs: ({ role }) => ({ descope: true, receives: role !== 'worker', serves: true }),
  },
  {
    name: 'demo',
    summary: 'the whole service against a simulated Descope with live traffic; needs no account',
    example: 'rollcall demo',
    needs: nothing,
  },
  {
    name: 'simulate',
    summary: 'only the simulated Descope',
    example: 'rollcall simulate --users 5000 --port 4600',
    options: [
      ['--users <count>', 'users to begin with (default: 1000)'],
      ['--seed <number>', 'the same seed makes the same users (default: 1)'],
      ['--port <port>', 'where it listens (default: any free port)'],
    ],
    needs: nothing,
  },
  {
    name: 'backfill',
    summary: 'read every user now, in the foreground; resumes a run that was interrupted',
    example: 'rollcall backfill',
    needs: descope,
  },
  {
    name: 'sync',
    summary: 'pull changes and audit events now, apply what they tell, return when done',
    example: 'rollcall sync --json',
    needs: descope,
  },
  {
    name: 'verify',
    summary: 'compare the mirror with Descope; exit 3 if drift remains',
    example: 'rollcall verify --repair',
    options: [['--repair', 'fix what differs']],
    needs: descope,
  },
  {
    name: 'rebuild',
    summary: 'read everyone into tables beside the mirror, compare, and swap them without downtime',
    example: ['rollcall rebuild --dry-run', 'rollcall rebuild', 'rollcall rebuild --rollback'],
    options: [
      ['--dry-run', 'only compare; the next `rollcall rebuild` goes on from there'],
      ['--approve', 'let deletions happen that the breaker holds'],
      ['--rollback', 'swap back to what the last rebuild replaced, with what was seen since'],
      ['--drop-previous', 'drop what the last rebuild replaced'],
      ['--discard', 'give up a rebuild that was begun, and drop its tables'],
    ],
    needs: (options) =>
      ['rollback', 'dropPrevious', 'discard'].some((name) => options[name] === true)
        ? nothing()
        : descope(),
  },
  {
    name: 'status',
    summary: 'watermarks, gaps, lag, webhook loss rate, queue, held deletions',
    example: 'rollcall status --json',
    needs: nothing,
  },
  {
    name: 'explain',
    summary: 'everything known about one user: events, observations, decisions',
    example: 'rollcall explain U2bq0000000000000000000000001',
    arguments: [['<user>', 'user id or login id']],
    needs: nothing,
  },
  {
    name: 'replay',
    summary: 'apply events of the inbox again',
    example: 'rollcall replay --failed',
    options: [
      ['--since <instant>', 'only events received since then (ISO 8601)'],
      ['--user <id>', 'only events of this user'],
      ['--failed', 'only events that were given up'],
    ],
    needs: descope,
  },
  {
    name: 'deletions',
    summary: "the breaker's held deletions: list, approve or reject them",
    example: ['rollcall deletions list', 'rollcall deletions approve'],
    subcommands: [
      {
        name: 'list',
        summary: 'who is held, since when and why; exit 3 where anybody is',
        example: 'rollcall deletions list --json',
        arguments: [['[ids...]', 'user ids; all held ones where none is named']],
      },
      {
        name: 'approve',
        summary: 'let them happen, where a load by id still says that the user is gone',
        example: ['rollcall deletions approve', 'rollcall deletions approve U2bq…01 U2bq…02'],
        arguments: [['[ids...]', 'user ids; all held ones where none is named']],
      },
      {
        name: 'reject',
        summary: 'drop them: the users stay until something else is found',
        example: 'rollcall deletions reject U2bq0000000000000000000000001',
        arguments: [['[ids...]', 'user ids; all held ones where none is named']],
      },
    ],
    needs: (options) => (options['action'] === 'approve' ? descope() : nothing()),
  },
  DELIVERIES,
  {
    name: 'import',
    summary: 'bring archived audit objects into the inbox',
    example: 'rollcall import ./audit-archive',
    arguments: [['<folder>', 'a folder of JSON or JSON-lines files']],
    needs: nothing,
  },
  {
    name: 'events',
    summary: 'search and export the audit trail: who did what to whom',
    example: "rollcall events --user ada@example.com --action 'User*' --since 2026-11-01",
    options: [
      ['--user <user>', 'whom it happened to: user id or login id'],
      ['--actor <id>', 'who did it: id of a user or a management key'],
      ['--action <action>', "such as UserModified, or the beginning of several: 'User*'"],
      ['--tenant <id>', 'tenant id'],
      ['--since <instant>', 'happened then or later (ISO 8601)'],
      ['--until <instant>', 'happened before then'],
      ['--changed <field>', 'a changed field, with a value in it or without: roleNames=admin'],
      ['--limit <count>', 'the newest so many, up to 1000 (default: 50)'],
      ['--all', 'all of them'],
      [
        '--format <format>',
        'table, csv or jsonl (default: a table on a terminal, else plain lines)',
      ],
    ],
    needs: nothing,
  },
  ERASE,
  {
    name: 'doctor',
    summary:
      'check credentials, time unit, page size, Postgres, Redis, webhook; say how to fix each',
    example: ['rollcall doctor', "rollcall doctor --json | jq '.checks[] | select(.remedy)'"],
    needs: descope,
  },
  {
    name: 'webhook',
    summary: 'create the audit webhook connector, or check a captured delivery against our secrets',
    example: [
      'rollcall webhook create --url https://rollcall.example.com',
      'rollcall webhook check --wait 60',
    ],
    subcommands: [
      {
        name: 'create',
        summary: 'create the connector with a new secret, and print what to set',
        example: 'rollcall webhook create --url https://rollcall.example.com/webhooks/descope',
        options: [
          ['--url <url>', 'where Descope reaches us'],
          ['--name <name>', 'of the connector (default: Rollcall)'],
        ],
      },
      {
        name: 'check',
        summary: 'say which secret and which bytes a delivery was signed with, or why none fits',
        example: [
          'rollcall webhook check --body delivery.json --signature q83vEjRW…=',
          "rollcall webhook check --body delivery.json --header 'Authorization: Bearer …'",
          'rollcall webhook check --wait 60',
        ],
        options: [
          ['--body <file>', 'the body as it was received, byte for byte; - reads stdin'],
          ['--signature <text>', 'of the header x-descope-webhook-s256'],
          ['--header <lines...>', "other headers that came with it, 'Name: value'"],
          [
            '--wait <seconds>',
            'take the next delivery on PORT instead (while nothing else listens)',
          ],
        ],
      },
    ],
    needs: ({ action }) => (action === 'create' ? descope() : nothing()),
  },
  {
    name: 'migrate',
    summary: 'bring the database schema up to date, and nothing else',
    example: 'rollcall migrate',
    needs: nothing,
  },
  GRANTS,
  {
    name: 'attributes',
    summary: 'custom attributes as typed columns that applications filter by',
    example: ['rollcall attributes add plan text --index', 'rollcall attributes list'],
    subcommands: [
      {
        name: 'add',
        summary: 'make one a column of live_users_with_attributes; needs the owner of the tables',
        example: [
          'rollcall attributes add plan text --index',
          'rollcall attributes add signupDate timestamptz --as signed_up --index',
        ],
        arguments: [
          ['<name>', 'as Descope names it'],
          ['<type>', 'text, boolean, integer, bigint, numeric, timestamptz or text[]'],
        ],
        options: [
          ['--index', 'with an index, built while everything goes on'],
          ['--as <column>', 'name of the column (default: signupDate becomes signup_date)'],
        ],
      },
      {
        name: 'list',
        summary: 'which were added, as what, and whether by index',
        example: 'rollcall attributes list --json',
      },
      {
        name: 'remove',
        summary: 'remove column and index; the values stay in custom_attributes',
        example: 'rollcall attributes remove plan',
        arguments: [['<name>', 'as Descope names it']],
      },
    ],
    needs: nothing,
  },
];
