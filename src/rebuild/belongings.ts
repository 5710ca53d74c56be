import { sql, type SQL } from 'drizzle-orm';

import { rows, type Executor, type Mirror } from '../mirror/database.ts';
import { isWriter, nameInFull, tablesOf, USER_TABLES } from './structure.ts';

import type { Generation } from '../mirror/schema.ts';

/*
 * In: the catalogue. Out: the statements by which whatever belongs to the tables that are read, beside columns
 * and indexes, goes over to those that take their place: grants, policies, triggers, comments, publications.
 * All are read before the tables change their names; `toGive` is run when the others have taken them.
 */

/**
 * A generation that nobody reads is bare: nobody may read it but its owner and the service, which erases in it
 * too and cuts tombstones short, and no trigger fires.
 */
export interface Belongings {
  /** Takes from the tables that are read what only they may have; run before the names change. */
  readonly toTake: readonly string[];
  /** Takes from the others what they should not have had: what default privileges gave them. */
  readonly toStrip: readonly string[];
  /** Gives the same to the tables that are then called so. */
  readonly toGive: readonly string[];
}

export async function readBelongings(
  tx: Executor,
  { schema }: Pick<Mirror, 'schema'>,
  incoming: Exclude<Generation, ''>,
): Promise<Belongings> {
  await nameInFull(tx);
  const read = async (...queries: readonly SQL[]): Promise<string[]> => {
    const statements: string[] = [];
    // In this order: a policy is there before row level security is on.
    for (const query of queries) {
      const found = await rows<{ statement: string }>(tx, query);
      statements.push(...found.map(({ statement }) => statement));
    }
    return statements;
  };
  return {
    toTake: await read(
      revokes(schema, '', sql`not ${isWriter}`),
      ...[
        dropPolicies(schema),
        dropTriggers(schema),
        dropStatistics(schema),
        leavePublications(schema),
      ],
    ),
    toStrip: await read(revokes(schema, incoming)),
    toGive: await read(
      ...[grants(schema), columnGrants(schema), comments(schema), policies(schema)],
      ...[rowSecurity(schema), triggers(schema), statistics(schema), replicaIdentity(schema)],
      joinPublications(schema),
    ),
  };
}

const named = (schema: string, generation: Generation = '') =>
  sql`format('%I.%I', ${schema}::text, name || ${generation}::text)`;
const ours = (schema: string, generation: Generation = '') =>
  sql`${tablesOf(schema, generation)} as ours join pg_class c on c.oid = ours.oid`;
const roleOf = (oid: SQL) =>
  sql`case when ${oid} = 0 then 'public' else quote_ident(pg_get_userbyid(${oid})) end`;

function revokes(schema: string, generation: Generation, ofWhom = sql`true`): SQL {
  return sql`
    select distinct format('revoke all on table %s from %s', ${named(schema, generation)},
                           ${roleOf(sql`grantee`)}) as statement
    from ${ours(schema, generation)}, lateral (
      select grantee from aclexplode(c.relacl)
      union select grantee from pg_attribute, aclexplode(attacl) where attrelid = c.oid) as acl
    where grantee <> c.relowner and ${ofWhom}`;
}

function grants(schema: string): SQL {
  return sql`
    select format('grant %s on table %s to %s%s', privilege_type, ${named(schema)}, ${roleOf(sql`grantee`)},
                  case when is_grantable then ' with grant option' end) as statement
    from ${ours(schema)}, aclexplode(c.relacl) where grantee <> c.relowner`;
}

function columnGrants(schema: string): SQL {
  return sql`
    select format('grant %s (%I) on table %s to %s%s', privilege_type, attname, ${named(schema)},
                  ${roleOf(sql`grantee`)}, case when is_grantable then ' with grant option' end) as statement
    from ${ours(schema)} join pg_attribute on attrelid = c.oid, aclexplode(attacl)
    where grantee <> c.relowner`;
}

function comments(schema: string): SQL {
  return sql`
    select case objsubid when 0 then format('comment on table %s is %L', ${named(schema)}, description)
             else format('comment on column %s.%I is %L', ${named(schema)}, attname, description) end
             as statement
    from ${ours(schema)} join pg_description on classoid = 'pg_class'::regclass and objoid = c.oid
    left join pg_attribute on attrelid = c.oid and attnum = objsubid and objsubid > 0`;
}

function policies(schema: string): SQL {
  return sql`
    select format('create policy %I on %s as %s for %s to %s%s%s', polname, ${named(schema)},
                  case when polpermissive then 'permissive' else 'restrictive' end,
                  case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                    when 'd' then 'delete' else 'all' end,
                  (select string_agg(${roleOf(sql`role`)}, ', ') from unnest(polroles) as role),
                  ' using (' || pg_get_expr(polqual, polrelid) || ')',
                  ' with check (' || pg_get_expr(polwithcheck, polrelid) || ')') as statement
    from ${ours(schema)} join pg_policy on polrelid = c.oid order by polname`;
}

function dropPolicies(schema: string): SQL {
  return sql`
    select format('drop policy %I on %s', polname, ${named(schema)}) as statement
    from ${ours(schema)} join pg_policy on polrelid = c.oid`;
}

function rowSecurity(schema: string): SQL {
  return sql`
    select format('alter table %s %s row level security', ${named(schema)}, how) as statement
    from ${ours(schema)}, lateral (values
      (case when relrowsecurity then 'enable' else 'disable' end),
      (case when relforcerowsecurity then 'force' else 'no force' end)) as flags (how)`;
}

function triggers(schema: string): SQL {
  return sql`
    select statement from ${ours(schema)} join pg_trigger t on tgrelid = c.oid and not tgisinternal,
      lateral (values
        (1, pg_get_triggerdef(t.oid)),
        (2, format('alter table %s %s trigger %I', ${named(schema)},
              case tgenabled when 'D' then 'disable' when 'R' then 'enable replica'
                when 'A' then 'enable always' else 'enable' end, tgname)),
        (3, format('comment on trigger %I on %s is %L', tgname, ${named(schema)},
              obj_description(t.oid, 'pg_trigger')))) as said (place, statement)
    order by tgname, place`;
}

function dropTriggers(schema: string): SQL {
  return sql`
    select format('drop trigger %I on %s', tgname, ${named(schema)}) as statement
    from ${ours(schema)} join pg_trigger on tgrelid = c.oid and not tgisinternal`;
}

function statistics(schema: string): SQL {
  return sql`
    select pg_get_statisticsobjdef(s.oid) as statement
    from ${ours(schema)} join pg_statistic_ext s on stxrelid = c.oid`;
}

function dropStatistics(schema: string): SQL {
  return sql`
    select format('drop statistics %s.%I', stxnamespace::regnamespace::text, stxname) as statement
    from ${ours(schema)} join pg_statistic_ext on stxrelid = c.oid`;
}

function replicaIdentity(schema: string): SQL {
  return sql`
    select format('alter table %s replica identity %s', ${named(schema)},
             case relreplident when 'f' then 'full' when 'n' then 'nothing'
               when 'i' then 'using index ' || (select quote_ident(i.relname) from pg_index
                 join pg_class i on i.oid = indexrelid where indrelid = c.oid and indisreplident)
               else 'default' end) as statement
    from ${ours(schema)}`;
}

function joinPublications(schema: string): SQL {
  return sql`
    select format('alter publication %I add table only %s', pubname, ${named(schema)}) as statement
    from ${ours(schema)} join pg_publication_rel on prrelid = c.oid
    join pg_publication p on p.oid = prpubid`;
}

function leavePublications(schema: string): SQL {
  return sql`
    select format('alter publication %I drop table only %s', pubname, ${named(schema)}) as statement
    from ${ours(schema)} join pg_publication_rel on prrelid = c.oid
    join pg_publication p on p.oid = prpubid`;
}

/** Whoever subscribes to a table is not told what a swap changes: an operator is to know of the publications. */
export async function readSubscribed({
  db,
  schema,
}: Pick<Mirror, 'db' | 'schema'>): Promise<string[]> {
  const found = await rows<{ name: string }>(
    db,
    sql`select distinct pubname as name from pg_publication_tables
        where schemaname = ${schema} and tablename = any(${sql.param(USER_TABLES)}::text[])
        order by pubname`,
  );
  return found.map(({ name }) => name);
}
