import { sql } from 'drizzle-orm';
import pg from 'pg';

import { findCode } from '../errors.ts';
import { rows, type Mirror } from '../mirror/database.ts';
import { readSchemaState, type SchemaState } from '../mirror/migrate.ts';
import { readProject } from '../mirror/project.ts';
import { bad, ok, warning, type Check } from './check.ts';

import type { PostgresDeps, PostgresFindings, Server } from './postgres.ts';

/* The mirror's schema: its version, whose it is, and what our role may do in it. */

interface Rights {
  readonly hasSchema: boolean;
  readonly mayUse: boolean;
  readonly mayCreateIn: boolean;
  /** In the database: schemas. */
  readonly mayCreate: boolean;
  /** Tables of the schema that may not be read and written. */
  readonly lacking: readonly string[];
  /** How many tables belong to somebody whose rights we do not have. */
  readonly foreign: number;
  readonly hasQueueSchema: boolean;
}

const INSUFFICIENT_PRIVILEGE = '42501';

export async function checkSchema(
  deps: PostgresDeps,
  server: Server,
): Promise<Pick<PostgresFindings, 'checks' | 'state'>> {
  const { mirror, projectId } = deps;
  const rights = await readRights(mirror);
  const state = await readState(mirror);
  const lacks = state === null ? ['usage'] : listLacks(rights, state, deps.queueInPostgres);
  const checks = [
    ...(state === null ? [] : [checkState(mirror.schema, state)]),
    checkRights(mirror.schema, rights, lacks, server),
  ];
  if (state?.kind !== 'current' || lacks.length > 0) return { checks, state: 'unusable' };
  const project = await readProject(mirror);
  return {
    checks: [...checks, checkProject(mirror.schema, project, projectId)],
    state: project === null ? 'unclaimed' : project === projectId ? 'ours' : 'unusable',
  };
}

/** Null where our role may not even look. */
async function readState({ pool, schema }: Mirror): Promise<SchemaState | null> {
  const client = await pool.connect();
  try {
    return await readSchemaState(client, schema);
  } catch (error) {
    if (findCode(error) === INSUFFICIENT_PRIVILEGE) return null;
    throw error;
  } finally {
    client.release();
  }
}

async function readRights({ db, schema }: Mirror): Promise<Rights> {
  const [rights] = await rows<Rights>(
    db,
    sql`select n.oid is not null as "hasSchema",
               coalesce(has_schema_privilege(n.oid, 'USAGE'), false) as "mayUse",
               coalesce(has_schema_privilege(n.oid, 'CREATE'), false) as "mayCreateIn",
               has_database_privilege(current_database(), 'CREATE') as "mayCreate",
               coalesce((select array_agg(c.relname::text order by c.relname) from pg_class c
                 where c.relnamespace = n.oid and c.relkind = 'r'
                   -- Which migrations were applied need only be read.
                   and not (c.relname = 'migrations' and has_table_privilege(c.oid, 'SELECT'))
                   and not (has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
                     and has_table_privilege(c.oid, 'UPDATE') and has_table_privilege(c.oid, 'DELETE'))),
                 '{}') as lacking,
               (select count(*)::int from pg_class c
                 where c.relnamespace = n.oid and c.relkind = 'r'
                   and not pg_has_role(c.relowner, 'USAGE')) as foreign,
               exists (select from pg_namespace where nspname = ${`${schema}_queue`})
                 as "hasQueueSchema"
        from (select) as one left join pg_namespace n on n.nspname = ${schema}`,
  );
  if (!rights) throw new Error('Postgres did not tell our rights');
  return rights;
}

/** What our role lacks for what is to be done next. */
function listLacks(rights: Rights, state: SchemaState, queueInPostgres: boolean): string[] {
  const isCurrent = state.kind === 'current' || state.kind === 'newer';
  const lacks = {
    createSchema: !rights.mayCreate && !rights.hasSchema,
    usage: rights.hasSchema && !rights.mayUse,
    createTables: !isCurrent && rights.hasSchema && !rights.mayCreateIn,
    ownership: state.kind === 'older' && rights.foreign > 0,
    tables: isCurrent && rights.lacking.length > 0,
    queueSchema: queueInPostgres && !rights.hasQueueSchema && !rights.mayCreate,
  };
  return Object.entries(lacks).flatMap(([lack, isLacking]) => (isLacking ? [lack] : []));
}

function checkState(schema: string, { kind, missing }: SchemaState): Check {
  const name = 'schema';
  if (kind === 'current') return ok(name, `"${schema}" is up to date`);
  if (kind === 'none') return ok(name, `"${schema}" is not migrated yet; the first start does it`);
  if (kind === 'newer') {
    return bad(
      name,
      `"${schema}" was migrated by a newer version of rollcall`,
      'run that version, or a newer one: this one will not start on it',
    );
  }
  const behind = `${missing} ${missing === 1 ? 'migration' : 'migrations'} behind`;
  return warning(
    name,
    `"${schema}" is ${behind}`,
    'run `rollcall migrate`; the next start does too',
  );
}

function checkRights(
  schema: string,
  rights: Rights,
  lacks: readonly string[],
  { role, database }: Server,
): Check {
  const name = 'postgres rights';
  if (lacks.length === 0) return ok(name, `role "${role}" may do all that is needed`);
  const [to, inSchema] = [pg.escapeIdentifier(role), pg.escapeIdentifier(schema)];
  const grants = {
    create: `grant create on database ${pg.escapeIdentifier(database)} to ${to}`,
    usage: `grant usage on schema ${inSchema} to ${to}`,
    createIn: `grant create on schema ${inSchema} to ${to}`,
    tables: `grant select, insert, update, delete on all tables in schema ${inSchema} to ${to}`,
  };
  const [few, more] = [
    rights.lacking.slice(0, 3).join(', '),
    rights.lacking.length > 3 ? ', …' : '',
  ];
  const told: Record<string, readonly [lacks: string, remedy: string]> = {
    createSchema: [`create the schema "${schema}"`, grants.create],
    usage: [`use the schema "${schema}"`, `${grants.usage}; ${grants.tables}`],
    createTables: [`create tables in "${schema}"`, grants.createIn],
    ownership: ['migrate tables of another owner', 'let their owner run `rollcall migrate`'],
    tables: [`read and write ${few}${more}`, grants.tables],
    queueSchema: [`create the queue's schema "${schema}_queue"`, grants.create],
  };
  const lines = lacks.map((lack) => told[lack] ?? [lack, '']);
  return bad(
    name,
    `role "${role}" may not ${lines.map(([what]) => what).join(', nor ')}`,
    [...new Set(lines.map(([, remedy]) => remedy))].join('; '),
  );
}

function checkProject(schema: string, project: string | null, projectId: string): Check {
  const name = 'mirror';
  if (project === null) return ok(name, `"${schema}" has been used by no project yet`);
  if (project === projectId) return ok(name, `"${schema}" is that of project ${projectId}`);
  return bad(
    name,
    `"${schema}" is the mirror of project ${project}, but DESCOPE_PROJECT_ID is ${projectId}`,
    'set DESCOPE_PROJECT_ID right, or give this project a MIRROR_SCHEMA or a DATABASE_URL of its own',
  );
}
