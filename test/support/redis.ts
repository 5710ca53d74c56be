import { randomBytes } from 'node:crypto';

import { inject } from 'vitest';

export { startRedisServer, type RedisServer } from './redisServer.ts';

/** The run's shared Redis; null where none is installed: say `describe.skipIf(testRedisUrl() === null)`. */
export function testRedisUrl(): string | null {
  return inject('redisUrl');
}

/** A key prefix of this file's own. (A database number would do too, but a cluster has only one.) */
export function uniquePrefix(): string {
  return `test-${randomBytes(6).toString('hex')}`;
}
