import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import * as attributes from '../../src/commands/attributes.ts';
import { UsageError } from '../../src/errors.ts';
import { restoreAttributes, withAttributeStore } from '../../src/mirror/attributes.ts';
import { migrateMirror } from '../../src/mirror/migrate.ts';
import { eventually } from '../support/eventually.ts';
import { look } from '../support/look.ts';
import { createScene, type Scene } from '../support/world.ts';
import { runCommand } from './context.ts';

import type { CommandOptions } from '../../src/commands/command.ts';

let scene: Scene;
beforeEach(async () => {
  scene = await createScene({ simulator: { users: 1 } });
});
afterEach(() => scene.stop());

const rollcall = (options: CommandOptions) =>
  runCommand(attributes, scene, options, { json: true });
const add = (name: string, type: string, more: CommandOptions = {}) =>
  rollcall({ action: 'add', name, type, ...more });

async function query<Row extends object>(statement: string): Promise<Row[]> {
  return (await scene.database.mirror.pool.query<Row>(statement)).rows;
}

const INDEXES = `select 1 from pg_indexes where tablename = 'users' and indexdef like '%custom_attributes%'`;

const planOf = async (statement: string) =>
  (await query(`explain ${statement}`)).map((line) => Object.values(line).join()).join('\n');

/** Users with a plan each, one in a hundred a pro. */
async function fill(): Promise<void> {
  await query(`
    insert into descope.users (user_id, observed_at, changed_at, witness, custom_attributes)
    select 'X' || n, now(), now(), 'sweep', jsonb_build_object(
      'plan', case when n % 100 = 0 then 'pro' else 'free' end, 'seats', n, 'signedUp', 1700000000 + n,
      'tags', jsonb_build_array('t' || n % 500))
    from generate_series(1, 20000) as n`);
  await query('vacuum analyze descope.users');
}

const filenode = async () =>
  (await query<{ file: string }>(`select pg_relation_filenode('descope.users') as file`))[0]?.file;

describe('rollcall attributes', () => {
  it('makes a custom attribute a typed column that is read by its index, and rewrites no table', async () => {
    await fill();
    const before = await filenode();
    const added = await add('plan', 'text', { index: true });
    await add('seats', 'integer', { index: true });
    await add('signedUp', 'timestamptz', { index: true });
    await add('tags', 'text[]', { index: true });

    expect(added.json()).toEqual({
      added: { name: 'plan', column: 'plan', type: 'text', indexed: true, index: 'ready' },
    });
    expect(await filenode()).toBe(before);
    for (const condition of [
      `plan = 'pro'`,
      'seats between 10 and 20',
      `signed_up < '2023-11-14T22:14Z'`,
      `tags @> array['t7']`,
    ]) {
      const asked = `select user_id, email, plan from descope.live_users_with_attributes where ${condition}`;
      expect(await planOf(asked)).toMatch(/Index Scan/);
      expect((await query(asked)).length).toBeGreaterThan(0);
    }
    const [one] = await query(`
      select plan, seats, signed_up, tags, pg_typeof(seats)::text as type
      from descope.live_users_with_attributes where user_id = 'X100'`);
    expect(one).toEqual({
      ...{ plan: 'pro', seats: 100, tags: ['t100'], type: 'integer' },
      signed_up: new Date(1_700_000_100_000),
    });
  });

  it('changes nothing when it is done twice, and says what is there', async () => {
    await add('plan', 'text');
    const twice = await add('plan', 'text', { index: true });
    expect((await add('plan', 'text', { index: true })).json()).toEqual(twice.json());
    await add('signupDate', 'timestamptz', { as: 'signed_up' });
    const { stdout } = await runCommand(attributes, scene, { action: 'list' });
    expect(stdout.map((line) => line.split(/ {2,}/))).toEqual([
      ['attribute', 'column', 'type', 'index'],
      ['plan', 'plan', 'text', 'ready'],
      ['signupDate', 'signed_up', 'timestamptz', 'none'],
    ]);
    const indexes = await query(INDEXES);
    expect(indexes).toHaveLength(1);
  });

  it('removes column and index, keeps the others, and the grants', async () => {
    await add('plan', 'text', { index: true });
    await add('seats', 'integer');
    await query('grant select on descope.live_users_with_attributes to public');
    await rollcall({ action: 'remove', name: 'plan' });

    expect(await query('select seats from descope.live_users_with_attributes')).toEqual([]);
    await expect(query('select plan from descope.live_users_with_attributes')).rejects.toThrow();
    expect(await query(INDEXES)).toEqual([]);
    expect(
      await query(
        `select has_table_privilege('public', 'descope.live_users_with_attributes', 'select') as kept`,
      ),
    ).toEqual([{ kept: true }]);
    await expect(rollcall({ action: 'remove', name: 'plan' })).rejects.toThrow(UsageError);
  });

  it('keeps nobody from writing while the index is built, and mends one that was interrupted', async () => {
    await look(scene.database.mirror, { U1: {}, U2: {} });
    const holder = await scene.database.mirror.pool.connect();
    await holder.query(`begin; update descope.users set name = 'Ada' where user_id = 'U1'`);
    const building = add('plan', 'text', { index: true });
    const [builder] = await eventually(async () => {
      const found = await query<{ pid: number }>(`
        select pid from pg_stat_activity
        where query like 'create index concurrently%' and wait_event_type = 'Lock'`);
      expect(found).toHaveLength(1);
      return found;
    });
    // The build waits for whoever was there first. Nobody waits for the build.
    await query(
      `set lock_timeout = '2s'; update descope.users set name = 'Alan' where user_id = 'U2'`,
    );
    await query(`select pg_cancel_backend(${builder?.pid ?? 0})`);
    await expect(building).rejects.toThrow();
    await holder.query('commit');
    holder.release();

    expect((await rollcall({ action: 'list' })).json()).toMatchObject({
      attributes: [{ name: 'plan', index: 'broken' }],
    });
    expect((await add('plan', 'text', { index: true })).json()).toMatchObject({
      added: { index: 'ready' },
    });
    expect(
      await query(`select 1 from pg_index where not indisvalid`),
      'no half-built index is left',
    ).toEqual([]);
  });

  it('outlives a migration that gives users another column', async () => {
    await add('plan', 'text', { index: true });
    await add('seats', 'integer');
    await query('grant select on descope.live_users_with_attributes to public');
    await query('alter table descope.users add column seats int');
    await query(
      'create or replace view descope.live_users as select * from descope.users where deleted_at is null',
    );
    await withAttributeStore(
      { databaseUrl: scene.database.url, schema: 'descope' },
      async (store) => {
        await store.client.query('begin');
        await restoreAttributes(store);
        await store.client.query('commit');
      },
    );
    expect(
      await query(`
        select column_name as name from information_schema.columns
        where table_name = 'live_users_with_attributes' and ordinal_position > 25 order by ordinal_position`),
    ).toEqual(['witness', 'seats', 'plan', 'attribute_seats'].map((name) => ({ name })));
    // A restart finds nothing to do.
    expect(await migrateMirror({ databaseUrl: scene.database.url, schema: 'descope' })).toEqual({
      applied: 0,
    });
  });

  it.each<[string, string, CommandOptions, RegExp]>([
    ['a name in quotes', `pl'an`, { type: 'text' }, /letters, digits/],
    ['another type', 'plan', { type: 'uuid' }, /one of text, boolean/],
    [
      'a column of users',
      'email',
      { type: 'text' },
      /users have a column email of their own.*--as/,
    ],
    ['a column with blanks', 'plan', { type: 'text', as: 'my plan' }, /a-z, 0-9 and _/],
    ['another type than before', 'seats', { type: 'text' }, /there already, as integer/],
    ['the column of another', 'Seats', { type: 'text' }, /seats is the column seats already/],
  ])('refuses %s, and says what to do', async (_, name, more, mistake) => {
    await add('seats', 'integer');
    const refused = rollcall({ action: 'add', name, ...more });
    await expect(refused).rejects.toThrow(UsageError);
    await expect(refused).rejects.toThrow(mistake);
  });

  it('says who reads a column that is to go', async () => {
    await add('plan', 'text');
    await query('create view public.pros as select plan from descope.live_users_with_attributes');
    await expect(rollcall({ action: 'remove', name: 'plan' })).rejects.toThrow(
      'other views read descope.live_users_with_attributes: drop them first',
    );
    expect((await rollcall({ action: 'list' })).json()).toMatchObject({
      attributes: [{ name: 'plan' }],
    });
  });
});
