import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import * as erase from '../../src/commands/erase.ts';
import { isKnown } from '../../src/apply/knownBy.ts';
import { transaction } from '../../src/mirror/database.ts';
import { alignExclusion, assertStillExcluded } from '../../src/pull/exclusion.ts';
import { toExclusion } from '../../src/exclude.ts';
import { runCommand } from '../commands/context.ts';
import { dumpSchema } from '../support/queueDump.ts';
import { caughtUp, filled, runRebuild, tables } from './rebuildScene.ts';

import type { Scene } from '../support/world.ts';

/* What must leave nothing of a person, where a rebuild has made tables beside those that are read. */

const PERSON = {
  loginIds: ['wilhelmina.q@erase-me.example'],
  email: 'wilhelmina.q@erase-me.example',
  name: 'Wilhelmina Quagmire',
  phone: '+4915566778899',
  userTenants: [{ tenantId: 'T1', tenantName: 'One', roleNames: [], permissions: [] }],
  test: false,
} as const;

/** Tables with a trace of the person, but for the proof, the feed's last word and its delivery. */
async function traces(s: Scene, userId: string): Promise<string[]> {
  const lines = (await dumpSchema(s.database.mirror, 'descope')).split('\n');
  const found = lines.filter((line) => {
    if (/quagmire|erase-me|\+4915566778899/i.test(line)) return true;
    const isAllowed = /^descope\.(erasures |(user_changes|outgoing_deliveries) .*"kind":"deleted")/;
    return line.includes(userId) && !isAllowed.test(line);
  });
  return [...new Set(found.map((line) => /^descope\.(\w+)/.exec(line)?.[1] ?? line))].sort();
}

const EVERYWHERE = ['users', 'users_next', 'users_previous'];
const ALL_TENANTS = EVERYWHERE.map((name) => name.replace('users', 'user_tenants'));

/** Somebody who is in each of three generations: read, replaced, and about to be read. */
async function everywhere(): Promise<{ s: Scene; userId: string }> {
  const s = await filled();
  const { userId } = s.simulator.directory.createUser({
    ...PERSON,
    userTenants: [...PERSON.userTenants],
  });
  await caughtUp(s);
  expect((await runRebuild(s)).exitCode).toBe(0);
  await runRebuild(s, 'dryRun');
  expect(await tables(s)).toEqual(EVERYWHERE);
  expect(await traces(s, userId)).toEqual(expect.arrayContaining([...EVERYWHERE, ...ALL_TENANTS]));
  return { s, userId };
}

async function eraseNow(s: Scene, userId: string): Promise<unknown> {
  const done = await runCommand(erase, s, { user: userId, yes: true }, { json: true });
  expect(done.exitCode).toBe(0);
  return done.json();
}

describe('erase beside a rebuild', () => {
  it('leaves no trace in any generation, and no swap brings the person back', async () => {
    const { s, userId } = await everywhere();
    expect(await eraseNow(s, userId)).toMatchObject({ counts: { users: 3, user_tenants: 3 } });
    expect(await traces(s, userId)).toEqual([]);

    // The unfinished one is gone on with and swapped in; then back, and forward again.
    for (const option of [undefined, 'rollback', 'rollback', undefined] as const) {
      expect((await runRebuild(s, option)).exitCode).toBe(0);
      expect(await traces(s, userId), String(option)).toEqual([]);
    }
    await s.assertEqual();
  });

  it('knows and erases somebody who is only in what was replaced', async () => {
    const { s, userId } = await everywhere();
    const { db, t } = s.database.mirror;
    for (const table of ['users', 'user_tenants', 'users_next', 'user_tenants_next']) {
      await db.execute(sql`delete from ${sql.raw(`descope.${table}`)} where user_id = ${userId}`);
    }
    await db.execute(sql`delete from ${t.events}`);
    await db.execute(sql`delete from ${t.userChanges} where user_id = ${userId}`);
    expect(await isKnown(db, t, userId)).toBe(true);
    expect(await eraseNow(s, userId)).toMatchObject({ counts: { users: 1, user_tenants: 1 } });
    expect((await runRebuild(s, 'rollback')).exitCode).toBe(0);
    expect(await traces(s, userId)).toEqual([]);
  });

  it('takes back what was to be posted, but for what is being posted', async () => {
    const { s, userId } = await everywhere();
    const { db, t } = s.database.mirror;
    const put = (state: string, taken: string | null) =>
      db.execute(sql`
        insert into ${t.outgoingDeliveries} (endpoint_id, webhook_id, cursor, user_id, kind, changed,
                                             observed_at, witness, written_at, state, taken_until)
        values ('e', 'm', '1-1', ${userId}, 'updated', '{email}', now(), 'audit', now(), ${state},
                now() + ${taken}::interval)`);
    for (const state of ['waiting', 'delivered', 'parked']) await put(state, null);
    await put('waiting', '-1 minute');
    await put('waiting', '1 minute');
    await eraseNow(s, userId);
    const left = () =>
      s.query(sql`select state, changed from ${t.outgoingDeliveries} where user_id = ${userId}`);
    expect(await left()).toEqual([{ state: 'waiting', changed: [] }]);
    // What tells of the erasure stays when they are erased once more.
    await eraseNow(s, userId);
    expect(await left()).toHaveLength(1);
  });
});

describe('MIRROR_EXCLUDE beside a rebuild', () => {
  it('takes a field out of every generation, and a rebuild does not read it again', async () => {
    const { s, userId } = await everywhere();
    const phones = async () =>
      (await dumpSchema(s.database.mirror, 'descope'))
        .split('\n')
        .filter((line) => line.includes(PERSON.phone)).length;
    expect(await phones()).toBeGreaterThanOrEqual(3);
    await alignExclusion(s.database.mirror, toExclusion(['phone']));
    expect(await phones()).toBe(0);

    const left = { ...s, config: { ...s.config, MIRROR_EXCLUDE: toExclusion(['phone']) } };
    expect((await runRebuild(left, 'discard')).exitCode).toBe(0);
    const done = await runRebuild(left);
    expect(done.json()).toMatchObject({ outcome: 'swapped', counts: { different: 0 } });
    expect(await phones()).toBe(0);
    expect(await traces(s, userId)).toEqual(expect.arrayContaining(['users', 'users_previous']));
    expect((await runRebuild(left, 'rollback')).exitCode).toBe(0);
    expect(await phones()).toBe(0);
  });

  it('is taken out of what a rebuild has read by an older setting before it is gone on with', async () => {
    const { s } = await everywhere();
    const { mirror } = s.database;
    const without = toExclusion(['phone']);
    // Whoever reads by the older setting goes on while the service takes the field out.
    await s.query(sql`create table public.late as select * from descope.users_next`);
    await alignExclusion(mirror, without);
    await s.query(sql`
      update descope.users_next n
      set (phone, raw, content_hash) = row(l.phone, l.raw, l.content_hash)
      from public.late l where l.user_id = n.user_id`);
    await s.query(sql`drop table public.late`);
    const late = transaction(mirror, (tx) => assertStillExcluded(tx, mirror, toExclusion([])));
    await expect(late).rejects.toThrow('the mirror leaves out phone, and MIRROR_EXCLUDE says none');

    const left = { ...s, config: { ...s.config, MIRROR_EXCLUDE: without } };
    const done = await runRebuild(left);
    expect(done.json()).toMatchObject({ outcome: 'swapped', counts: { different: 0 } });
    expect(await dumpSchema(mirror, 'descope')).not.toContain(PERSON.phone);
  });
});
