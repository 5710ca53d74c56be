import { randomBytes } from 'node:crypto';

import { inject } from 'vitest';

import { openMirror, type Mirror } from '../../src/mirror/database.ts';
import { query } from './query.ts';

export interface TestDatabase {
  /** Of the same role that migrated it: owner of its database, no superuser. */
  readonly url: string;
  readonly mirror: Mirror;
  /** Closes the mirror and drops the database, whoever is still connected. */
  drop(): Promise<void>;
}

/** A fresh database, migrated to schema `descope`: a clone of the run's template, in some 50 ms. */
export async function createTestDatabase(): Promise<TestDatabase> {
  return cloneOf(inject('templateDatabase'));
}

/** The same without any schema in it, for tests of the migrations themselves. */
export async function createEmptyDatabase(): Promise<TestDatabase> {
  return cloneOf('template1');
}

/** A copy of a database that nobody but a test's own connections uses: they are ended, and come again. */
export async function copyDatabase(url: string): Promise<TestDatabase> {
  const name = new URL(url).pathname.slice(1);
  await administer(
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'`,
  );
  return cloneOf(name);
}

async function cloneOf(template: string): Promise<TestDatabase> {
  const name = `test_${randomBytes(8).toString('hex')}`;
  await administer(`create database ${name} template ${template}`);
  const url = databaseUrl(name);
  const mirror = openMirror({
    databaseUrl: url,
    schema: 'descope',
    maxConnections: 10,
    // Dropping the database, and tests of lost connections, end idle ones.
    onError: () => undefined,
  });
  return {
    url,
    mirror,
    async drop() {
      await mirror.pool.end();
      await administer(`drop database if exists ${name} with (force)`);
    },
  };
}

function databaseUrl(name: string): string {
  const url = new URL(inject('databaseUrl'));
  url.pathname = `/${name}`;
  return url.toString();
}

/** One statement that cannot run inside the database it is about. */
async function administer(statement: string): Promise<void> {
  await query(inject('databaseUrl'), statement);
}
