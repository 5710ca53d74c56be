import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Each file has its own database and its own Redis prefix; two cores carry two files well.
    maxWorkers: 2,
    retry: 0,
  },
});
