import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import { applyPending } from '../../src/commands/applyPending.ts';
import * as backfill from '../../src/commands/backfill.ts';
import * as explain from '../../src/commands/explain.ts';
import * as replay from '../../src/commands/replay.ts';
import * as status from '../../src/commands/status.ts';
import { parseConfig } from '../../src/config.ts';
import { createEngine } from '../../src/engine.ts';
import { Stopping, UsageError } from '../../src/errors.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { putBackEvents } from '../../src/inbox/replay.ts';
import { createLogger } from '../../src/log.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { startProcess } from '../support/process.ts';
import { createScene, realUserIds, type Scene } from '../support/world.ts';
import { runCommand, textOf } from './context.ts';
import { startRefusingDescope, type RefusingDescope } from './refusingDescope.ts';

import type { DirectoryEvent } from '../../src/inbox/event.ts';

let scene: Scene | undefined;
let refusing: RefusingDescope | undefined;
afterEach(async () => {
  await refusing?.stop();
  refusing = undefined;
  await scene?.stop();
  scene = undefined;
});

async function begin(users = 20): Promise<Scene> {
  const s = await createScene({ simulator: { users }, env: { PULL_SETTLE_SECONDS: '0' } });
  scene = s;
  return s;
}

/** Records events of these actions and users; each at a moment of its own, so that none is another's double. */
async function record(s: Scene, told: readonly (readonly [action: string, userId: string])[]) {
  const nowMs = Date.now();
  const events = told
    .map(([action, userId], at) => parseRecord({ action, userId, occurred: nowMs - at }, nowMs))
    .filter((event): event is DirectoryEvent => event !== null);
  const { db, t } = s.database.mirror;
  await recordEvents(db, t, events, 'webhook', { archiveAll: true });
  return events.map((event) => event.eventId);
}

async function setState(s: Scene, eventIds: readonly string[], state: string): Promise<void> {
  await s.database.mirror.db.execute(sql`
    update ${s.database.mirror.t.events}
    set state = ${state}, attempts = 5, looks = 3,
        applied_at = case when ${state} = 'applied' then clock_timestamp() end
    where event_id = any(${sql.param(eventIds)}::text[])`);
}

async function states(s: Scene): Promise<Record<string, number>> {
  const found = await s.query<{ state: string; count: number }>(
    sql`select state, count(*)::int as count from ${s.database.mirror.t.events} group by state`,
  );
  return Object.fromEntries(found.map(({ state, count }) => [state, count]));
}

describe('rollcall replay', () => {
  it('wants to be told which events', async () => {
    const s = await begin(0);
    const nothing = runCommand(replay, s);
    await expect(nothing).rejects.toThrow(UsageError);
    await expect(nothing).rejects.toThrow(/--since <instant>, --user <id>, --failed/);
    await expect(runCommand(replay, s, { since: 'yesterday' })).rejects.toThrow(
      '--since must be an instant',
    );
  });

  it('applies the failed ones again, as if they had just come, and no others', async () => {
    const s = await begin();
    const [a = '', b = '', c = ''] = realUserIds(s);
    const ids = await record(s, [
      ['UserCreated', a],
      ['UserCreated', b],
      ['LoginSucceed', c],
    ]);
    await setState(s, ids.slice(0, 1), 'parked');
    await setState(s, ids.slice(1, 2), 'applied');
    const done = await runCommand(replay, s, { failed: true });
    expect(done).toMatchObject({
      exitCode: 0,
      stdout: ['1 event put back', '1 event applied, 0 still pending'],
    });
    expect(await states(s)).toEqual({ applied: 2, archived: 1 });
    const [event] = await s.query(
      sql`select attempts, looks, outcome, error from ${s.database.mirror.t.events}
          where event_id = ${ids[0]}`,
    );
    const outcome = expect.stringMatching(/^1 present, read at \S+Z: created$/) as string;
    expect(event).toEqual({ attempts: 0, looks: 1, outcome, error: null });
    expect(await s.query(sql`select user_id from ${s.database.mirror.t.users}`)).toEqual([
      { user_id: a },
    ]);
    const none = await runCommand(replay, s, { failed: true }, { json: true });
    expect(none).toMatchObject({ exitCode: 0 });
    expect(none.json()).toEqual({ putBack: 0, applied: 0, pending: 0, opened: false });
  });

  it('leaves in the admin log what was replayed, and no mail address', async () => {
    const s = await begin();
    const [a = ''] = realUserIds(s);
    await setState(s, await record(s, [['UserModified', a]]), 'parked');
    await runCommand(replay, s, { failed: true });
    await runCommand(replay, s, { user: 'ada@example.com' });
    const entry = { actor: 'command', action: 'replay', outcome: 'done' };
    expect(
      await s.query(sql`select actor, action, detail, outcome from ${s.database.mirror.t.adminLog}
                        order by entry_id`),
    ).toEqual([
      { ...entry, detail: { since: null, userId: null, failedOnly: true, events: 1 } },
      { ...entry, detail: { since: null, userId: '[email]', failedOnly: false, events: 0 } },
    ]);
  });

  it('applies those of a user, or since a time, applied ones as well; never archived ones', async () => {
    const s = await begin();
    const [a = '', b = '', c = ''] = realUserIds(s);
    const ids = await record(s, [
      ['UserModified', a],
      ['UserModified', b],
      ['UserModified', c],
      ['LoginSucceed', a],
    ]);
    await setState(s, ids.slice(0, 3), 'applied');
    const { t, db } = s.database.mirror;
    await db.execute(sql`
      update ${t.events} set received_at = '2026-01-01T00:00Z' where event_id = ${ids[1]}`);
    await db.execute(sql`
      update ${t.events} set received_at = '2026-02-01T00:00Z' where event_id = ${ids[2]}`);

    const ofUser = await runCommand(replay, s, { user: a }, { json: true });
    expect(ofUser.json()).toMatchObject({ putBack: 1, applied: 1 });
    const since = async (instant: string, more = {}) =>
      (await runCommand(replay, s, { since: instant, ...more }, { json: true })).json()['putBack'];
    expect(await since('2026-02-01T00:00:00Z')).toBe(2);
    expect(await since('2026-02-01T01:00:01+01:00')).toBe(1);
    expect(await since('2025-12-31')).toBe(3);
    expect(await since('2025-12-31', { user: b })).toBe(1);
    expect(await since('2025-12-31', { failed: true })).toBe(0);
    expect(await states(s)).toEqual({ applied: 3, archived: 1 });
  });

  it("applies a user's that name them by login id only, and nobody else's", async () => {
    const s = await begin();
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    const [a = '', b = ''] = realUserIds(s);
    const nowMs = Date.now();
    const { db, t } = s.database.mirror;
    const ids: string[] = [];
    for (const userId of [a, b]) {
      const loginIds = s.simulator.directory.answer(userId)?.loginIds ?? [];
      const event = parseRecord({ action: 'UserModified', loginIds, occurred: nowMs }, nowMs);
      if (!event) throw new Error('not an event');
      await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
      ids.push(event.eventId);
    }
    await setState(s, ids, 'parked');
    const ofUser = await runCommand(replay, s, { user: a }, { json: true });
    expect(ofUser.json()).toMatchObject({ putBack: 1, applied: 1 });
    expect(await states(s)).toEqual({ applied: 1, parked: 1 });
  });

  it('goes through thousands of events in batches, each once', async () => {
    const s = await begin(2_300);
    const ids = await record(
      s,
      realUserIds(s).map((userId) => ['UserCreated', userId] as const),
    );
    await setState(s, ids, 'applied');
    // As one statement of the inbox leaves them: all received in the same moment.
    const { t, db } = s.database.mirror;
    await db.execute(sql`update ${t.events} set received_at = '2026-01-01T00:00Z'`);
    const all = await runCommand(replay, s, { since: '2026-01-01' }, { json: true });
    expect(ids.length).toBeGreaterThan(2_000);
    expect(all.json()).toMatchObject({ putBack: ids.length, applied: ids.length, pending: 0 });
    await s.assertEqual();
  });

  it('says when an event that names nobody opened a window, and does not wait for it', async () => {
    const s = await begin();
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    const nowMs = Date.now();
    // Too long ago for the next pull to reach back to it.
    const event = parseRecord({ action: 'UsersModified', occurred: nowMs - 3_600_000 }, nowMs);
    if (!event) throw new Error('not an event');
    const { db, t } = s.database.mirror;
    await recordEvents(db, t, [event], 'audit', { archiveAll: false });
    await setState(s, [event.eventId], 'applied');
    const replayed = await runCommand(replay, s, { since: '2026-01-01' });
    expect(replayed.exitCode).toBe(3);
    expect(replayed.stdout.at(-2)).toContain('1 still pending');
    expect(replayed.stdout.at(-1)).toContain('a window or a sweep waits to be read');
  });

  it('stops between two batches when the process is asked to', async () => {
    const s = await begin();
    const stopped = AbortSignal.abort();
    const selection = { since: null, userId: null, failedOnly: true };
    await expect(putBackEvents(s.database.mirror, selection, stopped)).rejects.toThrow(Stopping);
  });
});

describe('applyPending', () => {
  it('leaves what is put off again and again to the service', async () => {
    const s = await begin(0);
    const [eventId = ''] = await record(s, [['UserCreated', 'U2later']]);
    const { mirror } = s.database;
    let looks = 0;
    const applier = {
      async apply() {
        looks++;
        await mirror.db.execute(sql`
          update ${mirror.t.events} set due_at = clock_timestamp() + interval '20 ms'
          where event_id = ${eventId}`);
      },
    };
    const { signal } = new AbortController();
    expect(await applyPending({ mirror, applier, signal })).toBe(0);
    expect(looks).toBe(4);
    expect(await states(s)).toEqual({ pending: 1 });
  });
});

describe('a poison event', () => {
  it('is parked with its reason after its attempts, shown, and applied once the cause is gone', async () => {
    const s = await begin(30);
    refusing = await startRefusingDescope(s.simulator.url);
    const env = { ...s.env, DESCOPE_BASE_URL: refusing.url };
    const through = { ...s, config: parseConfig(env) };
    expect((await runCommand(backfill, through)).exitCode).toBe(0);

    const users = realUserIds(s).slice(0, 5);
    const [poisoned = ''] = users;
    for (const userId of users) {
      s.simulator.directory.modifyUser(userId, { givenName: 'Changed' }, { event: false });
    }
    const [poison = '', ...sound] = await record(
      s,
      users.map((userId) => ['UserModified', userId] as const),
    );
    refusing.refused.add(poisoned);
    const { db, t } = s.database.mirror;
    const engine = createEngine({
      config: through.config,
      log: createLogger({ level: 'silent' }),
      mirror: s.database.mirror,
      queues: null,
    });
    for (let attempt = 1; attempt <= 5; attempt++) {
      await engine.applier.apply([poison, ...sound]);
      const [row] = await s.query(
        sql`select state, attempts, due_at > clock_timestamp() as "isPutOff" from ${t.events}
            where event_id = ${poison}`,
      );
      const state = attempt < 5 ? 'pending' : 'parked';
      expect(row).toEqual({ state, attempts: attempt, isPutOff: true });
      // The others were applied in spite of it, at the first attempt.
      expect(await states(s)).toEqual({ applied: 4, [state]: 1 });
      await db.execute(
        sql`update ${t.events} set due_at = clock_timestamp() where state = 'pending'`,
      );
    }

    const shown = startProcess(['status'], { env: s.env });
    expect(await shown.exit).toBe(3);
    const reason = 'Descope refused user load: HTTP 400 E011002';
    expect(shown.stdout()).toContain(`1 × ${reason}`);
    expect((await runCommand(status, s, {}, { json: true })).json()).toMatchObject({
      events: { parked: 1, pending: 0 },
      parked: [{ reason, events: 1 }],
    });
    const explained = await runCommand(explain, s, { user: poisoned });
    expect(explained.stdout.join('\n')).toContain(`given up after 5 attempts: ${reason}`);

    const inVain = startProcess(['replay', '--failed', '--json'], { env });
    expect(await inVain.exit).toBe(3);
    expect(JSON.parse(inVain.stdout())).toMatchObject({ putBack: 1, applied: 0, pending: 1 });

    refusing.refused.clear();
    await setState(s, [poison], 'parked');
    const cured = startProcess(['replay', '--failed'], { env });
    expect(await cured.exit).toBe(0);
    expect(cured.stdout()).toBe('1 event put back\n1 event applied, 0 still pending\n');
    await s.assertEqual();
    const after = await runCommand(status, s);
    expect(after.exitCode).toBe(0);
    await s.assertPrivate(
      [shown.stdout(), textOf(explained), textOf(after), inVain.stderr()].join('\n'),
    );
  }, 60_000);
});
