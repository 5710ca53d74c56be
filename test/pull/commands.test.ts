import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { eventually } from '../support/eventually.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { realUserIds } from '../support/world.ts';
import { createPullScene, type PullScene } from './pullScene.ts';

/* `rollcall backfill` and `rollcall sync`, as a shell sees them. */

let scene: PullScene;
beforeEach(async () => {
  scene = await createPullScene({
    simulator: { users: 300 },
    env: { LOG_LEVEL: 'warn', PULL_SETTLE_SECONDS: '2', BREAKER_MAX_COUNT: '20' },
  });
});
afterEach(() => scene.stop());

function rollcall(args: readonly string[], env: Record<string, string> = {}): RunningProcess {
  return startProcess(args, { env: { ...scene.env, ...env } });
}

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(...args: string[]): Promise<Ran> {
  const child = rollcall(args);
  return { exit: await child.exit, stdout: child.stdout(), stderr: child.stderr() };
}

/** The last line of the answer. */
function answerOf({ stdout }: Ran): unknown {
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as unknown;
}

describe('sync before any backfill', () => {
  it('says what to do first, and ends with 3', async () => {
    const { exit, stdout } = await run('sync');
    expect(exit).toBe(3);
    expect(stdout).toMatch(/run `rollcall backfill`/);
    expect(scene.simulator.requests.countOf('userSearch')).toBe(0);

    const json = await run('sync', '--json');
    expect(json.exit).toBe(3);
    expect(answerOf(json)).toMatchObject({ outcome: 'notBegun' });
  });
});

describe('backfill', () => {
  it('fills the mirror, says so in one line, and ends with 0', async () => {
    const { exit, stdout, stderr } = await run('backfill');
    expect(exit).toBe(0);
    const real = scene.simulator.directory.realSize;
    expect(stdout).toMatch(RegExp(`^sweep complete: ${real} users read with \\d+ requests; `));
    expect(stdout).toContain(`${real} created, 0 updated, 0 deleted`);
    expect(stdout.trim().split('\n')).toHaveLength(1);
    expect(stderr).toBe('');
    await scene.assertEqual();
  });

  it('counts nobody twice, in however many pages and windows they come', async () => {
    scene.simulator.directory.createMany(400, { event: false });
    const child = rollcall(['backfill', '--json'], { PAGE_SIZE: '5' });
    expect(await child.exit).toBe(0);
    const { realSize } = scene.simulator.directory;
    const answer = JSON.parse(child.stdout().trim().split('\n').at(-1) ?? '') as unknown;
    expect(answer).toMatchObject({ users: realSize, created: realSize });
    await scene.assertEqual();
  });

  it('with --json answers in JSON, line by line', async () => {
    const ran = await run('backfill', '--json');
    expect(ran.exit).toBe(0);
    for (const line of ran.stdout.trim().split('\n')) {
      expect(JSON.parse(line)).toBeInstanceOf(Object);
    }
    const real = scene.simulator.directory.realSize;
    expect(answerOf(ran)).toMatchObject({
      outcome: 'complete',
      total: real,
      created: real,
      held: 0,
      reason: null,
    });
  });

  it('tells of deletions that are held, and ends with 3', async () => {
    await scene.runSweep();
    scene.simulator.directory.deleteMany(realUserIds(scene).slice(0, 60), { event: false });
    const { exit, stdout } = await run('backfill');
    expect(exit).toBe(3);
    expect(stdout).toMatch(/60 deletions are held/);
    expect(await scene.countUsers()).toMatchObject({ gone: 0 });
  });

  it('tells why it does not believe a directory without users, and ends with 3', async () => {
    await scene.runSweep();
    scene.simulator.faults.random(1, ['zeroTotal'], () => 0);
    const ran = await run('backfill', '--json');
    expect(ran.exit).toBe(3);
    expect(answerOf(ran)).toMatchObject({ outcome: 'blocked', deleted: 0 });
    const { stdout } = await run('backfill');
    expect(stdout).toMatch(
      /sweep blocked.*\nDescope reports no users at all while the mirror holds/,
    );
  });

  it('that is interrupted says how to go on, and goes on when run again', async () => {
    scene.simulator.behaviour.latencyMs = 100;
    const first = rollcall(['backfill'], { PAGE_SIZE: '10' });
    await eventually(async () => {
      expect((await scene.countUsers()).live).toBeGreaterThan(50);
    });
    first.kill('SIGINT');
    expect(await first.exit).not.toBe(0);
    expect(first.stderr()).toMatch(/interrupted; run it again to go on from here/);
    const { live } = await scene.countUsers();
    expect(live).toBeLessThan(290);

    scene.simulator.behaviour.latencyMs = 0;
    const second = rollcall(['backfill'], { PAGE_SIZE: '10' });
    expect(await second.exit).toBe(0);
    expect(second.stderr()).toMatch(/going on with sweep 1/);
    expect(second.stdout()).toMatch(/^sweep complete/);
    await scene.assertEqual();
    const [runs] = await scene.query<{ n: number }>(
      sql`select count(*)::int as n from ${scene.database.mirror.t.syncRuns} where pull = 'sweep'`,
    );
    expect(runs).toEqual({ n: 1 });
  });

  it('that is killed is resumed without reading all of it again', async () => {
    scene.simulator.behaviour.latencyMs = 100;
    const first = rollcall(['backfill'], { PAGE_SIZE: '10' });
    await eventually(async () => {
      expect((await scene.countUsers()).live).toBeGreaterThan(100);
    });
    first.kill('SIGKILL');
    expect(await first.exit).toBe(137);
    const { live } = await scene.countUsers();
    scene.simulator.behaviour.latencyMs = 0;
    const before = scene.simulator.requests.countOf('userSearch');
    const second = rollcall(['backfill'], { PAGE_SIZE: '10' });
    expect(await second.exit).toBe(0);
    await scene.assertEqual();
    const searches = scene.simulator.requests.countOf('userSearch') - before;
    expect(searches).toBeLessThan((300 - live) / 9 + 12);
  });
});

describe('sync', () => {
  it('brings changes and deletions that no webhook told of, and ends with 0', async () => {
    await scene.runSweep();
    scene.ago(5_000, () => {
      const { directory } = scene.simulator;
      const [a = '', b = '', c = ''] = realUserIds(scene);
      directory.modifyUser(a, { name: 'Somebody Else' }, { event: false });
      directory.modifyUser(b, { name: 'Another One' });
      directory.deleteMany([c]);
    });
    const { exit, stdout, stderr } = await run('sync');
    expect({ exit, stdout, stderr }).toEqual({
      exit: 0,
      stdout: 'synced: 2 events applied, 0 still pending\n',
      stderr: '',
    });
    await scene.assertEqual();

    const again = await run('sync', '--json');
    expect(again.exit).toBe(0);
    expect(answerOf(again)).toEqual({ outcome: 'complete', eventsApplied: 0, eventsPending: 0 });
  });

  it('applies events that name nobody when what they tell of has been read', async () => {
    const { directory, behaviour } = scene.simulator;
    behaviour.pluralIds = 'none';
    await scene.runSweep();
    for (const agoMs of [3_600_000, 6_000]) {
      scene.ago(agoMs, () => {
        directory.modifyBatch(realUserIds(scene).slice(0, 3), { name: `Of ${agoMs}` });
      });
      // The trail is pulled from just before the first sweep on.
      await scene.query(sql`
        update ${scene.database.mirror.t.watermarks}
        set complete_to = complete_to - interval '2 hours' where pull = 'audit'`);
    }
    expect((await run('sync')).stdout).toBe('synced: 2 events applied, 0 still pending\n');
    await scene.assertEqual();
  });

  it('says where the trail is too short that a sweep is due, and ends with 3', async () => {
    await scene.runSweep();
    scene.clock.shiftMs = 31 * 86_400_000;
    const ran = await run('sync', '--json');
    expect(ran.exit).toBe(3);
    expect(answerOf(ran)).toMatchObject({ outcome: 'sweep' });
    expect((await run('backfill')).exit).toBe(0);
    expect((await run('sync')).exit).toBe(0);
  });
});
