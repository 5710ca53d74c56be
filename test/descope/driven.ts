import { sql } from 'drizzle-orm';

import { createSchedule, type Schedule } from '../../src/descope/schedule.ts';
import { openMirror, rows, type Mirror } from '../../src/mirror/database.ts';
import { createTestDatabase } from '../support/database.ts';

import type { Priority } from '../../src/descope/types.ts';

export const START_MS = Date.parse('2026-03-01T00:00:00Z');

/** The schedule of a budget whose clock stands still until told, in two processes. */
export interface Driven {
  readonly name: string;
  readonly clock: { nowMs: number };
  readonly schedule: Schedule;
  readonly elsewhere: Schedule;
  /** The same budget for a process that was given another number. */
  readonly open: (perMinute: number) => Schedule;
  readonly row: () => Promise<{ granted: number; recent: number[] }>;
}

export interface Scene {
  /** What the first process has. */
  readonly mirror: Mirror;
  readonly driven: (perMinute: number) => Driven;
  readonly close: () => Promise<void>;
}

/** A database, and two pools to it: two processes have no more in common. */
export async function openScene(): Promise<Scene> {
  const database = await createTestDatabase();
  const { mirror } = database;
  const other = openMirror({
    databaseUrl: database.url,
    schema: 'descope',
    maxConnections: 5,
    onError: () => undefined,
  });
  let names = 0;
  return {
    mirror,
    driven(perMinute) {
      const name = `driven${++names}`;
      const clock = { nowMs: START_MS };
      const now = () => sql`to_timestamp(${clock.nowMs / 1000}::double precision)`;
      const open = (on: Mirror, most: number) =>
        createSchedule({ mirror: on, name, perMinute: most, clock: now });
      return {
        ...{ name, clock },
        schedule: open(mirror, perMinute),
        elsewhere: open(other, perMinute),
        open: (most) => open(other, most),
        async row() {
          const [row] = await rows<{ granted: number; recent: number[] }>(
            other.db,
            sql`select granted::int, recent from descope.budgets where name = ${name}`,
          );
          if (!row) throw new Error('nothing was asked of the budget yet');
          return row;
        },
      };
    },
    async close() {
      await other.pool.end();
      await database.drop();
    },
  };
}

/** Takes every slot that is free now, one by one; returns how many. */
export async function useUp(schedule: Schedule, priority: Priority): Promise<number> {
  for (let taken = 0; ; taken++) {
    if ((await schedule.ask(priority)).granted === 0) return taken;
  }
}
