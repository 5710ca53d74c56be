import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { parseJson } from '../../src/json.ts';
import { toUserRow } from '../../src/descope/users.ts';

const ADA = {
  loginIds: ['ada@example.com', '+15550100'],
  userId: 'U2bq0000000000000000000000001',
  name: 'Ada L',
  givenName: 'Ada',
  middleName: '',
  familyName: 'L',
  email: 'ada@example.com',
  phone: '+15550100',
  verifiedEmail: true,
  verifiedPhone: false,
  roleNames: ['admin'],
  permissions: [],
  userTenants: [
    { tenantId: 'T2x', tenantName: 'Acme', roleNames: ['viewer'], permissions: [] },
    { tenantId: 'T2x', tenantName: 'Acme again', roleNames: [], permissions: [] },
    { tenantName: 'without an id' },
    null,
  ],
  status: 'enabled',
  externalIds: ['ada@example.com'],
  picture: '',
  test: false,
  customAttributes: { plan: 'pro', age: 30, beta: true, tags: ['a'] },
  createdTime: 1700000000,
  TOTP: false,
  ssoAppIds: null,
};

describe('a user of the API', () => {
  it('becomes a row with every documented column', () => {
    expect(toUserRow(ADA)).toMatchObject({
      userId: 'U2bq0000000000000000000000001',
      loginIds: ['ada@example.com', '+15550100'],
      externalIds: ['ada@example.com'],
      email: 'ada@example.com',
      phone: '+15550100',
      name: 'Ada L',
      givenName: 'Ada',
      familyName: 'L',
      status: 'enabled',
      verifiedEmail: true,
      verifiedPhone: false,
      test: false,
      roleNames: ['admin'],
      ssoAppIds: [],
      createdTime: '2023-11-14T22:13:20.000Z',
      modifiedTime: null,
    });
  });

  it('has null where Descope sends an empty text, and keeps the text in raw', () => {
    const row = toUserRow(ADA);
    expect(row).toMatchObject({ middleName: null, picture: null });
    expect(row?.raw).toContain('"middleName":""');
  });

  it('belongs to a tenant once, however often it is listed', () => {
    expect(toUserRow(ADA)?.tenants).toEqual([
      { tenantId: 'T2x', tenantName: 'Acme', roleNames: ['viewer'], permissions: [] },
    ]);
  });

  it.each(['userId', 'UserID', 'userid', 'USERID'])('is recognised by %s', (key) => {
    expect(toUserRow({ [key]: 'U1', LOGINIDS: ['a'] })).toMatchObject({
      userId: 'U1',
      loginIds: ['a'],
    });
  });

  it.each([
    null,
    'U1',
    7,
    [],
    {},
    { userId: '' },
    { userId: ' ' },
    { userId: 7 },
    { userId: null },
  ])('is nobody without a usable id: %j', (answer) => {
    expect(toUserRow(answer)).toBeNull();
  });

  it('survives fields of every wrong type', () => {
    const row = toUserRow({
      userId: 'U1',
      loginIds: [1, null, 'a', {}],
      email: 7,
      name: { first: 'A' },
      verifiedEmail: 'true',
      test: 'yes',
      roleNames: null,
      userTenants: 'T1',
      customAttributes: ['x'],
      createdTime: {},
    });
    expect(row).toMatchObject({
      loginIds: ['a'],
      email: null,
      name: null,
      verifiedEmail: null,
      test: false,
      roleNames: [],
      tenants: [],
      customAttributes: '{}',
      createdTime: null,
    });
    expect(row?.raw).toContain('"email":7');
  });

  it.each([
    [1700000000, '2023-11-14T22:13:20.000Z'],
    ['1700000000', '2023-11-14T22:13:20.000Z'],
    [1700000000123, '2023-11-14T22:13:20.123Z'],
    ['1700000000123', '2023-11-14T22:13:20.123Z'],
    ['2023-11-14T22:13:20Z', '2023-11-14T22:13:20.000Z'],
    ['2023-11-14T23:13:20.5+01:00', '2023-11-14T22:13:20.500Z'],
    ['2023-11-14T22:13:20', '2023-11-14T22:13:20.000Z'],
    ['2023-11-14', '2023-11-14T00:00:00.000Z'],
    ['0001-01-01T00:00:00Z', null],
    [0, null],
    ['', null],
    [-5, null],
    [1e300, null],
    ['soon', null],
    [undefined, null],
    [null, null],
  ])('was created at %j', (createdTime, expected) => {
    expect(toUserRow({ userId: 'U1', createdTime })?.createdTime).toBe(expected);
  });

  it('keeps numbers past 2^53 exactly, in raw and in the custom attributes', () => {
    const text =
      '{"userId":"U1","customAttributes":{"big":12345678901234567890,"small":-9007199254740993,' +
      '"precise":0.12345678901234567891,"huge":1e400,"plain":7},"createdTime":1700000000}';
    const row = toUserRow(parseJson(text));
    const attributes =
      '{"big":12345678901234567890,"huge":1e400,"plain":7,"precise":0.12345678901234567891,"small":-9007199254740993}';
    expect(row?.customAttributes).toBe(attributes);
    expect(row?.raw).toBe(
      `{"createdTime":1700000000,"customAttributes":${attributes},"userId":"U1"}`,
    );
    expect(row?.createdTime).toBe('2023-11-14T22:13:20.000Z');
  });

  it('hashes the same whoever shares its page', () => {
    const ada = '{"userId":"U1","n":1e3,"f":0.1,"g":1.5e-7}';
    const alone = parseJson(`[${ada}]`) as unknown[];
    const beside = parseJson(`[${ada},{"userId":"U2","n":12345678901234567890}]`) as unknown[];
    expect(toUserRow(beside[0])).toEqual(toUserRow(alone[0]));
  });

  it('holds no text that Postgres refuses, in values and in keys', () => {
    const row = toUserRow({
      userId: 'U\0one',
      name: 'A\uD800B',
      customAttributes: { 'k\0': '\uDC00', pair: '\u{1F600}' },
    });
    expect(row).toMatchObject({ userId: 'U\uFFFDone', name: 'A\uFFFDB' });
    expect(row?.customAttributes).toBe('{"k\uFFFD":"\uFFFD","pair":"\u{1F600}"}');
    expect(row?.raw).not.toMatch(/\\u0000|\\ud/);
  });

  it('may nest deeper than any stack', () => {
    let deep: unknown = 'bottom';
    for (let level = 0; level < 100_000; level++) deep = [deep];
    expect(toUserRow({ userId: 'U1', customAttributes: { deep } })).not.toBeNull();
  });
});

/** The same value with the keys of every object in another order. */
function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, field]) => [key, reversed(field)]),
  );
}

describe('for any JSON', () => {
  const json = fc.jsonValue({ maxDepth: 4 });
  const names = Object.keys(ADA);
  const user = fc
    .tuple(
      fc.dictionary(fc.oneof(fc.constantFrom(...names), fc.string()), json, { maxKeys: 12 }),
      fc.string({ minLength: 1 }).filter((text) => text.trim() !== ''),
    )
    .map(([fields, userId]) => ({ ...fields, userId }));

  it('toUserRow never throws', () => {
    fc.assert(
      fc.property(json, (answer) => {
        toUserRow(answer);
      }),
    );
    fc.assert(fc.property(user, (answer) => toUserRow(answer) !== null));
  });

  it('the hash does not depend on the order of keys', () => {
    fc.assert(
      fc.property(user, (answer) => {
        expect(toUserRow(reversed(answer))).toEqual(toUserRow(answer));
      }),
    );
  });

  it('raw holds the whole answer', () => {
    fc.assert(
      fc.property(user, (answer) => {
        fc.pre(!/\\u0000|\\ud[89a-f]/.test(JSON.stringify(answer)));
        const row = toUserRow(answer);
        expect(JSON.parse(row?.raw ?? '')).toEqual(JSON.parse(JSON.stringify(answer)));
      }),
    );
  });

  it('the exact parser agrees with JSON.parse on every ordinary value', () => {
    fc.assert(
      fc.property(json, (value) => {
        const text = `[${JSON.stringify(value)},1e0]`;
        expect(parseJson(text)).toEqual(JSON.parse(text));
      }),
    );
  });
});
