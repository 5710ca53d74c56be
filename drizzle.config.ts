import { defineConfig } from 'drizzle-kit';

// Migrations are generated for the schema `descope`; migrate.ts rewrites that name to MIRROR_SCHEMA.
export default defineConfig({
  dialect: 'postgresql',
  schema: './src/mirror/schema.ts',
  out: './src/mirror/migrations',
});
