import { sql } from 'drizzle-orm';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { parseJson } from '../../src/json.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { rows } from '../../src/mirror/database.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

/** Number tokens that JSON allows and that are hard on somebody. */
const number = fc.oneof(
  fc.bigInt().map(String),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => JSON.stringify(value)),
  fc.constantFrom(
    '1e400',
    '-1E-400',
    '1e9999999',
    '1e-20000',
    `1${'0'.repeat(1000)}`,
    '-0',
    '1e05',
  ),
);
const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom('\0', 'a\0b', '\uD800', '\uDC00\uD800', '\\u0000', '\u{1F600}'),
);
/** JSON text of a value, with keys and numbers that JSON.stringify would never write. */
const json: fc.Arbitrary<string> = fc.letrec<{ value: string }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    number,
    text.map((value) => JSON.stringify(value)),
    fc.constantFrom('null', 'true', 'false'),
    fc.array(tie('value'), { maxLength: 4 }).map((members) => `[${members.join(',')}]`),
    fc
      .array(fc.tuple(text, tie('value')), { maxLength: 4 })
      .map((fields) => `{${fields.map(([key, v]) => `${JSON.stringify(key)}:${v}`).join(',')}}`),
  ),
})).value;

it('Postgres takes every column of every user', async () => {
  const fields = fc.record({
    email: json,
    loginIds: fc.array(json).map((members) => `[${members.join(',')}]`),
    customAttributes: fc.array(fc.tuple(text, json), { maxLength: 5 }),
    createdTime: json,
    extra: json,
  });
  await fc.assert(
    fc.asyncProperty(fields, async (user) => {
      const attributes = user.customAttributes.map(([key, v]) => `${JSON.stringify(key)}:${v}`);
      const body =
        `{"userId":"U1","email":${user.email},"loginIds":${user.loginIds},` +
        `"customAttributes":{${attributes.join(',')}},"createdTime":${user.createdTime},"x":${user.extra}}`;
      const row = toUserRow(parseJson(body));
      const [stored] = await rows<{ same: boolean }>(
        database.mirror.db,
        sql`select ${row?.raw}::jsonb -> 'customAttributes' = ${row?.customAttributes}::jsonb
            and ${row?.email}::text is not distinct from ${row?.email}
            and (${row?.createdTime}::timestamptz is null) = ${row?.createdTime === null}
            and cardinality(array[${sql.join(
              [...(row?.loginIds ?? []), 'x'].map((id) => sql`${id}`),
              sql`, `,
            )}]::text[]) > 0 as same`,
      );
      expect(stored?.same).toBe(true);
    }),
    { numRuns: 300 },
  );
});
