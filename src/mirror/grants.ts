import pg from 'pg';

/*
 * In: schemas and names of roles. Out: the SQL that gives three roles what they need and nothing else.
 * Run again at any time it brings everything to the same state, whoever owned the tables before.
 */

/** Group roles: whom logins are put in. */
export interface RoleNames {
  /** Owns schema, tables and functions. */
  readonly migrate: string;
  /** The service: reads and writes rows. */
  readonly write: string;
  /** Applications: read what is made for them. */
  readonly read: string;
}

export interface GrantScope {
  readonly schema: string;
  /** The queue's schema beside it; null where the queue is on Redis. */
  readonly queueSchema: string | null;
  readonly roles: RoleNames;
  /** Whether applications may have their cursor of the feed kept by name. */
  readonly cursors: boolean;
}

/** What an application reads: no inbox, no deletions, no log of what people did, no erasures. */
export const READABLE = [
  ...['users', 'user_tenants', 'user_changes', 'sync_status'],
  ...['live_users', 'live_users_with_attributes', 'tenant_members', 'role_members'],
];

/** What it calls; all but `CURSORS` is anybody's who may use the schema, unless that was revoked. */
const CALLABLE = [
  ...['changes_since', 'feed_head', 'parse_cursor', 'feed_pruned_to', 'is_in_feed'],
  ...['assert_in_feed', 'feed_horizon', 'members_of_role'],
  ...['user_freshness', 'user_as_of', 'wait_for', 'why_not_seen'],
  ...['text', 'boolean', 'integer', 'bigint', 'numeric', 'timestamptz', 'text_array'].map(
    (type) => `attribute_${type}`,
  ),
];
/** They write where a consumer is, by a name that no role owns: only for whom that is wanted. */
const CURSORS = ['read_changes', 'confirm_changes'];

const name = pg.escapeIdentifier;
const text = pg.escapeLiteral;

/** Runs such statements, all or none. @throws what Postgres throws, 42501 where our role may not */
export async function applyGrants(
  databaseUrl: string,
  statements: readonly string[],
): Promise<void> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'rollcall grants',
    connectionTimeoutMillis: 10_000,
  });
  client.on('error', () => undefined);
  await client.connect();
  try {
    await client.query(['begin', ...statements, 'commit'].join(';\n'));
  } finally {
    await client.end();
  }
}

/** Statements in order, for one transaction. Each is complete in itself. Pure. */
export function grantsOf({ schema, queueSchema, roles, cursors }: GrantScope): string[] {
  const schemas = queueSchema === null ? [schema] : [schema, queueSchema];
  return [
    ...[roles.migrate, roles.write, roles.read].map(createRole),
    joinRole(roles.migrate),
    ...(queueSchema === null ? [] : [letCreateSchemas(roles.migrate)]),
    ...schemas.flatMap((one) => [ownSchema(one, roles.migrate), ...grantWrite(one, roles)]),
    readLedgers(schemas, roles.write),
    ...grantRead(schema, roles.read, cursors),
  ];
}

function createRole(role: string): string {
  return `do $$ begin
  if not exists (select from pg_roles where rolname = ${text(role)}) then
    create role ${name(role)} nologin;
  end if;
end $$`;
}

/** Who hands tables over to a role has to be in it. */
function joinRole(role: string): string {
  return `do $$ begin
  if not pg_has_role(current_user, ${text(role)}, 'usage') then
    grant ${name(role)} to current_user;
  end if;
end $$`;
}

/** BullMQ's migrations say `create schema if not exists`, which asks for the right even where it is there. */
function letCreateSchemas(role: string): string {
  return `do $$ begin
  if not has_database_privilege(${text(role)}, current_database(), 'create') then
    execute format('grant create on database %I to %I', current_database(), ${text(role)});
  end if;
end $$`;
}

/** Creates the schema where it is missing; hands it and everything in it to its owner. */
function ownSchema(schema: string, owner: string): string {
  return `do $$ declare one record; begin
  if to_regnamespace(${text(name(schema))}) is null then
    create schema ${name(schema)} authorization ${name(owner)};
  end if;
  for one in
    select format('schema %I', nspname) as what from pg_namespace
      where nspname = ${text(schema)} and pg_get_userbyid(nspowner) <> ${text(owner)}
    union all
    -- A sequence that belongs to a column goes with its table.
    select format('table %s', c.oid::regclass) from pg_class c
      where relnamespace = to_regnamespace(${text(name(schema))}) and relkind in ('r', 'p', 'v', 'm', 'S')
        and pg_get_userbyid(relowner) <> ${text(owner)}
        and not exists (select from pg_depend where objid = c.oid and deptype in ('a', 'i') and relkind = 'S')
    union all
    select format('type %s', t.oid::regtype) from pg_type t
      where typnamespace = to_regnamespace(${text(name(schema))}) and typtype in ('e', 'd')
        and pg_get_userbyid(typowner) <> ${text(owner)}
    union all
    select format('routine %s', p.oid::regprocedure) from pg_proc p
      where pronamespace = to_regnamespace(${text(name(schema))})
        and pg_get_userbyid(proowner) <> ${text(owner)}
  loop
    execute format('alter %s owner to %I', one.what, ${text(owner)});
  end loop;
end $$`;
}

/** Rows of all tables, and of those that later migrations add. */
function grantWrite(schema: string, { migrate, write }: RoleNames): string[] {
  const rows = 'select, insert, update, delete';
  const later = `alter default privileges for role ${name(migrate)} in schema ${name(schema)}`;
  return [
    `grant usage on schema ${name(schema)} to ${name(write)}`,
    `grant ${rows} on all tables in schema ${name(schema)} to ${name(write)}`,
    `grant usage, select on all sequences in schema ${name(schema)} to ${name(write)}`,
    `grant execute on all routines in schema ${name(schema)} to ${name(write)}`,
    `${later} grant ${rows} on tables to ${name(write)}`,
    `${later} grant usage, select on sequences to ${name(write)}`,
    `${later} grant execute on routines to ${name(write)}`,
  ];
}

/** Which migrations were applied is read by all, and written by who applies them. */
function readLedgers(schemas: readonly string[], role: string): string {
  const ledgers = schemas.flatMap((schema) =>
    ['migrations', 'migration'].map((table) => text(`${name(schema)}.${name(table)}`)),
  );
  return forEachThere(ledgers, `revoke insert, update, delete on %s from ${name(role)}`);
}

/** What is made for applications, by name: what a later version adds is not theirs by itself. */
function grantRead(schema: string, read: string, cursors: boolean): string[] {
  const tables = READABLE.map((table) => text(`${name(schema)}.${name(table)}`));
  const functions = (names: readonly string[]) =>
    names.map((one) => `${name(schema)}.${name(one)}`);
  return [
    `grant usage on schema ${name(schema)} to ${name(read)}`,
    `revoke all on all tables in schema ${name(schema)} from ${name(read)}`,
    forEachThere(tables, `grant select on %s to ${name(read)}`),
    ...functions(CALLABLE).map((one) => ifThere(one, 'grant', `to ${name(read)}`)),
    ...functions(CURSORS).map((one) =>
      cursors
        ? ifThere(one, 'grant', `to ${name(read)}`)
        : ifThere(one, 'revoke', `from ${name(read)}`),
    ),
  ];
}

function ifThere(routine: string, verb: 'grant' | 'revoke', whom: string): string {
  return `do $$ begin
  if to_regproc(${text(routine)}) is not null then
    ${verb} execute on function ${routine} ${whom};
  end if;
end $$`;
}

/** Before the first migration there are none. */
function forEachThere(tables: readonly string[], statement: string): string {
  return `do $$ declare one text; begin
  foreach one in array array[${tables.join(', ')}] loop
    if to_regclass(one) is not null then execute format(${text(statement)}, one::regclass); end if;
  end loop;
end $$`;
}
