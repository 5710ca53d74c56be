import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Random histories against killed processes take minutes: `npm run test:convergence` lives through them.
    exclude: [
      ...configDefaults.exclude,
      ...(process.env['CONVERGENCE_SEEDS'] === undefined ? ['test/convergence.test.ts'] : []),
    ],
    globalSetup: ['test/support/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Each file has its own database and its own Redis prefix; two cores carry two files well.
    maxWorkers: 2,
    retry: 0,
  },
});
