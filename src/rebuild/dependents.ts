import { sql, type SQL } from 'drizzle-orm';

import { rows, type Executor, type Mirror } from '../mirror/database.ts';
import { nameInFull, tablesOf, whereForeign } from './structure.ts';

/*
 * In: the catalogue. Out: what elsewhere in the database reads `users` or `user_tenants` and is bound to the
 * very tables, not to their names: views, ours and an operator's, policies of other tables, functions whose
 * body Postgres has parsed. Each with the statement that binds it to the tables of the same names, once more.
 */

/** Something that has to be bound again when the tables are swapped. */
export interface Dependent {
  readonly kind: 'view' | 'policy' | 'function';
  /** As Postgres writes it, with its schema. */
  readonly name: string;
  readonly statement: string;
  /** The relation that the statement locks; null for a function. */
  readonly relation: string | null;
  /** Locks that relation against everybody, and nothing that it reads; null for a function. */
  readonly lock: string | null;
  /** Why we may not; null where we may. */
  readonly refusal: string | null;
}

/** Everything that hangs on the tables or on their row types: `(classid, objid, objsubid, of_table, by_type)`. */
function hangingOn(schema: string): SQL {
  return sql`(
    select distinct d.classid, d.objid, d.objsubid, c.oid as of_table,
           d.refclassid = 'pg_type'::regclass as by_type
    from ${tablesOf(schema, '')} as ours join pg_class c using (oid) join pg_type t on t.oid = c.reltype
    join pg_depend d on (d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid)
                     or (d.refclassid = 'pg_type'::regclass and d.refobjid in (c.reltype, t.typarray)))`;
}

/** A reason where a role other than ours owns it, or we may not create anything in its schema. */
function refusalOf(owner: SQL, namespace: SQL): SQL {
  return sql`case
    when not pg_has_role(${owner}, 'USAGE') then 'it belongs to ' || pg_get_userbyid(${owner})
    when pg_is_other_temp_schema(${namespace}) then 'it is a temporary one of another session'
    when not has_schema_privilege(${namespace}, 'CREATE') then 'we may create nothing in its schema'
  end`;
}

/** Read with names in full, before the tables are renamed; the statements are run after it. */
export async function listDependents(
  tx: Executor,
  { schema }: Pick<Mirror, 'schema'>,
): Promise<Dependent[]> {
  await nameInFull(tx);
  return rows<Dependent>(
    tx,
    sql`
      select distinct 'view' as kind, v.oid::regclass::text as name,
             format('create or replace view %s%s as %s', v.oid::regclass,
                    ' with (' || (select string_agg(format('%I=%L', option_name, option_value), ', ')
                                  from pg_options_to_table(v.reloptions)) || ')',
                    pg_get_viewdef(v.oid)) as statement,
             v.oid::regclass::text as relation,
             -- To where it is: to lock a view as a table locks whatever it reads, too.
             format('alter view %s set schema %s', v.oid::regclass, v.relnamespace::regnamespace)
               as lock,
             ${refusalOf(sql`v.relowner`, sql`v.relnamespace`)} as refusal
      from ${hangingOn(schema)} as h
      join pg_rewrite r on h.classid = 'pg_rewrite'::regclass and r.oid = h.objid
      join pg_class v on v.oid = r.ev_class and v.relkind = 'v'
      union all
      select distinct 'policy', format('%I on %s', polname, polrelid::regclass),
             format('alter policy %I on %s%s%s', polname, polrelid::regclass,
                    ' using (' || pg_get_expr(polqual, polrelid) || ')',
                    ' with check (' || pg_get_expr(polwithcheck, polrelid) || ')'),
             polrelid::regclass::text,
             format('lock table only %s in access exclusive mode', polrelid::regclass),
             ${refusalOf(sql`c.relowner`, sql`c.relnamespace`)}
      from ${hangingOn(schema)} as h
      join pg_policy p on h.classid = 'pg_policy'::regclass and p.oid = h.objid
      join pg_class c on c.oid = polrelid
      where polrelid not in (select oid from ${tablesOf(schema, '')} as ours)
      union all
      select distinct 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid), null, null,
             ${refusalOf(sql`p.proowner`, sql`p.pronamespace`)}
      from ${hangingOn(schema)} as h
      join pg_proc p on h.classid = 'pg_proc'::regclass and p.oid = h.objid and not h.by_type
      where p.prosqlbody is not null
      order by kind, name`,
  );
}

/**
 * What keeps the tables that a rebuild has replaced from being dropped, a line each: whatever somebody has
 * made that reads them. Empty where nothing does.
 */
export async function listKeepers(
  tx: Executor,
  { schema }: Pick<Mirror, 'schema'>,
): Promise<string[]> {
  const found = await rows<{ line: string }>(
    tx,
    sql`
      with ours as materialized (select name, oid from ${tablesOf(schema, '_previous')} as previous)
      select distinct coalesce(v.oid::regclass::text, pg_describe_object(d.classid, d.objid, d.objsubid))
             || ' reads ' || ours.name || '_previous, which is to be dropped' as line
      from ours join pg_class c using (oid) join pg_type y on y.oid = c.reltype
      join pg_depend d on d.deptype = 'n'
        and ((d.refclassid = 'pg_class'::regclass and d.refobjid = ours.oid)
             or (d.refclassid = 'pg_type'::regclass and d.refobjid in (c.reltype, y.typarray)))
      left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      left join pg_class v on v.oid = r.ev_class
      -- What belongs to the two tables is dropped with them.
      where not exists (
        select from ours as own where own.oid in (
          (select polrelid from pg_policy p where d.classid = 'pg_policy'::regclass and p.oid = d.objid),
          (select conrelid from pg_constraint o where d.classid = 'pg_constraint'::regclass and o.oid = d.objid),
          (select adrelid from pg_attrdef a where d.classid = 'pg_attrdef'::regclass and a.oid = d.objid),
          (select tgrelid from pg_trigger g where d.classid = 'pg_trigger'::regclass and g.oid = d.objid),
          (select indrelid from pg_index i where d.classid = 'pg_class'::regclass and i.indexrelid = d.objid)))
      order by line`,
  );
  return found.map(({ line }) => line);
}

/**
 * Why the tables cannot be swapped for others, a line each: what is bound to them and cannot be bound again,
 * and what a copy of them would not have. Empty where nothing is in the way.
 */
export async function listObstacles(
  tx: Executor,
  mirror: Pick<Mirror, 'schema' | 't'>,
): Promise<string[]> {
  const { schema } = mirror;
  const refused = (await listDependents(tx, mirror))
    .filter(({ refusal }) => refusal !== null)
    .map(({ kind, name, refusal }) => `${kind} ${name}: ${refusal ?? ''}`);
  const found = await rows<{ line: string }>(
    tx,
    sql`
      select distinct pg_describe_object(classid, objid, objsubid) as line
      from ${hangingOn(schema)} as h
      where not (${whereCarried})
      union all
      select format('column %I of table %I is no generated one: its values would be lost', attname, name)
      from ${tablesOf(schema, '')} as ours join pg_attribute on attrelid = oid
      where ${whereForeign(mirror)}
      union all
      select format('table %I is partitioned or inherits', name)
      from ${tablesOf(schema, '')} as ours join pg_class c using (oid)
      where relkind <> 'r' or relispartition
         or exists (select from pg_inherits where inhrelid = c.oid or inhparent = c.oid)
      union all
      select format('publication %I, which filters columns or rows of %I', pubname, name)
      from ${tablesOf(schema, '')} as ours join pg_publication_rel r on prrelid = ours.oid
      join pg_publication p on p.oid = prpubid
      where to_jsonb(r) ->> 'prqual' is not null or to_jsonb(r) ->> 'prattrs' is not null
      union all
      select format('publication %I: it belongs to %s', pubname, pg_get_userbyid(pubowner))
      from ${tablesOf(schema, '')} as ours join pg_publication_rel r on prrelid = ours.oid
      join pg_publication p on p.oid = prpubid where not pg_has_role(pubowner, 'USAGE')
      union all
      select format('security label on table %I', name)
      from ${tablesOf(schema, '')} as ours join pg_seclabel on objoid = ours.oid
      order by line`,
  );
  return [...refused, ...found.map(({ line }) => line)];
}

/** Of what hangs on a table: what is a part of it, follows it to another, or is bound again. */
const whereCarried = sql`
  classid in ('pg_type'::regclass, 'pg_attrdef'::regclass, 'pg_policy'::regclass,
              'pg_publication_rel'::regclass, 'pg_statistic_ext'::regclass)
  or (classid = 'pg_class'::regclass
      and exists (select from pg_class where oid = objid and relkind in ('i', 't')))
  or (classid = 'pg_constraint'::regclass
      and exists (select from pg_constraint where oid = objid and conrelid = of_table and contype <> 'f'))
  or (classid = 'pg_trigger'::regclass
      and exists (select from pg_trigger where oid = objid and tgrelid = of_table))
  or (classid = 'pg_rewrite'::regclass
      and exists (select from pg_rewrite r join pg_class v on v.oid = ev_class
                  where r.oid = objid and v.relkind = 'v'))
  or (classid = 'pg_proc'::regclass and not by_type
      and exists (select from pg_proc where oid = objid and prosqlbody is not null))`;
