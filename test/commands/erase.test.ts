import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as erase from '../../src/commands/erase.ts';
import * as explain from '../../src/commands/explain.ts';
import * as replay from '../../src/commands/replay.ts';
import { UsageError } from '../../src/errors.ts';
import { startProcess } from '../support/process.ts';
import { createScene, realUserIds, type Scene } from '../support/world.ts';
import { runCommand, textOf, withoutCredentials } from './context.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

async function begin(): Promise<{ s: Scene; userId: string }> {
  const s = await createScene({ simulator: { users: 20 } });
  scene = s;
  expect((await runCommand(backfill, s)).exitCode).toBe(0);
  return { s, userId: realUserIds(s)[0] ?? '' };
}

const isThere = async (s: Scene, userId: string) =>
  (await s.query(sql`select 1 from ${s.database.mirror.t.users} where user_id = ${userId}`))
    .length === 1;

const adminLog = (s: Scene) =>
  s.query<Record<string, unknown>>(
    sql`select action, detail, outcome from ${s.database.mirror.t.adminLog} order by entry_id`,
  );

describe('rollcall erase', () => {
  it('does nothing unless it is meant: asks a person, and wants --yes where nobody is', async () => {
    const { s, userId } = await begin();
    await expect(runCommand(erase, s)).rejects.toThrow(UsageError);
    const mail = runCommand(erase, s, { user: 'ada@example.com', yes: true });
    await expect(mail).rejects.toThrow('wants a user id');
    await expect(runCommand(erase, s, { user: userId })).rejects.toThrow('say --yes');
    const no = await runCommand(erase, s, { user: userId }, { answer: false });
    expect(no).toMatchObject({ exitCode: 3, stdout: ['nothing was done'] });
    expect(no.stderr.join()).toMatch(/^Remove everything .* for good/);
    expect(await isThere(s, userId)).toBe(true);
    const yes = await runCommand(erase, s, { user: userId }, { answer: true });
    expect(yes.exitCode).toBe(0);
    expect(yes.stdout[0]).toMatch(
      new RegExp(`^${userId} is erased; removed: users 1, .*changes 1`),
    );
    expect(await isThere(s, userId)).toBe(false);
    await s.assertPrivate(textOf(yes));
  });

  it('may be said again, and says that it was', async () => {
    const { s, userId } = await begin();
    const first = await runCommand(erase, s, { user: userId, yes: true }, { json: true });
    expect(first.json()).toMatchObject({
      erased: true,
      userId,
      again: false,
      counts: { users: 1 },
    });
    const again = await runCommand(erase, s, { user: userId, yes: true }, { json: true });
    const { erasedAt } = first.json();
    expect(again.json()).toMatchObject({ again: true, erasedAt, counts: { users: 0 } });
    expect(again.exitCode).toBe(0);
  });

  it('answers 3 of a user nobody knows, and erases them in advance where that is wanted', async () => {
    const { s } = await begin();
    const unknown = await runCommand(erase, s, { user: 'U0nobody', yes: true });
    expect(unknown.exitCode).toBe(3);
    expect(unknown.stdout.join(' ')).toMatch(/nothing is known .*--even-unknown/);
    const options = { user: 'U0nobody', yes: true, evenUnknown: true };
    expect((await runCommand(erase, s, options)).exitCode).toBe(0);
    expect((await runCommand(explain, s, { user: 'U0nobody' })).exitCode).toBe(0);
  });

  it('is what `explain` tells from then on', async () => {
    const { s, userId } = await begin();
    await runCommand(erase, s, { user: userId, yes: true, by: 'ticket-4711' });
    const told = await runCommand(explain, s, { user: userId });
    expect(told.exitCode).toBe(0);
    expect(told.stdout[0]).toBe(`${userId}: not in the mirror`);
    expect(told.stdout[1]).toMatch(/^erased at 2\d{3}-.*Z \(ticket-4711\): nothing of it is kept/);
    const json = (await runCommand(explain, s, { user: userId }, { json: true })).json();
    expect(json).toMatchObject({ known: true, present: null, erased: { erasedBy: 'ticket-4711' } });
  });

  it('is in the admin log without the user, who also goes from what the log told before', async () => {
    const { s, userId } = await begin();
    await runCommand(replay, s, { user: userId });
    await runCommand(erase, s, { user: userId, yes: true, by: 'ada@example.com' });
    expect(await adminLog(s)).toMatchObject([
      { action: 'replay', detail: { userId: '[erased]' }, outcome: 'done' },
      { action: 'erase', detail: { by: '[email]', users: 1, admin_log: 1 }, outcome: 'done' },
    ]);
    expect(JSON.stringify(await adminLog(s))).not.toContain(userId);
  });

  it('is taken back by --undo, and the next sweep mirrors the user again', async () => {
    const { s, userId } = await begin();
    const early = await runCommand(erase, s, { user: userId, undo: true });
    expect(early).toMatchObject({ exitCode: 3, stdout: [`${userId} was not erased`] });
    await runCommand(erase, s, { user: userId, yes: true });
    await runCommand(backfill, s);
    expect(await isThere(s, userId)).toBe(false);
    const undone = await runCommand(erase, s, { user: userId, undo: true }, { json: true });
    expect(undone.json()).toEqual({ undone: true });
    await runCommand(backfill, s);
    expect(await isThere(s, userId)).toBe(true);
    await s.assertEqual();
  });

  it('needs no credentials, and in a process of its own nobody to ask means 2', async () => {
    const { s, userId } = await begin();
    const env = withoutCredentials(s);
    const refused = startProcess(['erase', userId], { env });
    expect(await refused.exit).toBe(2);
    expect(refused.stderr()).toMatch(/^error: erase: nobody is here to be asked; say --yes/);
    const words = ['erase', userId, '--also', 'a@example.com', '+4912345678', '--yes', '--json'];
    const done = startProcess(words, { env });
    expect(await done.exit).toBe(0);
    expect(JSON.parse(done.stdout())).toMatchObject({ erased: true, userId });
  });
});
