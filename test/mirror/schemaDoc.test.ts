import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { createTestDatabase, type TestDatabase } from '../support/database.ts';

const ROOT = join(import.meta.dirname, '../..');

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

/** Whatever psql would show without a word: relations, columns, functions. */
async function listUncommented(): Promise<string[]> {
  const { rows } = await database.mirror.pool.query<{ name: string }>(`
    select c.relname || coalesce('.' || a.attname, '') as name
    from pg_class c
      left join lateral (
        select attnum, attname from pg_attribute
        where attrelid = c.oid and attnum > 0 and not attisdropped
        union all select 0, null) as a on true
    where c.relnamespace = 'descope'::regnamespace and c.relkind in ('r', 'v')
      and coalesce(case a.attnum when 0 then obj_description(c.oid, 'pg_class')
                   else col_description(c.oid, a.attnum) end, '') = ''
    union all
    select proname || '()' from pg_proc
    where pronamespace = 'descope'::regnamespace and coalesce(obj_description(oid, 'pg_proc'), '') = ''
    order by 1`);
  return rows.map(({ name }) => name);
}

test('every table, view, column and function says in the database what it is for', async () => {
  expect(await listUncommented()).toEqual([]);
});

test('docs/schema.md is what the schema and its comments say', async () => {
  const check = promisify(execFile)(
    process.execPath,
    [join(ROOT, 'scripts/schemaDoc.js'), '--check'],
    {
      env: { PATH: process.env['PATH'], DATABASE_URL: database.url },
    },
  );
  expect(await check).toMatchObject({ stderr: '' });
});

test('a page that lacks a column is found out of date', async () => {
  await database.mirror.pool.query('alter table descope.learnt add column more text');
  expect(await listUncommented()).toEqual(['learnt.more']);
  await expect(
    promisify(execFile)(process.execPath, [join(ROOT, 'scripts/schemaDoc.js'), '--check'], {
      env: { PATH: process.env['PATH'], DATABASE_URL: database.url },
    }),
  ).rejects.toThrow('npm run docs:schema');
});
