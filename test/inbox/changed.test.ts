import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  findChange,
  isAskedFor,
  parseAskedChange,
  whereMayBeAskedFor,
  type AskedChange,
} from '../../src/inbox/changed.ts';
import { toCanonicalJson, toStorableText } from '../../src/json.ts';
import { rows } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

function asked(text: string): AskedChange {
  const parsed = parseAskedChange(text);
  if (parsed === null) throw new Error(`${text} asks for nothing`);
  return parsed;
}

const tenantRoles = { removed_multi_tenant_roles: { T2acme: [{ id: 'ROL2x', name: 'viewer' }] } };

describe('a change that is asked for', () => {
  test.each([
    ['roleNames', { added_roles: ['admin'] }, true],
    ['roles', { roleNames: [] }, true],
    ['roleNames', { removed_roles: ['admin'] }, true],
    ['roleNames', tenantRoles, true],
    ['roleNames=viewer', tenantRoles, true],
    ['roleNames=editor', tenantRoles, false],
    ['userTenants=T2acme', tenantRoles, true],
    ['removed_roles', { added_roles: ['admin'] }, false],
    ['addedRoles=admin', { added_roles: ['viewer', 'admin'] }, true],
    ['added_roles=adm', { added_roles: ['admin'] }, false],
    ['givenName', { given_name: 'Ada' }, true],
    ['given_name=Ada', { givenName: 'Ada' }, true],
    ['name', { display_name: 'Ada' }, true],
    ['name', { given_name: 'Ada' }, false],
    ['customAttributes', { custom_attribute_plan: 'pro' }, true],
    ['customAttributes', { customAttributes: { plan: 'pro' } }, true],
    ['custom_attribute_plan=pro', { custom_attribute_plan: 'pro' }, true],
    ['custom_attribute_plan', { custom_attribute_seats: 3 }, false],
    ['customAttributes=3', { custom_attribute_seats: 3 }, true],
    ['verifiedEmail=true', { verified_email: true }, true],
    ['status= disabled ', { status: 'disabled' }, true],
    ['status=', { status: 'disabled' }, true],
    ['email', null, false],
  ])('%s of %j: %j', (text, change, expected) => {
    expect(isAskedFor(change, asked(text))).toBe(expected);
  });

  test.each(['', ' ', '=admin', '_'])('%j names no field', (text) => {
    expect(parseAskedChange(text)).toBeNull();
  });
});

test.each([
  ['formA-array.json', (body: unknown[]) => body[0], ['custom_attribute_lastPasswordReset']],
  ['formA-array.json', (body: unknown[]) => body[1], []],
  ['formB-snakeCase.json', (body: unknown) => body, []],
  ['formC-excerpt.json', (body: unknown) => body, ['given_name', 'removed_multi_tenant_roles']],
  ['formF-auditSearch.json', (body: { audits: unknown[] }) => body.audits[0], ['given_name']],
  ['formG-sentinel.json', (body: unknown[]) => body[0], ['given_name']],
])('what a record of %s says was changed', (file, find, expected) => {
  const path = join(import.meta.dirname, '../fixtures/webhooks', file);
  const body = JSON.parse(readFileSync(path, 'utf8')) as never;
  expect(Object.keys(findChange(find(body)) ?? {})).toEqual(expected);
});

describe('the condition for Postgres', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createTestDatabase();
  });
  afterAll(() => database.drop());

  async function mayBe(record: unknown, text: string): Promise<boolean | undefined> {
    const [row] = await rows<{ may: boolean }>(
      database.mirror.db,
      sql`select ${whereMayBeAskedFor(asked(text))} as may
          from (select ${toCanonicalJson(record)}::jsonb as payload) as event`,
    );
    return row?.may;
  }

  const value = fc.oneof(
    fc.constantFrom('admin', 'Ada "the" \\ first', 'Zoë\n', '%', "o'brien", ''),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.string({ unit: 'binary' }),
  );
  const field = fc.oneof(
    fc.constantFrom('added_roles', 'roleNames', 'Custom_Attribute_plan', 'custom attribute Plan'),
    fc.constantFrom('given_name', 'display_name', 'userTenants', 'custom_attribute_Ä%'),
    fc.string(),
  );
  const change = fc.dictionary(
    field,
    fc.oneof(value, fc.array(value), fc.dictionary(fc.constantFrom('T2acme', 'name'), value)),
  );
  const record = fc.oneof(
    ...['Change', 'change'].map((name) =>
      change.map((told) => ({ data: { [name]: told, correlation_id: 'x' } })),
    ),
    change.map((told) => ({ Change: told })),
    change.map((told) => ({ Change: told, data: { correlation_id: 'x' } })),
    change.map((told) => ({ Data: JSON.stringify({ Change: told }) })),
    change.map((told) => ({ data: JSON.stringify({ Change: told }) })),
    fc.jsonValue().map((data) => ({ data })),
  );

  test('lets everything through that is asked for', async () => {
    await fc.assert(
      fc.asyncProperty(record, field, fc.option(value), async (told, name, held) => {
        const text = toStorableText(held === null ? name : `${name}=${String(held)}`);
        fc.pre(parseAskedChange(text) !== null);
        const stored = JSON.parse(toCanonicalJson(told)) as unknown;
        if (isAskedFor(findChange(stored), asked(text))) {
          expect(await mayBe(told, text)).toBe(true);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test('and hardly anything else', async () => {
    const told = { data: { Change: { added_roles: ['admin'], given_name: 'Ada' } } };
    expect(await mayBe(told, 'roleNames=admin')).toBe(true);
    expect(await mayBe(told, 'roleNames=viewer')).toBe(false);
    expect(await mayBe(told, 'email')).toBe(false);
    expect(await mayBe(told, 'customAttributes')).toBe(false);
    expect(await mayBe({ data: { correlation_id: 'x' } }, 'email')).toBe(false);
    expect(await mayBe({ data: {} }, 'email')).toBe(false);
  });
});
