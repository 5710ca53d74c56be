import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { UsageError } from '../../src/errors.ts';
import { migrateMirror } from '../../src/mirror/migrate.ts';
import { realUserIds, type Scene } from '../support/world.ts';
import { filled, runRebuild, tables } from './rebuildScene.ts';

/** What an operator may have added to the tables, and built upon them. */
const ADDED = [
  // To the tables themselves.
  `alter table descope.users add column plan text
     generated always as (custom_attributes ->> 'plan') stored`,
  'create index users_plan on descope.users (plan, lower(email)) where deleted_at is null',
  `create index "Users of a name that is as long as Postgres allows, and quoted" on descope.users (name)`,
  `alter table descope.users add constraint users_have_ids check (user_id <> '')`,
  'alter table descope.users alter column raw set storage external',
  'alter table descope.users alter column email set statistics 500',
  'alter table descope.users set (fillfactor = 80, toast.autovacuum_enabled = false)',
  'create statistics descope.users_names on given_name, family_name from descope.users',
  "comment on table descope.users is 'Who is who'",
  "comment on column descope.users.plan is 'What they pay for'",
  "comment on index descope.users_plan is 'For the sales board'",
  'alter table descope.users replica identity full',
  // Who may do what.
  'grant select on descope.users to public',
  'grant update, delete on descope.user_tenants to pg_monitor with grant option',
  'grant select (email, plan), update (email) on descope.users to pg_read_all_stats',
  'alter table descope.users enable row level security',
  `create policy live_ones on descope.users as restrictive for select to pg_monitor, public
     using (deleted_at is null and user_id in (select user_id from descope.user_tenants))`,
  'create policy whatever on descope.users for update using (true) with check (not test)',
  // Triggers.
  `create function descope.heard() returns trigger language plpgsql as
     'begin perform pg_notify(''heard'', new.user_id); return new; end'`,
  `create trigger on_change after insert or update of email on descope.users
     for each row when (new.email is not null) execute function descope.heard()`,
  `create trigger off before delete on descope.users for each row execute function descope.heard()`,
  'alter table descope.users disable trigger off',
  "comment on trigger off on descope.users is 'not now'",
  // And what reads them.
  'create publication everyone for table descope.users, descope.user_tenants',
  'create schema app',
  `create view app.admins with (security_barrier) as
     select u.user_id, u.plan, t.tenant_id from descope.users u join descope.user_tenants t using (user_id)
     where 'admin' = any (t.role_names)`,
  'grant select on app.admins to public',
  "comment on view app.admins is 'of all tenants'",
  'create view app.live_admins as select a.* from app.admins a join descope.live_users using (user_id)',
  'create table app.notes (user_id text, note text)',
  `create policy own on app.notes using (exists (select from descope.user_tenants t
     where t.user_id = notes.user_id and t.tenant_id = current_setting('app.tenant', true)))`,
  `create function app.plan_of(text) returns text language sql stable
     begin atomic select plan from descope.users where user_id = $1; end`,
  `create function app.late(text) returns text language sql stable
     as 'select plan from descope.users where user_id = $1'`,
];

/** All that the catalogue says of what is called `users` and `user_tenants`, and of what is bound to them. */
const DESCRIPTION = `
  with ours as (select c.* from pg_class c
                where oid in ('descope.users'::regclass, 'descope.user_tenants'::regclass))
  select 'class' as kind, concat_ws(' ', relname, relpersistence, relreplident, relrowsecurity,
           relforcerowsecurity, relowner::regrole, reloptions::text,
           (select t.reloptions::text from pg_class t where t.oid = ours.reltoastrelid),
           (select string_agg(x::text, ' ' order by x::text) from unnest(relacl) x),
           obj_description(oid, 'pg_class')) as line from ours
  union all
  select 'column', concat_ws(' ', relname, attname, format_type(atttypid, atttypmod), attnotnull,
           attgenerated, attstorage, coalesce(attstattarget, -1), attacl::text,
           pg_get_expr(adbin, adrelid), col_description(ours.oid, attnum))
    from ours join pg_attribute on attrelid = ours.oid
    left join pg_attrdef on adrelid = ours.oid and adnum = attnum where attnum > 0
  union all
  select 'index', concat_ws(' ', pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class'),
                            indisprimary)
    from ours join pg_index on indrelid = ours.oid
  union all
  select 'constraint', concat_ws(' ', relname, conname, pg_get_constraintdef(k.oid))
    from ours join pg_constraint k on conrelid = ours.oid
  union all
  select 'policy', concat_ws(' ', polname, polrelid::regclass, polcmd, polpermissive, polroles::text,
           pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) from pg_policy
  union all
  select 'trigger', concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled, obj_description(t.oid, 'pg_trigger'))
    from ours join pg_trigger t on tgrelid = ours.oid
  union all
  select 'statistics', pg_get_statisticsobjdef(s.oid) from ours join pg_statistic_ext s on stxrelid = ours.oid
  union all
  select 'published', concat_ws(' ', pubname, schemaname, tablename) from pg_publication_tables
  union all
  select 'view', concat_ws(' ', v.oid, v.relname, v.reloptions::text, v.relacl::text, pg_get_viewdef(v.oid),
                           obj_description(v.oid, 'pg_class'))
    from pg_class v where relkind = 'v' and relnamespace in ('descope'::regnamespace, 'app'::regnamespace)
  union all
  select distinct 'reads', concat_ws(' ', v.relname, refobjid::regclass)
    from pg_depend join pg_rewrite r on classid = 'pg_rewrite'::regclass and r.oid = objid
    join pg_class v on v.oid = ev_class
    where refclassid = 'pg_class'::regclass and relnamespace in ('descope'::regnamespace, 'app'::regnamespace)
  union all
  select distinct 'function', concat_ws(' ', p.oid, proname, refobjid::regclass)
    from pg_depend join pg_proc p on classid = 'pg_proc'::regclass and p.oid = objid
    where refclassid = 'pg_class'::regclass
  order by kind, line`;

async function add(s: Scene, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await s.database.mirror.db.execute(sql.raw(statement));
}

const describeAll = (s: Scene) => s.query<{ kind: string; line: string }>(sql.raw(DESCRIPTION));

describe('all that belongs to the tables', () => {
  it('belongs to the new ones after the swap, and to the old ones again after going back', async () => {
    const s = await filled({ simulator: { users: 120 } });
    await add(s, ADDED);
    const before = await describeAll(s);
    expect(new Set(before.map(({ kind }) => kind)).size).toBe(11);
    const oid = () => s.query(sql`select 'descope.users'::regclass::oid as oid`);
    const first = await oid();

    const done = await runRebuild(s);
    expect(done.exitCode).toBe(0);
    expect(done.json()).toMatchObject({ counts: { missing: 0, extra: 0, different: 0 } });
    expect(await describeAll(s)).toEqual(before);
    expect(await oid()).not.toEqual(first);
    await s.assertEqual();

    // What is put aside is its owner's, and that of roles which write rows as the service does; nothing fires there.
    const bare = sql`
      select c.relname,
             (select count(*)::int from aclexplode(relacl) where grantee <> relowner) as grants,
             (select count(*)::int from pg_trigger where tgrelid = c.oid) as triggers
      from pg_class c where relname like '%_previous' and relkind = 'r' order by 1`;
    expect(await s.query(bare)).toEqual([
      { relname: 'user_tenants_previous', grants: 2, triggers: 0 },
      { relname: 'users_previous', grants: 0, triggers: 0 },
    ]);

    expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);
    expect(await describeAll(s)).toEqual(before);
    expect(await oid()).toEqual(first);
    // A later version's migrations, and another rebuild, find the names they expect.
    await migrateMirror({ databaseUrl: s.database.url, schema: 'descope' });
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await describeAll(s)).toEqual(before);
  });

  it('is read through views and functions from the new ones', async () => {
    const s = await filled({ simulator: { users: 60 } });
    await add(s, ADDED);
    const [userId = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(
      userId,
      { customAttributes: { plan: 'platinum' } },
      { event: false, moveModifiedTime: false },
    );
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(
      await s.query(sql`select plan, app.plan_of(user_id) as parsed, app.late(user_id) as late
                        from descope.users where user_id = ${userId}`),
    ).toEqual([{ plan: 'platinum', parsed: 'platinum', late: 'platinum' }]);
  });

  it('as it is at the swap: what was added after the rebuild had begun makes it begin anew', async () => {
    const s = await filled({ simulator: { users: 120 } });
    const { t, db } = s.database.mirror;
    expect((await runRebuild(s, 'dryRun')).exitCode).toBe(0);
    await add(s, ADDED.slice(0, 3));
    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await s.query(sql`select plan from descope.users limit 1`)).toHaveLength(1);
    const runs = await s.query(
      sql`select outcome, error from ${t.syncRuns} where pull = 'rebuild' order by run_id`,
    );
    expect(runs).toMatchObject([
      { outcome: 'blocked', error: 'users has changed: begun anew' },
      { outcome: 'complete' },
    ]);
    // What was put aside has never heard of a later column: there is no way back.
    await db.execute(sql`alter table descope.users drop column plan`);
    await expect(runRebuild(s, 'rollback')).rejects.toThrow(/not in both: column users\.plan/);
    expect(await tables(s)).toEqual(['users', 'users_previous']);
  });

  const OBSTACLES: readonly (readonly [what: string, statement: string, told: RegExp])[] = [
    [
      'a materialized view',
      'create materialized view descope.counted as select count(*) from descope.users',
      /rule _RETURN on materialized view descope\.counted/,
    ],
    [
      'a foreign key of another table',
      'create table descope.mine (user_id text references descope.users)',
      /constraint mine_user_id_fkey on table descope\.mine/,
    ],
    [
      'a column that nobody fills',
      'alter table descope.users add column note text',
      /column note of table users is no generated one/,
    ],
    [
      'a function that returns rows of the table',
      `create function descope.all_users() returns setof descope.users language sql
         as 'select * from descope.users'`,
      /function descope\.all_users\(\)/,
    ],
    [
      'a column of the row type',
      'create table descope.kept (at timestamptz, was descope.users)',
      /column was of table descope\.kept/,
    ],
    [
      'a table that inherits',
      'create table descope.more () inherits (descope.users)',
      /users is partitioned or inherits/,
    ],
  ];

  it.each(OBSTACLES)('is refused before anything is read: %s', async (_what, statement, told) => {
    const s = await filled({ simulator: { users: 5 } });
    await add(s, [statement]);
    const searches = s.simulator.requests.countOf('userSearch');
    const refused = runRebuild(s);
    await expect(refused).rejects.toThrow(told);
    await expect(refused).rejects.not.toBeInstanceOf(UsageError);
    expect(s.simulator.requests.countOf('userSearch')).toBe(searches);
    expect(await tables(s)).toEqual(['users']);
  });
});
