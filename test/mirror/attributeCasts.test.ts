import { randomBytes } from 'node:crypto';

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { toCanonicalJson } from '../../src/json.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await database.mirror.pool.query(
    NAMES.map(
      (name) =>
        `create index on descope.users using ${name === 'text_array' ? 'gin' : 'btree'}
         (descope.attribute_${name}(custom_attributes, 'x'))`,
    ).join(';'),
  );
});
afterAll(() => database.drop());

const LONG = randomBytes(20_000).toString('base64');
const NAMES = ['text', 'boolean', 'integer', 'bigint', 'numeric', 'timestamptz', 'text_array'];

/** The value as text, an instant in UTC. */
async function cast(name: string, value: unknown): Promise<string | null> {
  const inUtc = name === 'timestamptz' ? `at time zone 'UTC'` : '';
  const { rows } = await database.mirror.pool.query<{ told: string | null }>(
    `select (descope.attribute_${name}($1::jsonb, 'x') ${inUtc})::text as told`,
    [JSON.stringify({ x: value })],
  );
  return rows[0]?.told ?? null;
}

describe('a custom attribute', () => {
  test.each(['integer', 'bigint', 'numeric', 'timestamptz'])(
    'of digits that are not ours is no %s where the database sorts by ICU either',
    async (name) => {
      const { rows } = await database.mirror.pool.query<{ told: unknown }>(
        `select descope.attribute_${name}($1::jsonb, 'x' collate "und-x-icu") as told`,
        [JSON.stringify({ x: '\u0661\u0662' })],
      );
      expect(rows).toEqual([{ told: null }]);
    },
  );

  test.each<[string, unknown, string | null]>([
    ['text', 'pro', 'pro'],
    ['text', 12.5, '12.5'],
    ['text', ['a'], null],
    ['text', 'x'.repeat(2_001), null],
    ['boolean', true, 'true'],
    ['boolean', ' No ', 'false'],
    ['boolean', 2, null],
    ['integer', 30, '30'],
    ['integer', '-7', '-7'],
    ['integer', 1.5, null],
    ['integer', 2_147_483_648, null],
    ['bigint', 2_147_483_648, '2147483648'],
    ['bigint', '9223372036854775808', null],
    ['bigint', 'many', null],
    ['numeric', '1.50', '1.50'],
    ['numeric', '1e3', '1000'],
    ['numeric', 'NaN', null],
    ['numeric', true, null],
    ['timestamptz', 1_780_949_905, '2026-06-08 20:18:25'],
    ['timestamptz', 1_780_949_905_871, '2026-06-08 20:18:25.871'],
    ['timestamptz', '2026-06-08', '2026-06-08 00:00:00'],
    ['timestamptz', '2026-06-08T20:18:25.871835+02:00', '2026-06-08 18:18:25.871835'],
    ['timestamptz', '2024-02-29T10:00Z', '2024-02-29 10:00:00'],
    ['timestamptz', '2026-06-08T20:18-05:30', '2026-06-09 01:48:00'],
    ['timestamptz', ' 2026-06-08t20:18:05+0200 ', '2026-06-08 18:18:05'],
    ['timestamptz', '2026-06-08T20:18:60Z', null],
    ['timestamptz', '2026-06-08T20:18+16:00', null],
    ['timestamptz', '2026-02-29', null],
    ['timestamptz', '2026-06-08T25:00Z', null],
    ['timestamptz', 'now', null],
    ['timestamptz', 'infinity', null],
    ['text_array', ['a', null, 1], '{a,1}'],
    ['text_array', 'a', '{a}'],
    ['text_array', [['a']], null],
    ['text_array', {}, null],
    ...NAMES.map((name): [string, unknown, null] => [name, null, null]),
  ])('as %s: %j is %s', async (name, value, expected) => {
    expect(await cast(name, value)).toBe(expected);
  });

  test('of no kind fails a read or a write, indexed as every type', async () => {
    const value = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(
        ...['1e400', '1e99999', '0x1F', '1_000', '٣', '٢٠٢٦-٠١-٠١', '2026-13-01', '0000-01-01'],
        ...['9999-12-31T23:59:59.9999999Z', '2026-01-01T00:00:60Z', '2026-01-01T00:00+99:99'],
        ...['x'.repeat(100_000), '9'.repeat(5_000), '-infinity', 'epoch', '', ' '],
      ),
      fc.integer({ min: -400, max: 400 }).map((power) => Number(`1e${power}`)),
      // Nothing that Postgres could compress to fit.
      fc.constantFrom(LONG, [LONG], `${LONG}Z`),
      fc.array(fc.string({ maxLength: 5_000 }), { maxLength: 3 }),
      fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
      fc.stringMatching(/^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?$/),
    );
    await fc.assert(
      fc.asyncProperty(value, async (x) => {
        await database.mirror.pool.query(
          `insert into descope.users (user_id, observed_at, changed_at, witness, custom_attributes)
           values ('U1', now(), now(), 'sweep', $1)
           on conflict (user_id) do update set custom_attributes = excluded.custom_attributes`,
          [toCanonicalJson({ x })],
        );
        const casts = NAMES.map((name) => `descope.attribute_${name}(custom_attributes, 'x')`);
        await database.mirror.pool.query(`select ${casts.join(', ')} from descope.users`);
      }),
      { numRuns: 300 },
    );
  });

  test('is cast alike whatever zone and style of dates a connection has', async () => {
    const client = await database.mirror.pool.connect();
    try {
      const told: unknown[] = [];
      for (const settings of [
        `set timezone = 'UTC'; set datestyle = 'ISO'`,
        `set timezone = 'Asia/Tokyo'; set datestyle = 'SQL, DMY'`,
      ]) {
        await client.query(settings);
        const { rows } = await client.query(
          `select extract(epoch from descope.attribute_timestamptz('{"x": "2026-06-08T20:18"}', 'x'))::text`,
        );
        told.push(rows);
      }
      expect(told[0]).toEqual(told[1]);
    } finally {
      client.release(true);
    }
  });
});
