import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import * as backfill from '../src/commands/backfill.ts';
import * as deletions from '../src/commands/deletions.ts';
import * as erase from '../src/commands/erase.ts';
import * as importing from '../src/commands/import.ts';
import * as replay from '../src/commands/replay.ts';
import * as sync from '../src/commands/sync.ts';
import * as verify from '../src/commands/verify.ts';
import { toAuditRecord } from '../src/simulator/audit.ts';
import { runCommand } from './commands/context.ts';
import { eventually } from './support/eventually.ts';
import { dumpRedis, dumpSchema } from './support/queueDump.ts';
import { startRedisServer, testRedisUrl, type RedisServer } from './support/redis.ts';
import { bodyOf, createWorld, realUserIds, type World } from './support/world.ts';

import type { UserAnswer } from '../src/simulator/generate.ts';

/*
 * The whole promise: after `erase`, a dump of every table and of the queue holds no trace of the person but
 * the proof and the feed's last word, and nothing that comes later brings them back.
 */

let world: World | undefined;
let ownRedis: RedisServer | null = null;
let folder: string | undefined;
afterEach(async () => {
  await world?.stop();
  await ownRedis?.stop();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  world = undefined;
  ownRedis = null;
});

/** Somebody of whom every field is unmistakable. */
const PERSON = {
  loginIds: ['wilhelmina.q@erase-me.example', 'wilhelmina-the-unmistakable'],
  email: 'wilhelmina.q@erase-me.example',
  phone: '+4915566778899',
  name: 'Wilhelmina Quagmire',
  givenName: 'Wilhelmina',
  familyName: 'Quagmire',
  picture: 'https://pictures.example/wilhelmina.png',
  recoveryEmail: 'quagmire@recover.example',
  customAttributes: { nickname: 'Quaggy the Great', badge: 'BADGE-77-QUAG' },
  test: false,
} as const;

/** What must be nowhere, the id apart. */
function tracesOf(person: UserAnswer): string[] {
  const { loginIds, externalIds, email, phone, name, givenName, familyName } = person;
  return [
    ...[...loginIds, ...externalIds, email, phone, name, givenName, familyName],
    ...[person.picture, person.recoveryEmail, 'wilhelmina', 'quagmire'],
    ...Object.values(person.customAttributes).filter((value) => typeof value === 'string'),
  ];
}

async function dump(w: World): Promise<string> {
  const { mirror } = w.database;
  const queue = ownRedis
    ? await dumpRedis(ownRedis.url)
    : await dumpSchema(mirror, 'descope_queue');
  return [await dumpSchema(mirror, 'descope'), queue].join('\n');
}

/** Lines of a dump that show anything of the person, but for the proof and the one row of the feed. */
function traces(text: string, person: UserAnswer): string[] {
  const words = tracesOf(person).map((word) => word.toLowerCase());
  return text.split('\n').filter((line) => {
    const lower = line.toLowerCase();
    if (words.some((word) => lower.includes(word))) return true;
    const isAllowed =
      line.startsWith('descope.erasures ') ||
      (line.startsWith('descope.user_changes ') && line.includes('"kind":"deleted"'));
    return line.includes(person.userId) && !isAllowed;
  });
}

async function begin(queue: 'postgres' | 'redis'): Promise<World> {
  if (queue === 'redis') ownRedis = await startRedisServer();
  const w = await createWorld({
    simulator: { users: 150 },
    redisUrl: ownRedis?.url ?? null,
    env: { EVENT_ARCHIVE: 'all', PULL_SETTLE_SECONDS: '0' },
  });
  world = w;
  await w.untilFilled();
  w.deliver();
  return w;
}

async function untilApplied(w: World): Promise<void> {
  const { t } = w.database.mirror;
  await w.simulator.delivery.idle();
  await eventually(async () => {
    const left = await w.query(
      sql`select 1 from ${t.events} where state = 'pending' and due_at < now() + interval '1 hour'`,
    );
    expect(left).toEqual([]);
  });
}

/** Events of every kind and state about the person, and others that mention them. */
async function liveThrough(w: World, userId: string, other: string): Promise<void> {
  const { directory } = w.simulator;
  directory.modifyUser(userId, { email: 'quagmire.old@erase-me.example' });
  directory.modifyUser(userId, { email: PERSON.email, name: PERSON.name });
  directory.modifyBatch([userId, other], { status: 'disabled' });
  directory.emit('LoginSucceed', [userId]);
  const bodies = [
    // By a login id alone; as who did it; in what another's event tells.
    bodyOf('UserModified', { externalIds: [PERSON.loginIds[1]], data: { name: PERSON.name } }),
    bodyOf('UserModified', { userId: other, actorId: userId, data: { by: PERSON.name } }),
    bodyOf('UserModified', {
      userId: other,
      data: { note: `invited by ${PERSON.email.toUpperCase()}.`, name: PERSON.name },
    }),
    bodyOf('FlowStarted', { actorId: userId, data: { name: PERSON.name } }),
  ];
  for (const body of bodies) expect((await w.post(body)).status).toBe(202);
  await untilApplied(w);
}

/** A job that failed because of an event about the person, and one given up; both are still there. */
async function fail(w: World, userId: string): Promise<void> {
  const { t, db } = w.database.mirror;
  w.simulator.faults.next('status403', { times: 2 });
  await w.post(bodyOf('UserModified', { userId, data: { Change: { phone: PERSON.phone } } }));
  await eventually(async () => {
    expect(await w.queueText()).toContain('refuses the management key');
  });
  await db.execute(sql`
    update ${t.events} set state = 'parked', attempts = 5, error = 'Descope refused it'
    where state = 'pending'`);
  await db.execute(sql`
    update ${t.events} set state = 'pending', due_at = now() + interval '1 day'
    where event_id = (select min(event_id) from ${t.events}
                      where state = 'applied' and user_ids = ${sql.param([userId])}::text[])`);
  await db.execute(sql`
    insert into ${t.deletions} (user_id, state, witness, verified_at, evidence)
    values (${userId}, 'held', 'audit', now(), 'not found (E112102)')`);
  expect((await runCommand(deletions, w, { action: 'reject', ids: [userId] })).exitCode).toBe(0);
}

/** Everything that could bring somebody back. */
async function tryAll(w: World, person: UserAnswer, other: string): Promise<void> {
  const { directory } = w.simulator;
  const { userId } = person;
  directory.modifyUser(userId, { name: 'Wilhelmina Quagmire II' });
  directory.modifyUser(userId, { name: PERSON.name });
  directory.modifyBatch([other, userId], { status: 'enabled' });
  directory.emit('LoginSucceed', [userId]);
  const alone = await w.post(
    bodyOf('UserModified', { userId, data: { Change: { name: PERSON.name } } }),
  );
  expect(await alone.json()).toEqual({ accepted: 0, duplicates: 0, ignored: 1 });
  await w.post(bodyOf('UserModified', { loginIds: [PERSON.loginIds[1]] }));
  await w.post(bodyOf('UserModified', { userId: other, actorId: userId, data: PERSON }));
  await untilApplied(w);
  for (const pass of ['first', 'second']) {
    expect((await runCommand(sync, w)).exitCode, pass).toBe(0);
    expect((await runCommand(backfill, w)).exitCode, pass).toBe(0);
    expect((await runCommand(verify, w)).exitCode, pass).toBe(0);
    expect((await runCommand(verify, w, { repair: true })).exitCode, pass).toBe(0);
    expect((await runCommand(replay, w, { since: '2020-01-01' })).exitCode, pass).toBe(0);
  }
  folder = await mkdtemp(join(tmpdir(), 'rollcall-archive-'));
  const records = directory.audit.all().map((event) => toAuditRecord(event, 'dataUserIds'));
  await writeFile(join(folder, 'all.json'), JSON.stringify(records));
  expect((await runCommand(importing, w, { folder })).exitCode).toBe(0);
  await untilApplied(w);
}

for (const queue of ['postgres', 'redis'] as const) {
  describe.skipIf(queue === 'redis' && testRedisUrl() === null)(`erase, queue on ${queue}`, () => {
    it('leaves no trace in any table nor in the queue, whatever comes later', async () => {
      const w = await begin(queue);
      const { directory } = w.simulator;
      const { userId } = directory.createUser(PERSON);
      const [other = ''] = realUserIds(w);
      await liveThrough(w, userId, other);
      await fail(w, userId);
      const person = directory.answer(userId);
      if (!person) throw new Error('nobody there');
      const tables = new Set(traces(await dump(w), person).map((line) => line.split(' ')[0]));
      for (const table of ['admin_log', 'deletions', 'events', 'user_changes', 'users']) {
        expect(tables).toContain(`descope.${table}`);
      }

      const done = await runCommand(erase, w, { user: userId, yes: true }, { json: true });
      expect(done.exitCode).toBe(0);
      expect(done.json()).toMatchObject({ erased: true, userId, again: false });
      expect(traces(await dump(w), person)).toEqual([]);

      await tryAll(w, person, other);
      expect(traces(await dump(w), person)).toEqual([]);
      await w.assertEqual();
    }, 120_000);
  });
}
