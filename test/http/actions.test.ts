import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { runCommand } from '../commands/context.ts';
import { eventually } from '../support/eventually.ts';
import { testRedisUrl } from '../support/redis.ts';
import { realUserIds, type World } from '../support/world.ts';
import { beginAdmin, type AdminScene } from './adminClient.ts';

const KINDS: readonly (readonly [kind: string, redisUrl: () => string | null])[] = [
  ['Postgres', () => null],
  ['Redis', testRedisUrl],
];

/** A web process over a filled mirror whose last sweep found `gone` users missing, more than the breaker allows. */
async function beginHeld(gone: number, users = 300): Promise<{ scene: AdminScene; ids: string[] }> {
  const scene = await beginAdmin({
    simulator: { users },
    env: { BREAKER_MAX_COUNT: '5', PULL_SETTLE_SECONDS: '0' },
  });
  const { world } = scene;
  expect((await runCommand(backfill, world)).exitCode).toBe(0);
  const ids = realUserIds(world).slice(0, gone).sort();
  world.simulator.directory.deleteMany(ids, { event: false });
  expect((await runCommand(backfill, world)).exitCode).toBe(3);
  return { scene, ids };
}

async function states({ world }: AdminScene): Promise<Record<string, number>> {
  const found = await world.query<{ state: string; count: number }>(
    sql`select state, count(*)::int as count from ${world.database.mirror.t.deletions} group by state`,
  );
  return Object.fromEntries(found.map(({ state, count }) => [state, count]));
}

/** Newest first, without number and time. */
async function log({ get }: AdminScene): Promise<unknown[]> {
  const { body } = await get('/api/admin-log');
  return (body['entries'] as Record<string, unknown>[]).map(
    ({ actor, action, detail, outcome }) => ({ actor, action, detail, outcome }),
  );
}

const entry = (action: string, detail: object, outcome = 'done') => ({
  ...{ actor: 'dashboard', action, detail, outcome },
});

describe('deciding on held deletions', () => {
  it('approves named ones, then all, after a load by id, also where only webhooks are taken', async () => {
    const { scene, ids } = await beginHeld(130, 400);
    const named = ids.slice(0, 2);
    // One is there after all: approval is no proof (G4).
    const [there = ''] = realUserIds(scene.world);
    await scene.world.query(sql`
      insert into descope.deletions (user_id, state, witness, verified_at, evidence)
      values (${there}, 'held', 'webhook', clock_timestamp(), 'missing from a load by id')`);

    const first = await scene.post('/api/deletions/approve', { userIds: [...named, ...named] });
    expect(first).toEqual({ status: 200, body: { decided: 2 } });
    expect(await states(scene)).toEqual({ tombstoned: 2, held: 129 });
    const all = await scene.post('/api/deletions/approve', { all: true });

    expect(all).toEqual({ status: 200, body: { decided: 129 } });
    expect(await states(scene)).toEqual({ tombstoned: 130, present: 1 });
    await scene.world.assertEqual();
    expect(await log(scene)).toEqual([
      entry('deletions approve', { all: true, decided: 129 }),
      entry('deletions approve', { users: 2, userIds: named, decided: 2 }),
    ]);
    expect((await scene.get('/api/deletions')).body).toEqual({
      total: 0,
      deletions: [],
      next: null,
      newest: 0,
    });
    await scene.world.assertPrivate(JSON.stringify(await log(scene)));
  });

  it('rejects: the users stay', async () => {
    const { scene, ids } = await beginHeld(8);
    const rejected = await scene.post('/api/deletions/reject', { userIds: ids.slice(0, 3) });
    expect(rejected).toEqual({ status: 200, body: { decided: 3 } });
    expect(await states(scene)).toEqual({ rejected: 3, held: 5 });
    expect((await scene.post('/api/deletions/reject', { all: true })).body).toEqual({ decided: 5 });
    const [row] = await scene.world.query<{ live: number }>(
      sql`select count(*)::int as live from descope.live_users
          where user_id = any(${sql.param(ids)}::text[])`,
    );
    expect(row).toEqual({ live: 8 });
    expect(await log(scene)).toHaveLength(2);
  });

  it('decides on no more than the person was shown', async () => {
    const { scene, ids } = await beginHeld(8);
    const shown = (await scene.get('/api/deletions?limit=1')).body['newest'];
    await scene.world.query(sql`
      insert into descope.deletions (user_id, state, witness) values ('U2later', 'held', 'sweep')`);

    const asked = { all: true, upTo: shown };
    expect((await scene.post('/api/deletions/reject', asked)).body).toEqual({
      decided: ids.length,
    });
    expect(await states(scene)).toEqual({ rejected: 8, held: 1 });
  });

  it('does nothing where of one of them no deletion is held, and names them, but no mail address', async () => {
    const { scene, ids } = await beginHeld(6);
    const userIds = [...ids, 'U2nobody', 'ada@example.com'];
    expect(await scene.post('/api/deletions/approve', { userIds })).toEqual({
      status: 409,
      body: { error: 'no deletion is held of U2nobody, [email]' },
    });
    expect(await states(scene)).toEqual({ held: 6 });
    expect(await log(scene)).toEqual([]);
  });

  it('says what is wrong with Descope; nobody is removed, and a second try goes on', async () => {
    const { scene } = await beginHeld(7);
    const { faults } = scene.world.simulator;
    faults.next('status403', { path: 'load' });
    const failed = await scene.post('/api/deletions/approve', { all: true });
    expect(failed.status).toBe(502);
    expect(failed.body['error']).toMatch(/^Descope refuses the management key for /);
    expect(await states(scene)).toEqual({ held: 7 });
    faults.clear();
    expect((await scene.post('/api/deletions/approve', { all: true })).body).toEqual({
      decided: 7,
    });
    expect(await log(scene)).toMatchObject([
      { detail: { decided: 7 }, outcome: 'done' },
      { outcome: expect.stringMatching(/^failed: Descope refuses the management key/) as string },
    ]);
  });

  it('stops with the process, and says so', async () => {
    const { scene } = await beginHeld(7);
    const { world } = scene;
    world.simulator.faults.next('hang', { path: 'load' });
    const answer = scene.post('/api/deletions/approve', { all: true });
    await eventually(async () => {
      expect(await log(scene)).toMatchObject([{ outcome: 'begun' }]);
    });
    await world.service.stop();
    expect(await answer).toEqual({ status: 503, body: { error: 'stopping' } });
    expect(await states(scene)).toEqual({ held: 7 });
    expect(await world.query(sql`select outcome from descope.admin_log`)).toEqual([
      { outcome: 'stopped' },
    ]);
  });

  it('refuses a body that does not say which', async () => {
    const scene = await beginAdmin();
    for (const body of [
      {},
      { userIds: [] },
      { userIds: 'U1' },
      { userIds: [''] },
      { all: false },
      { all: true, userIds: ['U1'] },
      { userIds: Array.from({ length: 5_001 }, (_, at) => `U${at}`) },
    ]) {
      for (const decision of ['approve', 'reject']) {
        expect(await scene.post(`/api/deletions/${decision}`, body)).toEqual({
          status: 400,
          body: { error: expect.stringMatching(/^(give either userIds|userIds)[^\n]+$/) as string },
        });
      }
    }
  });

  it('is not asked for by another site', async () => {
    const { scene } = await beginHeld(6);
    const foreign = { 'x-rollcall': '1', origin: 'https://evil.example.com' };
    for (const headers of [{}, foreign]) {
      const refused = await scene.post('/api/deletions/approve', { all: true }, headers);
      expect(refused.status).toBe(403);
    }
    expect(await states(scene)).toEqual({ held: 6 });
    expect(await log(scene)).toEqual([]);
  });
});

describe.each(KINDS)('replaying events, with the queue in %s', (kind, redisUrl) => {
  const runs = kind === 'Postgres' || testRedisUrl() !== null;

  /** Parks an event of each of these users. */
  async function park(world: World, userIds: readonly string[]): Promise<void> {
    const { db, t } = world.database.mirror;
    const nowMs = Date.now();
    const events = userIds.flatMap((userId) => {
      const event = parseRecord({ action: 'UserModified', userId, occurred: nowMs }, nowMs);
      return event ? [event] : [];
    });
    await recordEvents(db, t, events, 'audit', { archiveAll: false });
    await db.execute(sql`update ${t.events} set state = 'parked', attempts = 5, error = 'refused'`);
  }

  it.runIf(runs)('tells the queue at once, for the workers elsewhere', async () => {
    const scene = await beginAdmin({ redisUrl: redisUrl() });
    const { world } = scene;
    const [one = '', two = '', three = ''] = realUserIds(world);
    await park(world, [one, two, three]);
    const replayed = await scene.post('/api/replay', { userId: two });
    expect(replayed).toEqual({ status: 200, body: { events: 1 } });
    expect((await scene.get('/api/parked')).body['total']).toBe(2);
    expect((await scene.post('/api/replay', { failed: true })).body).toEqual({ events: 2 });
    expect((await scene.get('/api/parked')).body['total']).toBe(0);
    const queued = await scene.get('/api/status');
    expect(queued.body['queues']).toContainEqual(
      expect.objectContaining({ name: 'events', waiting: 2 }),
    );
    expect(await log(scene)).toEqual([
      entry('replay', { failed: true, events: 2 }),
      entry('replay', { userId: two, events: 1 }),
    ]);
  });

  it.runIf(runs)('has them applied', async () => {
    const scene = await beginAdmin({ redisUrl: redisUrl(), role: 'all' });
    const { world } = scene;
    await world.untilFilled();
    await park(world, realUserIds(world));
    await scene.post('/api/replay', { failed: true });
    await eventually(async () => {
      const open = await world.query(sql`select 1 from descope.events where state <> 'applied'`);
      expect(open).toEqual([]);
    });
  });

  it.runIf(runs)('refuses a body that does not say which', async () => {
    const { post } = await beginAdmin({ redisUrl: redisUrl() });
    for (const body of [{}, { failed: false }, { userId: '' }, { failed: true, userId: 'U1' }]) {
      expect(await post('/api/replay', body)).toEqual({
        status: 400,
        body: { error: expect.stringMatching(/^(give either failed|userId)[^\n]+$/) as string },
      });
    }
  });
});

it('replays events though Redis is away: the inbox knows them', async () => {
  const { world, post } = await beginAdmin({ redisUrl: 'redis://127.0.0.1:1' });
  await world.query(sql`
    insert into descope.events (event_id, action, occurred_at, user_ids, payload, state)
    values ('e1', 'UserModified', now(), '{U1}', '{}', 'parked')`);
  expect(await post('/api/replay', { failed: true })).toEqual({ status: 200, body: { events: 1 } });
  expect(await world.query(sql`select state from descope.events`)).toEqual([{ state: 'pending' }]);
});
