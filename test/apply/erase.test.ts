import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { applyObservations } from '../../src/apply/apply.ts';
import { eraseUser, undoErasure, type EraseRequest } from '../../src/apply/erase.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { pruneFeed } from '../../src/feed/prune.ts';
import { isMentionedIn } from '../../src/inbox/mentions.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { transaction } from '../../src/mirror/database.ts';
import { verifySample } from '../../src/pull/sample.ts';
import { verifyMirror } from '../../src/pull/verify.ts';
import { eventually } from '../support/eventually.ts';
import { realUserIds, type Scene } from '../support/world.ts';
import { beginPullScene, type PullScene } from '../pull/pullScene.ts';

import type { Observation } from '../../src/observation.ts';

const { signal } = new AbortController();

function erase({ database }: Scene, userId: string, request: Partial<EraseRequest> = {}) {
  const all = { userId, by: 'a test', also: [], unknownToo: false, ...request };
  return eraseUser(database.mirror, all, signal);
}

/** A filled mirror, and the oldest user of it. */
async function begin(users: number): Promise<{ s: PullScene; userId: string }> {
  const s = await beginPullScene({ simulator: { users }, env: { PAGE_SIZE: '20' } });
  expect(await s.runSweep()).toMatchObject({ outcome: 'complete' });
  return { s, userId: realUserIds(s)[0] ?? '' };
}

interface Change {
  readonly user_id: string;
  readonly kind: string;
  readonly changed: readonly string[];
  readonly cursor: string;
}

function changesSince(s: Scene, cursor: string | null): Promise<Change[]> {
  return s.query<Change>(sql`select * from descope.changes_since(${cursor}, 1000)`);
}

const proofs = (s: Scene) =>
  s.query<{ user_id: string; created_time: string | null; seen_at: string | null }>(
    sql`select user_id, created_time, seen_at from ${s.database.mirror.t.erasures}`,
  );

function seen(userId: string): Observation {
  const row = toUserRow({ userId, name: 'Somebody' });
  if (!row) throw new Error('a user without an id');
  const observedAt = new Date().toISOString().replace('Z', '000Z');
  return { kind: 'present', userId, row, observedAt, by: 'load' };
}

describe('an erased user whom Descope still has', () => {
  const verifyDeps = (s: PullScene) => ({ ...s.process().sweep, settleMs: 0 });

  it('is no drift, no deletion candidate, and makes no sweep partial', async () => {
    const { s, userId } = await begin(60);
    await erase(s, userId);
    for (const pass of [1, 2]) {
      const run = await s.runSweep();
      expect(run, String(pass)).toMatchObject({ outcome: 'complete', created: 0, deleted: 0 });
      const light = await verifySample(verifyDeps(s), signal);
      expect(light?.drift).toEqual({ missing: [], extra: [], different: [] });
      expect(light?.driftPpm).toBe(0);
      const all = await verifyMirror(verifyDeps(s), true, signal);
      expect(all).toMatchObject({ driftPpm: 0, repaired: 0, held: 0 });
    }
    expect(await s.deletions()).toEqual({});
    await s.assertEqual();
    // Counted as one there, not forgotten: somebody else who is missing is still noticed.
    const [, other = ''] = realUserIds(s);
    const { users } = s.database.mirror.t;
    await s.query(sql`delete from ${users} where user_id = ${other}`);
    expect((await verifySample(verifyDeps(s), signal))?.driftPpm).toBeGreaterThan(0);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', created: 1 });
  });

  it('is no drift either when Descope removes them, and then only the proof is left', async () => {
    const { s, userId } = await begin(60);
    await erase(s, userId);
    await s.runSweep();
    const [proof] = await proofs(s);
    expect(proof?.created_time).not.toBeNull();
    expect(proof?.seen_at).not.toBeNull();
    s.simulator.directory.deleteUser(userId);
    await s.pullAudit();
    await s.applyEvents();
    expect((await verifySample(verifyDeps(s), signal))?.driftPpm).toBe(0);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', deleted: 0 });
    expect(await proofs(s)).toEqual([{ user_id: userId, created_time: null, seen_at: null }]);
    expect((await verifySample(verifyDeps(s), signal))?.driftPpm).toBe(0);
  });

  it('may be mirrored again where the erasure is taken back', async () => {
    const { s, userId } = await begin(30);
    await erase(s, userId);
    await s.runSweep();
    expect(await undoErasure(s.database.mirror, userId)).toBe(true);
    expect(await undoErasure(s.database.mirror, userId)).toBe(false);
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', created: 1 });
    await s.assertEqual();
    expect((await changesSince(s, null)).filter((c) => c.user_id === userId)).toMatchObject([
      { kind: 'deleted' },
      { kind: 'created' },
    ]);
    expect(await erase(s, userId)).toMatchObject({ again: false });
    const left = (await changesSince(s, null)).filter((c) => c.user_id === userId);
    expect(left).toMatchObject([{ kind: 'deleted', changed: [] }]);
  });
});

describe('the feed of an erased user', () => {
  it('leaves consumers their named cursors, and is pruned like any other', async () => {
    const { s, userId } = await begin(10);
    s.simulator.directory.modifyUser(userId, { name: 'Another' });
    await s.runSweep();
    const own = (await changesSince(s, null)).at(-1);
    expect(own?.user_id).toBe(userId);
    const confirm = (name: string, cursor = '') =>
      s.query(sql`select descope.confirm_changes(${name}, ${cursor})`);
    const read = (name: string) =>
      s.query<Change>(sql`select * from descope.read_changes(${name}, 100)`);
    await confirm('quick', own?.cursor);
    await confirm('slow', own?.cursor);
    await erase(s, userId);
    const [gone, ...more] = await read('quick');
    expect([gone?.user_id, gone?.kind, more]).toEqual([userId, 'deleted', []]);
    expect(await s.query(sql`select descope.feed_head() as head`)).toEqual([
      { head: gone?.cursor },
    ]);
    await confirm('quick', gone?.cursor);
    expect(await pruneFeed(s.database.mirror, { days: 0, steps: 9 }, signal)).toBeGreaterThan(1);
    expect(await read('quick')).toEqual([]);
    await expect(read('slow')).rejects.toMatchObject({ cause: { code: 'RC001' } });
  });

  it('says once that they are gone, and takes no cursor from a reader', async () => {
    const { s, userId } = await begin(10);
    s.simulator.directory.modifyUser(userId, { name: 'Another' });
    await s.runSweep();
    const before = await changesSince(s, null);
    // A reader whose cursor is a row of theirs.
    const own = before.findLast((change) => change.user_id === userId)?.cursor ?? null;
    expect(own).toBe(before.at(-1)?.cursor);
    await erase(s, userId);
    await erase(s, userId);
    const gone = { user_id: userId, kind: 'deleted', changed: [] };
    expect(await changesSince(s, own)).toMatchObject([gone]);
    const after = await changesSince(s, null);
    expect(after.filter((change) => change.user_id === userId)).toMatchObject([gone]);
    expect(after).toHaveLength(before.length - 2 + 1);
  });
});

describe('an erasure', () => {
  it('of a user nobody knows does nothing, unless it is asked for in advance', async () => {
    const { s } = await begin(5);
    const { userId } = s.simulator.directory.createUser({ test: false });
    expect(await erase(s, userId)).toBeNull();
    expect(await proofs(s)).toEqual([]);
    expect(await erase(s, userId, { unknownToo: true })).toMatchObject({ again: false });
    expect(await s.runSweep()).toMatchObject({ outcome: 'complete', created: 0 });
    await s.pullModified();
    await s.pullAudit();
    await s.applyEvents();
    expect(await s.countUsers()).toEqual({ live: 5, gone: 0 });
    expect(await changesSince(s, null)).toHaveLength(5);
  });

  it('beside writers of every kind wins, whoever comes first', async () => {
    const { s } = await begin(5);
    const { mirror } = s.database;
    const { db, t } = mirror;
    for (let round = 0; round < 15; round++) {
      const userId = `U-race-${round}`;
      let writing = true;
      const write = async (work: (n: number) => Promise<unknown>) => {
        for (let n = 0; writing; n++) await work(n);
      };
      const writers = [
        ...[1, 2].map(() =>
          write(() =>
            transaction(mirror, (tx) => applyObservations(tx, t, [seen(userId)], 'manual')),
          ),
        ),
        write((n) =>
          transaction(mirror, (tx) =>
            applyObservations(
              tx,
              t,
              [{ kind: 'absent', userId, observedAt: `2026-01-01T00:00:00.${100000 + n}Z` }],
              'audit',
            ),
          ),
        ),
        write(async (n) => {
          const event = parseRecord({ action: 'UserModified', userId, occurred: 1e12 + n }, 1e12);
          if (event) await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
        }),
      ];
      await eventually(async () => {
        expect(await erase(s, userId)).not.toBeNull();
      });
      await transaction(mirror, (tx) => applyObservations(tx, t, [seen(userId)], 'manual'));
      writing = false;
      await Promise.all(writers);
      const left = await s.query<{ n: number }>(
        sql`select (select count(*)::int from ${t.users} where user_id = ${userId})
                 + (select count(*)::int from ${t.events} where user_ids && array[${userId}])
                 + (select count(*)::int from ${t.userChanges}
                    where user_id = ${userId} and kind <> 'deleted') as n`,
      );
      expect(left).toEqual([{ n: 0 }]);
    }
  }, 60_000);

  it('waits for a write under way, and removes what it wrote', async () => {
    const { s } = await begin(5);
    const { mirror } = s.database;
    const { t } = mirror;
    let written = () => {};
    const isWritten = new Promise<void>((resolve) => (written = resolve));
    let finish = () => {};
    const mayEnd = new Promise<void>((resolve) => (finish = resolve));
    const writing = transaction(mirror, async (tx) => {
      await applyObservations(tx, t, [seen('U-late')], 'manual');
      written();
      await mayEnd;
    });
    await isWritten;
    const erasing = erase(s, 'U-late', { unknownToo: true });
    await eventually(async () => {
      const waiting = await s.query(sql`select 1 from pg_locks where not granted`);
      expect(waiting).not.toEqual([]);
    });
    finish();
    await writing;
    expect(await erasing).toMatchObject({ counts: { users: 1, user_changes: 1 } });
    expect(await s.query(sql`select 1 from ${t.users} where user_id = 'U-late'`)).toEqual([]);
  });

  it('leaves the statement of a writer that was not told of it nothing to insert', async () => {
    const { s } = await begin(1);
    const { db, t } = s.database.mirror;
    await erase(s, 'U-gone', { unknownToo: true });
    const absent = { kind: 'absent', userId: 'U-gone', observedAt: '2026-01-01T00:00:00.000000Z' };
    const summary = await applyObservations(
      db,
      t,
      [seen('U-gone'), seen('U-other'), absent as Observation],
      'manual',
    );
    expect(summary).toMatchObject({ created: ['U-other'], erased: ['U-gone'], deleted: [] });
  });
});

describe('what others say of an erased user', () => {
  it.each([
    ['an address by itself', '"ada@example.com"', true],
    ['an address in a sentence', '{"note":"by Ada@Example.com."}', true],
    ['an address as a key', '{"ada@example.com":1}', true],
    ["another's longer address", '["bada@example.com","ada@example.com.au"]', false],
    ['a number in a text', '["call +491551234567!"]', true],
    ["another's longer number", '["+4915512345678"]', false],
    ['a short login id, whole', '{"who":"ada"}', true],
    ['a short login id in a word or a text', '["adagio","ada lovelace"]', false],
  ])('counts as a mention: %s', (_, json, isMention) => {
    expect(isMentionedIn(json, ['ada@example.com', '+491551234567', 'ada'])).toBe(isMention);
  });

  it('is redacted, also where only a former address is told, but what is by now of others is not', async () => {
    const { s, userId } = await begin(5);
    const { directory } = s.simulator;
    const [, other = ''] = realUserIds(s);
    const { email } = directory.answer(other) ?? {};
    const { db, t } = s.database.mirror;
    const told = [
      { userId: other, data: { note: 'see former@example.com' } },
      { userId: other, data: { note: `see ${email ?? ''}` } },
      { userId: other, data: { note: 'see older@example.com' } },
      { userId, data: { Change: { email: 'former@example.com' } } },
      { userId, data: { Change: { email } } },
    ].map((fields, at) =>
      parseRecord({ action: 'UserModified', occurred: 1e12 + at, ...fields }, 1),
    );
    const events = told.filter((event) => event !== null);
    await recordEvents(db, t, events, 'webhook', { archiveAll: false });
    const done = await erase(s, userId, { also: ['older@example.com'] });
    expect(done?.counts).toMatchObject({ events: 2, events_redacted: 2 });
    const left = await s.query<{ payload: string }>(
      sql`select payload::text as payload from ${t.events} order by occurred_at`,
    );
    const redacted = { payload: expect.stringContaining('redacted') as string };
    expect(left).toEqual([
      redacted,
      { payload: expect.stringContaining(email ?? '') as string },
      redacted,
    ]);
  });
});
