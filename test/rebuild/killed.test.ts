import { sql } from 'drizzle-orm';
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';

import { eventually } from '../support/eventually.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { realUserIds, type Scene } from '../support/world.ts';
import { filled, followFeed, runRebuild, SILENT, tables } from './rebuildScene.ts';

/* The built program, killed in the midst of a rebuild, and beside others. */

const ENV = { LOG_LEVEL: 'warn' };

function start(s: Scene, ...args: string[]): RunningProcess {
  const child = startProcess(args, { env: { ...s.env, ...ENV } });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await child.exit;
  });
  return child;
}

async function untilRead(s: Scene, users: number): Promise<void> {
  await eventually(async () => {
    const [row] = await s.query<{ n: number }>(
      sql`select count(*)::int as n from descope.users_next`,
    );
    expect(row?.n).toBeGreaterThan(users);
  });
}

/** An application that reads, and does not end its transaction. */
async function holdTables(s: Scene): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: s.database.url });
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query('select from descope.live_users limit 1');
  return () => client.end();
}

describe('a rebuild', () => {
  it('killed while it reads goes on where it was', async () => {
    const s = await filled({ simulator: { users: 4_000 } });
    const { requests, behaviour } = s.simulator;
    const before = requests.countOf('userSearch');
    behaviour.latencyMs = 100;
    const child = start(s, 'rebuild');
    await untilRead(s, 1_500);
    child.kill('SIGKILL');
    expect(await child.exit).toBe(137);
    expect(await tables(s)).toEqual(['users', 'users_next']);
    behaviour.latencyMs = 0;
    expect((await runRebuild(s)).exitCode).toBe(0);
    // 40 pages, and a few that were on their way.
    expect(requests.countOf('userSearch') - before).toBeLessThan(60);
    await s.assertEqual();
  });

  it('killed right before the swap has changed nothing, and holds up nobody', async () => {
    const s = await filled();
    const [changed = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(changed, { givenName: 'Hidden' }, SILENT);
    const told = await followFeed(s);
    const release = await holdTables(s);
    const child = start(s, 'rebuild');
    await eventually(async () => {
      const waiting = await s.query(
        sql`select from pg_locks where mode = 'AccessExclusiveLock' and not granted`,
      );
      expect(waiting.length).toBeGreaterThan(0);
    });
    child.kill('SIGKILL');
    expect(await child.exit).toBe(137);
    await release();
    expect(await tables(s)).toEqual(['users', 'users_next']);
    expect(await told()).toEqual([]);

    expect((await runRebuild(s)).exitCode).toBe(0);
    expect(await told()).toMatchObject([{ userId: changed, kind: 'updated' }]);
    await s.assertEqual();
  });

  it('is one at a time: a second one says so and ends with 1, the first goes on', async () => {
    const s = await filled({ simulator: { users: 1_000 } });
    s.simulator.behaviour.latencyMs = 700;
    const first = start(s, 'rebuild');
    await untilRead(s, 1);
    const second = start(s, 'rebuild');
    expect(await second.exit).toBe(1);
    expect(second.stderr()).toMatch(/^error: another rebuild is under way: .+\n$/);
    const rollback = start(s, 'rebuild', '--rollback');
    expect(await rollback.exit).toBe(1);
    s.simulator.behaviour.latencyMs = 0;
    expect(await first.exit).toBe(0);
    await s.assertEqual();
  });

  it('beside a sweep: both end complete, and neither takes the windows of the other', async () => {
    const s = await filled({ simulator: { users: 2_000 } });
    const { t } = s.database.mirror;
    s.simulator.behaviour.latencyMs = 50;
    const both = [start(s, 'rebuild'), start(s, 'backfill')];
    expect(await Promise.all(both.map((child) => child.exit))).toEqual([0, 0]);
    const runs = await s.query<{ pull: string; outcome: string; users: number }>(
      sql`select r.pull, r.outcome, sum(w.rows_read)::int as users
          from ${t.syncRuns} r join ${t.syncWindows} w using (run_id)
          group by run_id, r.pull, r.outcome order by run_id`,
    );
    const users = realUserIds(s).length;
    expect(runs.map((run) => [run.outcome, run.users])).toEqual(
      runs.map(() => ['complete', users]),
    );
    expect(runs.map(({ pull }) => pull).sort()).toEqual(['rebuild', 'sweep', 'sweep']);
    await s.assertEqual();
  });
});
