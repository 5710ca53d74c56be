// Writes docs/schema.md from a migrated database and the comments in it. With --check it writes nothing and
// fails where the file is out of date. Takes the database of DATABASE_URL, or else an embedded one of its own.
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import pg from 'pg';
import { format, resolveConfig } from 'prettier';

const root = join(import.meta.dirname, '..');
const file = join(root, 'docs/schema.md');

/** What applications read comes first; what is not named here comes last, by name. */
const CHAPTERS = [
  [
    'What applications read',
    ['live_users', 'tenant_members', 'role_members', 'live_users_with_attributes', 'users'],
    ['user_tenants', 'user_changes', 'sync_status'],
  ],
  ['How it came to be so', ['events', 'deletions', 'watermarks', 'sync_runs', 'sync_windows']],
  ['Ours'],
];

const INTRODUCTION = `
# The schema

Everything that is in the schema of the mirror (\`MIRROR_SCHEMA\`, here \`descope\`). The comments are in the database too:
\`\\d+ descope.live_users\` in psql shows them. Their one source is \`src/mirror/migrations/comments.sql\`; \`npm run docs:schema\`
writes this page from a migrated database.
`;

const RELATIONS = `
  select c.relname as name, c.relkind = 'v' as "isView", obj_description(c.oid, 'pg_class') as about,
    (select json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
        'isNullable', c.relkind = 'r' and not a.attnotnull, 'about', col_description(c.oid, a.attnum))
        order by a.attnum)
     from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
    (select json_agg(pg_get_indexdef(i.indexrelid) order by i.indisprimary desc, i.indexrelid::regclass::text)
     from pg_index i where i.indrelid = c.oid) as indexes
  from pg_class c
  where c.relnamespace = 'descope'::regnamespace and c.relkind in ('r', 'v')
  order by c.relname`;

const FUNCTIONS = `
  select p.proname as name, pg_get_function_arguments(p.oid) as arguments,
    pg_get_function_result(p.oid) as result, obj_description(p.oid, 'pg_proc') as about
  from pg_proc p where p.pronamespace = 'descope'::regnamespace order by p.proname`;

async function render(client) {
  const { rows: relations } = await client.query(RELATIONS);
  const { rows: functions } = await client.query(FUNCTIONS);
  const parts = [INTRODUCTION];
  const named = new Set(CHAPTERS.flatMap(([, ...names]) => names.flat()));
  for (const [title, ...names] of CHAPTERS) {
    parts.push(`## ${title}`);
    const listed = names.flat().map((name) => relations.find((one) => one.name === name));
    const those = names.length > 0 ? listed : relations.filter(({ name }) => !named.has(name));
    parts.push(...those.map(toRelation));
  }
  parts.push('## Functions', ...functions.map(toFunction));
  const options = (await resolveConfig(file)) ?? {};
  return format(parts.join('\n\n'), { ...options, parser: 'markdown' });
}

function toRelation({ name, isView, about, columns, indexes }) {
  const rows = columns.map(({ name: column, type, isNullable, about: meaning }) =>
    [
      `\`${column}\``,
      shorten(type) + (isNullable ? ', null' : ''),
      (meaning ?? '').replaceAll('|', '\\|'),
    ].join(' | '),
  );
  const table = [
    `| column | type | meaning |`,
    `| --- | --- | --- |`,
    ...rows.map((row) => `| ${row} |`),
  ].join('\n');
  const built = (indexes ?? []).map((definition) => `- ${toIndex(definition)}`);
  const heading = `### ${name}\n\n${isView ? 'View. ' : ''}${about ?? ''}`;
  return [heading, table, ...(built.length > 0 ? [`Indexes:\n\n${built.join('\n')}`] : [])].join(
    '\n\n',
  );
}

/** What is indexed, and how; under which name is of no interest. */
function toIndex(definition) {
  const [, isUnique, how] = /^CREATE( UNIQUE)? INDEX .* USING (.*)$/.exec(definition) ?? [];
  return `\`${how}\`${isUnique ? ', primary key' : ''}`;
}

function toFunction({ name, arguments: given, result, about }) {
  return `### ${name}(${shorten(given)})\n\nReturns \`${shorten(result)}\`. ${about ?? ''}`;
}

function shorten(type) {
  return type.replaceAll('timestamp with time zone', 'timestamptz').replaceAll('descope.', '');
}

/** The schema of this checkout's build, in a Postgres that is gone afterwards. */
async function withDatabase(work) {
  if (process.env.DATABASE_URL !== undefined) return work(process.env.DATABASE_URL);
  const { startEmbeddedPostgres } = await import('../dist/src/mirror/embedded.js');
  const { migrateMirror } = await import('../dist/src/mirror/migrate.js');
  const folder = await mkdtemp(join(tmpdir(), 'rollcall-schema-'));
  const postgres = await startEmbeddedPostgres({ folder });
  try {
    await migrateMirror({ databaseUrl: postgres.url, schema: 'descope' });
    return await work(postgres.url);
  } finally {
    await postgres.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

const text = await withDatabase(async (connectionString) => {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    return await render(client);
  } finally {
    await client.end();
  }
});
if (!process.argv.includes('--check')) writeFileSync(file, text);
else if (readFileSync(file, 'utf8') !== text) {
  console.error('docs/schema.md is not what the schema and its comments say.');
  console.error('Run: npm run docs:schema');
  process.exitCode = 1;
}
