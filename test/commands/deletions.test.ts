import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as deletions from '../../src/commands/deletions.ts';
import { createScreen } from '../../src/commands/screen.ts';
import * as sync from '../../src/commands/sync.ts';
import { DescopeUnauthorised, UsageError } from '../../src/errors.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { startProcess } from '../support/process.ts';
import { createScene, realUserIds, type Scene } from '../support/world.ts';
import { runCommand, textOf, withoutCredentials } from './context.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

/** A filled mirror whose last sweep found `gone` users missing, more than the breaker allows. */
async function held(gone: number, users = 300): Promise<{ s: Scene; ids: string[] }> {
  const s = await createScene({
    simulator: { users },
    env: { BREAKER_MAX_COUNT: '5', PULL_SETTLE_SECONDS: '0' },
  });
  scene = s;
  expect((await runCommand(backfill, s)).exitCode).toBe(0);
  const ids = realUserIds(s).slice(0, gone).sort();
  s.simulator.directory.deleteMany(ids, { event: false });
  expect((await runCommand(backfill, s)).exitCode).toBe(3);
  return { s, ids };
}

async function states(s: Scene): Promise<Record<string, number>> {
  const found = await s.query<{ state: string; count: number }>(
    sql`select state, count(*)::int as count from ${s.database.mirror.t.deletions} group by state`,
  );
  return Object.fromEntries(found.map(({ state, count }) => [state, count]));
}

async function live(s: Scene, ids: readonly string[]): Promise<number> {
  const [row] = await s.query<{ live: number }>(
    sql`select count(*)::int as live from ${s.database.mirror.t.liveUsers}
        where user_id = any(${sql.param(ids)}::text[])`,
  );
  return row?.live ?? -1;
}

describe('rollcall deletions', () => {
  it('lists what is held with its evidence and nothing personal, exit 3', async () => {
    const { s, ids } = await held(8);
    const listed = await runCommand(deletions, s, { action: 'list', ids: [] });
    expect(listed.exitCode).toBe(3);
    expect(listed.stdout[0]).toMatch(/^user +nominated +verified +witness +evidence$/);
    expect(listed.stdout.slice(1).map((line) => line.split(' ')[0])).toEqual(ids);
    expect(listed.stdout[1]).toMatch(/sweep +missing from a proven window, /);
    expect(listed.stderr.join()).toContain('8 deletions held');

    const json = await runCommand(deletions, s, { action: 'list', ids: [] }, { json: true });
    expect(json.json()).toMatchObject({ held: 8 });
    expect(json.json()['deletions']).toHaveLength(8);
    await s.assertPrivate([textOf(listed), textOf(json)].join('\n'));

    const [first = ''] = ids;
    const screen = createScreen({ isTTY: true, columns: 80 }, { NO_COLOR: '1' });
    const shown = await runCommand(deletions, s, { action: 'list', ids: [] }, { screen });
    for (const line of shown.stdout) expect(line.length).toBeLessThanOrEqual(80);
    for (const id of ids) expect(shown.stdout.join('\n')).toContain(`\n${id} `);
    const one = await runCommand(deletions, s, { action: 'list', ids: [first] }, { json: true });
    expect(one.json()).toMatchObject({ held: 1, deletions: [{ userId: first, witness: 'sweep' }] });
  });

  it('carries out the approved ones, named or all, in batches, and none is held then', async () => {
    const { s, ids } = await held(130, 400);
    const named = ids.slice(0, 2);
    const first = await runCommand(deletions, s, { action: 'approve', ids: named });
    expect(first).toMatchObject({
      exitCode: 0,
      stdout: ['2 users tombstoned, 0 present after all and kept'],
    });
    expect(await states(s)).toEqual({ tombstoned: 2, held: 128 });

    const all = await runCommand(deletions, s, { action: 'approve', ids: [] }, { json: true });
    expect(all.json()).toEqual({ approved: { tombstoned: 128, present: 0 } });
    expect(await states(s)).toEqual({ tombstoned: 130 });
    await s.assertEqual();
    const [row] = await s.query<{ evidence: string }>(
      sql`select evidence from ${s.database.mirror.t.deletions} where user_id = ${ids[0]}`,
    );
    expect(row?.evidence).toMatch(/^missing from a proven window.*; approved: /);
    const none = await runCommand(deletions, s, { action: 'list', ids: [] });
    expect(none).toMatchObject({ exitCode: 0, stdout: ['no deletions are held'] });
    expect((await runCommand(deletions, s, { action: 'approve', ids: [] })).exitCode).toBe(0);
  });

  it('keeps an approved user who is there after all, as a load by id shows them (G4)', async () => {
    const { s } = await held(6);
    const [there = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(there, { givenName: 'Still Here' }, { event: false });
    const { t, db } = s.database.mirror;
    await db.execute(sql`
      insert into ${t.deletions} (user_id, state, witness, verified_at, evidence)
      values (${there}, 'held', 'webhook', clock_timestamp(), 'missing from a load by id')`);
    const all = await runCommand(deletions, s, { action: 'approve', ids: [] });
    expect(all.stdout).toEqual(['6 users tombstoned, 1 present after all and kept']);
    expect(await states(s)).toEqual({ tombstoned: 6, present: 1 });
    await s.assertEqual();
  });

  it('removes nobody while Descope refuses to answer: all stay held, and approving again goes on', async () => {
    const { s, ids } = await held(7);
    s.simulator.faults.next('status403', { path: 'load' });
    const failing = runCommand(deletions, s, { action: 'approve', ids: [] });
    await expect(failing).rejects.toThrow(DescopeUnauthorised);
    expect(await states(s)).toEqual({ held: 7 });
    expect(await live(s, ids)).toBe(7);
    s.simulator.faults.clear();
    expect((await runCommand(deletions, s, { action: 'approve', ids: [] })).exitCode).toBe(0);
    await s.assertEqual();
  });

  it('rejects without asking Descope: the users stay live, and a later sweep may find them again', async () => {
    const { s, ids } = await held(9);
    const rejected = await runCommand(deletions, s, { action: 'reject', ids: [] });
    expect(rejected.exitCode).toBe(0);
    expect(rejected.stdout[0]).toContain('9 deletions rejected');
    expect(await states(s)).toEqual({ rejected: 9 });
    expect(await live(s, ids)).toBe(9);
    const again = await runCommand(backfill, s);
    expect(again.stdout.join()).toContain('9 deletions are held');
    expect(await states(s)).toEqual({ rejected: 9, held: 9 });
  });

  it('leaves each decision in the admin log, and how it ended', async () => {
    const { s, ids } = await held(7);
    const named = ids.slice(0, 2);
    await runCommand(deletions, s, { action: 'approve', ids: named });
    await runCommand(deletions, s, { action: 'reject', ids: ids.slice(2, 3) });
    s.simulator.faults.next('status403', { path: 'load' });
    const failing = runCommand(deletions, s, { action: 'approve', ids: [] });
    await expect(failing).rejects.toThrow(DescopeUnauthorised);
    await runCommand(deletions, s, { action: 'list', ids: [] });
    const approve = { actor: 'command', action: 'deletions approve' };
    expect(
      await s.query(sql`select actor, action, detail, outcome from ${s.database.mirror.t.adminLog}
                        order by entry_id`),
    ).toEqual([
      {
        ...approve,
        detail: { users: 2, userIds: named, tombstoned: 2, present: 0 },
        outcome: 'done',
      },
      {
        ...{ actor: 'command', action: 'deletions reject', outcome: 'done' },
        detail: { users: 1, userIds: ids.slice(2, 3), decided: 1 },
      },
      {
        ...approve,
        detail: { all: true },
        outcome: expect.stringMatching(/^failed: Descope refuses the management key/) as string,
      },
    ]);
  });

  it('names ids of which nothing is held, but no mail address, and does nothing then', async () => {
    const { s, ids } = await held(6);
    const approve = (...more: string[]) =>
      runCommand(deletions, s, { action: 'approve', ids: [...ids.slice(0, 1), ...more] });
    await expect(approve('U2nobody', 'ada@example.com')).rejects.toThrow(
      /no deletion is held of U2nobody, \[email\]/,
    );
    await expect(approve('U2nobody')).rejects.toThrow(UsageError);
    await expect(runCommand(deletions, s, { action: 'shred', ids: [] })).rejects.toThrow(
      'list, approve, reject',
    );
    expect(await states(s)).toEqual({ held: 6 });
  });

  it('does not count what was approved long after it was reported against the hour of the breaker', async () => {
    const { s, ids } = await held(6);
    const { t, db } = s.database.mirror;
    // As events report them: without a run.
    await db.execute(sql`
      update ${t.deletions}
      set run_id = null, witness = 'webhook', nominated_at = clock_timestamp() - interval '2 hours'`);
    await runCommand(deletions, s, { action: 'approve', ids });
    const [next = ''] = realUserIds(s);
    s.simulator.directory.deleteUser(next, { event: false });
    const record = { action: 'UserDeleted', userId: next, occurred: Date.now() };
    const event = parseRecord(record, Date.now());
    if (!event) throw new Error('not an event');
    await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
    expect((await runCommand(sync, s)).exitCode).toBe(0);
    expect(await live(s, [next])).toBe(0);
  });
});

describe('the command line of deletions', () => {
  it('lists and rejects without credentials, wants them to approve, and says by its exit code how it went', async () => {
    const { s, ids } = await held(6);
    const env = withoutCredentials(s);
    const cli = async (args: string[], given: Record<string, string> = env) => {
      const child = startProcess(['deletions', ...args], { env: given });
      return { exitCode: await child.exit, text: child.stdout() + child.stderr() };
    };
    expect(await cli(['list', '--json'])).toMatchObject({ exitCode: 3 });
    expect(await cli(['approve'])).toMatchObject({
      exitCode: 2,
      text: expect.stringContaining('DESCOPE_MANAGEMENT_KEY is required') as string,
    });
    expect(await cli(['reject', ids[0] ?? '', ids[1] ?? ''])).toMatchObject({ exitCode: 0 });
    expect(await cli(['reject', ids[0] ?? ''])).toMatchObject({ exitCode: 2 });
    const approved = await cli(['approve'], { ...s.env });
    expect(approved).toMatchObject({ exitCode: 0 });
    expect(await states(s)).toEqual({ rejected: 2, tombstoned: 4 });
    await s.assertPrivate(approved.text);
  });
});
