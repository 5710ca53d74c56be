import fc from 'fast-check';
import { expect, test } from 'vitest';

import { toCanonicalJson } from '../src/json.ts';

/** As plain as it can be: sorted at every level, written by JSON itself. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, field]) => [key, sorted(field)] as const);
  return new Map(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Objects of like size with other keys follow each other: the order of one must not serve another. */
const key = fc.constantFrom('a', 'b', 'Z', 'é', '"', '\n', '10', '9', 'userId', '__proto__x');
const { value } = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(key, tie('value'), { maxKeys: 5, noNullPrototype: true }),
  ),
}));

function write(of: unknown): string {
  if (of instanceof Map) {
    const fields = [...(of as Map<string, unknown>)];
    return `{${fields.map(([name, field]) => `${JSON.stringify(name)}:${write(field)}`).join(',')}}`;
  }
  return Array.isArray(of) ? `[${of.map(write).join(',')}]` : JSON.stringify(of);
}

test('keys are sorted at every level, whatever was written before', () => {
  const storable = value.filter((one) => !JSON.stringify(one).includes('\\u0000'));
  fc.assert(
    fc.property(fc.array(storable, { maxLength: 10 }), (values) => {
      for (const one of values) expect(toCanonicalJson(one)).toBe(write(sorted(one)));
    }),
    { numRuns: 300 },
  );
});
