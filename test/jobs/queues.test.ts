import { readFileSync } from 'node:fs';

import { sql } from 'drizzle-orm';
import { expect, it, onTestFinished } from 'vitest';

import { migrateQueues, openQueues, type QueueSettings } from '../../jobs/queues.ts';
import { rows } from '../../src/mirror/database.ts';
import { createTestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

/** Local ports whose connections have a keep-alive timer running, as Linux tells. */
function portsKeptAlive(): Set<number> {
  const lines = ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((file) =>
    readFileSync(file, 'utf8').split('\n').slice(1),
  );
  const found = lines.map((line) => line.trim().split(/\s+/));
  return new Set(
    found
      .filter(([, , , , , timer = '']) => timer.startsWith('02:'))
      .map(([, address = '']) => parseInt(address.split(':')[1] ?? '', 16)),
  );
}

it.runIf(process.platform === 'linux')(
  'keeps its connections to Postgres alive, as the mirror does',
  async () => {
    const database = await createTestDatabase();
    onTestFinished(() => database.drop());
    const settings: QueueSettings = {
      redisNodes: null,
      databaseUrl: database.url,
      schema: 'descope',
      mirrorId: 'unused',
      onError: () => undefined,
    };
    await migrateQueues(settings);
    const queues = openQueues(settings);
    onTestFinished(() => queues.stop());
    await queues.ping();
    const connected = await rows<{ port: number }>(
      database.mirror.db,
      sql`select client_port as port from pg_stat_activity
          where datname = current_database() and application_name = 'rollcall queue'`,
    );
    expect(connected.length).toBeGreaterThan(0);
    // While an answer is on its way the kernel's timer of a connection is another one.
    await eventually(() => {
      const kept = portsKeptAlive();
      expect(connected.filter(({ port }) => !kept.has(port))).toEqual([]);
    });
  },
);
