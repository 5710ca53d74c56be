import { sql, type SQL } from 'drizzle-orm';
import { afterEach, describe, expect, it, test } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as deletions from '../../src/commands/deletions.ts';
import * as explain from '../../src/commands/explain.ts';
import * as sync from '../../src/commands/sync.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { putBackEvents } from '../../src/inbox/replay.ts';
import { readExplain, type Explanation } from '../../src/readers/explain.ts';
import { toStory } from '../../src/readers/story.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { eventually } from '../support/eventually.ts';
import { startProcess } from '../support/process.ts';
import { createScene, createWorld, realUserIds, type Scene, type World } from '../support/world.ts';
import { runCommand, textOf, withoutCredentials } from './context.ts';

import type { EventWitness } from '../../src/inbox/record.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

async function begin(users: number, env: Record<string, string> = {}): Promise<Scene> {
  const s = await createScene({
    simulator: { users },
    env: { PULL_SETTLE_SECONDS: '0', ...env },
  });
  scene = s;
  expect((await runCommand(backfill, s)).exitCode).toBe(0);
  return s;
}

async function record(s: Scene, witness: EventWitness, action: string, userIds: string[]) {
  const nowMs = Date.now();
  const event = parseRecord({ action, userIds, occurred: 1_780_949_905_871 }, nowMs);
  if (!event) throw new Error('not an event');
  const { db, t } = s.database.mirror;
  await recordEvents(db, t, [event], witness, { archiveAll: false });
}

async function explained(s: Scene, user: string): Promise<Explanation> {
  const explanation = await readExplain(s.database.mirror, user);
  if (!explanation) throw new Error('nothing is known');
  return explanation;
}

const textsOf = ({ story }: Explanation) => story.map(({ text }) => text);

describe('readExplain', () => {
  it("tells a user's story in order of time, by witness, without a value", async () => {
    const s = await begin(40);
    const [userId = '', other = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(
      userId,
      { givenName: 'Grace', phone: '+15550109' },
      { event: false },
    );
    await record(s, 'webhook', 'UsersModified', [userId, other]);
    expect((await runCommand(sync, s)).exitCode).toBe(0);
    await record(s, 'audit', 'UsersModified', [userId, other]);

    const found = await explained(s, userId);
    expect(textsOf(found)).toEqual([
      expect.stringMatching(/^created by sweep, as observed at /),
      expect.stringMatching(
        /^UsersModified \(event [0-9a-f]{8}\) told by webhook \d+ days after 2026-06-08T20:18:25.871000Z$/,
      ),
      expect.stringMatching(/^updated by (modified|webhook), as observed at .*: givenName, phone$/),
      expect.stringMatching(
        /^UsersModified .* applied: 2 present, read at \S+Z: (1 updated; 1|2) unchanged$/,
      ),
      expect.stringMatching(/^UsersModified .* told by audit/),
    ]);
    const times = found.story.map(({ at }) => at);
    expect(times).toEqual([...times].sort());
    expect(found).toMatchObject({
      userId,
      others: [],
      present: { state: 'live', deletedAt: null, test: false },
      events: [{ action: 'UsersModified', state: 'applied', looks: 1, archiveAt: null }],
      changes: [{ kind: 'created' }, { kind: 'updated', changed: ['givenName', 'phone'] }],
      deletions: [],
      windows: [{ state: 'proven', outcome: 'complete', error: null }],
      truncated: false,
    });
    await s.assertPrivate(JSON.stringify(found));
    expect(JSON.stringify(found)).not.toContain(other);
  });

  it('tells how a deletion was found, held, and decided', async () => {
    const s = await begin(60, { BREAKER_MAX_COUNT: '5' });
    const gone = realUserIds(s).slice(0, 6);
    const [approved = '', rejected = ''] = gone;
    s.simulator.directory.deleteMany(gone, { event: false });
    await runCommand(backfill, s);
    const waiting = await explained(s, approved);
    expect(textsOf(waiting).slice(1)).toEqual([
      expect.stringMatching(/^deletion \d+ nominated: not found by run \d+, a sweep$/),
      expect.stringMatching(/^deletion \d+ verified: a load by id says gone$/),
      expect.stringMatching(/^deletion \d+ held: more at once than the breaker allows/),
    ]);
    expect(waiting.story.at(-1)?.at).toBeNull();
    expect(waiting.present).toMatchObject({ state: 'live' });
    expect(waiting.windows).toHaveLength(2);

    await runCommand(deletions, s, { action: 'approve', ids: [approved] });
    await runCommand(deletions, s, { action: 'reject', ids: [rejected] });
    const decided = await explained(s, approved);
    expect(decided.present).toMatchObject({ state: 'tombstone', witness: 'manual' });
    const texts = textsOf(decided).join('\n');
    expect(texts).toContain('deleted by manual');
    expect(texts).toMatch(/deletion \d+ tombstoned \(missing from a proven window, .*; approved: /);
    expect(textsOf(await explained(s, rejected)).at(-1)).toMatch(
      /rejected by a person, the user stays \(.*; rejected\)$/,
    );
  });

  it('finds users by login id: who has it now first, who had it besides', async () => {
    const s = await begin(10);
    const [userId = ''] = realUserIds(s);
    const [loginId = ''] = s.simulator.directory.answer(userId)?.loginIds ?? [];
    const heir = s.simulator.directory.recreateUser(userId, { event: false });
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    const found = await explained(s, loginId);
    expect(found).toMatchObject({ userId: heir.userId, others: [userId] });
    const text = await runCommand(explain, s, { user: loginId });
    expect(text.stdout[1]).toBe(`this login id was also that of ${userId}`);
    expect(textOf(text)).not.toContain(loginId);
    // An id is an id, even where it could be somebody's login id.
    expect(await explained(s, userId)).toMatchObject({ userId, others: [] });
  });

  it('finds events that name the user by login id only, and says so', async () => {
    const s = await begin(10);
    const [userId = '', other = ''] = realUserIds(s);
    const loginIds = s.simulator.directory.answer(userId)?.loginIds ?? [];
    const theirs = s.simulator.directory.answer(other)?.loginIds ?? [];
    const { db, t } = s.database.mirror;
    const nowMs = Date.now();
    for (const fields of [
      { loginIds },
      // These are about somebody else: by their login id, or by the id that comes with ours.
      { loginIds: theirs },
      { userId: other, loginIds },
    ]) {
      const event = parseRecord({ action: 'UserModified', occurred: nowMs, ...fields }, nowMs);
      if (!event) throw new Error('not an event');
      await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
    }
    expect((await runCommand(sync, s)).exitCode).toBe(0);

    for (const asked of [userId, ...loginIds]) {
      const found = await explained(s, asked);
      expect(found).toMatchObject({ userId, events: [{ byLoginId: true, state: 'applied' }] });
      expect(textsOf(found).slice(1)).toEqual([
        expect.stringMatching(/^UserModified .* told by webhook .*, naming a login id only$/),
        expect.stringMatching(/^UserModified .* applied: 1 present, read at \S+Z: unchanged$/),
      ]);
      await s.assertPrivate(JSON.stringify(found));
    }
  });

  it("does not tell an event of a login id as the user's from before they had it", async () => {
    const s = await begin(10);
    const [userId = '', other = ''] = realUserIds(s);
    const [loginId = ''] = s.simulator.directory.answer(userId)?.loginIds ?? [];
    const { db, t } = s.database.mirror;
    const told = async (action: string) => {
      const nowMs = Date.now();
      const event = parseRecord({ action, loginIds: [loginId], occurred: nowMs }, nowMs);
      if (!event) throw new Error('not an event');
      await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
    };
    await told('UserCreated');
    const heir = s.simulator.directory.recreateUser(userId, { event: false });
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    await told('UserModified');
    expect((await explained(s, heir.userId)).events).toMatchObject([
      { action: 'UserCreated', perhapsAnothers: true },
      { action: 'UserModified', perhapsAnothers: false },
    ]);
    const texts = textsOf(await explained(s, heir.userId)).join('\n');
    expect(texts).toMatch(/UserCreated .*, naming a login id only, perhaps another user's then\n/);
    expect(texts).toMatch(/UserModified .*, naming a login id only\n/);
    // Who came by it with a change has it since that change.
    await db.execute(sql`
      insert into ${t.userChanges} (user_id, kind, changed, observed_at, witness)
      values (${heir.userId}, 'updated', array['loginIds'], clock_timestamp(), 'modified')`);
    const moved = await explained(s, heir.userId);
    expect(moved.events.map((event) => event.perhapsAnothers)).toEqual([true, true]);
    expect((await explained(s, other)).events).toEqual([]);
  });

  it('knows a login id that only events name, without repeating it', async () => {
    const s = await begin(1);
    const { db, t } = s.database.mirror;
    const nowMs = Date.now();
    const loginId = 'nobody-yet@example.com';
    const record = { action: 'UserCreated', loginIds: [loginId], occurred: nowMs };
    const event = parseRecord(record, nowMs);
    if (!event) throw new Error('not an event');
    await recordEvents(db, t, [event], 'audit', { archiveAll: false });
    expect(await explained(s, loginId)).toMatchObject({ userId: null, present: null });
    const text = await runCommand(explain, s, { user: loginId });
    expect(text.exitCode).toBe(0);
    expect(text.stdout[0]).toBe('a login id that no user in the mirror has or had');
    expect(textOf(text)).toMatch(
      /told by audit .*naming a login id only, no webhook brought it so far/,
    );
    expect(textOf(text)).not.toContain(loginId);
  });

  it('tells what was written and what not, and by which rule', async () => {
    const s = await begin(60, { BREAKER_MAX_COUNT: '5' });
    const users = [...s.simulator.directory.users()];
    const testUser = users.find((user) => user.test)?.userId ?? '';
    const [userId = '', ...others] = realUserIds(s);
    const outcomeOf = async (action: string, userIds: string[]) => {
      await record(s, 'webhook', action, userIds);
      await runCommand(sync, s);
      const { events } = await explained(s, userIds[0] ?? '');
      return events.find((event) => event.action === action)?.outcome;
    };
    const read = String.raw`, read at \d{4}-\S+Z`;
    expect(await outcomeOf('UserModified', [userId])).toMatch(
      RegExp(`^1 present${read}: unchanged$`),
    );
    expect(await outcomeOf('UserModified', [testUser])).toMatch(
      RegExp(`^1 present${read}: left out, a test user$`),
    );
    s.simulator.directory.deleteUser(userId, { event: false });
    expect(await outcomeOf('UserDeleted', [userId])).toMatch(
      RegExp(`^1 absent${read}: tombstoned$`),
    );
    expect(await outcomeOf('UsersDeleted', [userId])).toMatch(
      RegExp(`^1 absent${read}: gone already$`),
    );
    const many = others.slice(0, 6);
    s.simulator.directory.deleteMany(many, { event: false });
    expect(await outcomeOf('UsersDeleted', many)).toMatch(
      RegExp(`^6 absent(${read})?: 6 not deleted, held by the breaker$`),
    );
    expect(textsOf(await explained(s, many[0] ?? '')).at(1)).toMatch(/told by webhook/);
    expect(textsOf(await explained(s, userId)).join('\n')).toMatch(
      /deletion \d+ nominated: reported by webhook, verified: a load by id says gone at \S+Z\n/,
    );
  });

  it("names the modified pull's windows that a user's last change lies in", async () => {
    const s = await createScene({
      simulator: { users: 5, behaviour: { sendModifiedTime: true } },
      env: { PULL_SETTLE_SECONDS: '0' },
    });
    scene = s;
    await runCommand(backfill, s);
    const [userId = ''] = realUserIds(s);
    s.simulator.directory.modifyUser(userId, { givenName: 'Grace' }, { event: false });
    // A window ends a moment before the pull: what has just changed lies in the next.
    await eventually(async () => {
      await runCommand(sync, s);
      const { windows } = await explained(s, userId);
      const told = new Set(windows.map(({ pull, state }) => `${pull} ${state}`));
      expect([...told]).toEqual(['modified proven', 'sweep proven']);
    });
    const text = textOf(await runCommand(explain, s, { user: userId }));
    expect(text).toMatch(/^modified \d+: its last change lies in window \d+, proven at /m);
    expect(text).toMatch(/^sweep \d+ \(complete\): its creation lies in window \d+, proven at /m);
  });

  it('knows a user of whom there is only an event, and nobody else', async () => {
    const s = await begin(1);
    await record(s, 'archive', 'UserDeleted', ['U2never']);
    expect(await explained(s, 'U2never')).toMatchObject({
      present: null,
      windows: [],
      changes: [],
    });
    const line = (await runCommand(explain, s, { user: 'U2never' })).stdout;
    expect(line[0]).toBe('U2never: not in the mirror');
    expect(line.join('\n')).toMatch(/now +event +UserDeleted .* waits to be looked at from /);
    expect(await readExplain(s.database.mirror, 'U2nobody')).toBeNull();
  });

  it('lists no more than the latest 500 events, and says that there were more', async () => {
    const s = await begin(1);
    const { db, t } = s.database.mirror;
    const events = Array.from({ length: 502 }, (_, at) => {
      const record = { action: 'UserModified', userId: 'U2busy', occurred: 1_780_000_000_000 + at };
      const event = parseRecord(record, Date.now());
      if (!event) throw new Error('not an event');
      return event;
    });
    for (const event of events) {
      await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
    }
    const found = await explained(s, 'U2busy');
    expect(found.truncated).toBe(true);
    expect(found.events).toHaveLength(500);
    expect(found.events[0]?.occurredAt).toBe('2026-05-28T20:26:40.002000Z');
    const lines = (await runCommand(explain, s, { user: 'U2busy' })).stdout;
    expect(lines).toContain('… and older ones, in the tables events, user_changes and deletions');
  });
});

describe('in a mirror of years', () => {
  it("finds a user's events by their index, and windows among the near ones", async () => {
    const s = await begin(5);
    const [userId = ''] = realUserIds(s);
    const { mirror } = s.database;
    const { db, t } = mirror;
    await db.execute(sql`
      insert into ${t.events} (event_id, action, occurred_at, payload, received_at, state, user_ids)
      select 'e' || n, 'UserModified', at, '{}', at, 'applied',
             case when n = 1 then array[${userId}] else array['U2other' || n % 20] end
      from (select n, clock_timestamp() - interval '1 day' + n * interval '1 second' as at
            from generate_series(1, 20000) as n) as moments`);
    await db.execute(sql`
      update ${t.users} set modified_time = clock_timestamp() - interval '5 days'
      where user_id = ${userId}`);
    // Beyond 2^31, as ids of a mirror may be after years.
    await db.execute(sql`
      with run as (insert into ${t.syncRuns} (run_id, pull, reason, outcome, finished_at)
                   overriding system value
                   select 3000000000 + n, 'modified', 'schedule', 'complete', clock_timestamp()
                   from generate_series(1, 20000) as n returning run_id)
      insert into ${t.syncWindows}
        (window_id, run_id, pull, from_time, to_time, proven_at, state)
        overriding system value
      select run_id, run_id, 'modified', at - interval '5 minutes', at, at, 'proven'
      from (select run_id, clock_timestamp() - (run_id - 3000000000) * interval '1 minute' as at
            from run) as moments`);
    await db.execute(sql`
      insert into ${t.userChanges} (seq, user_id, kind, observed_at, witness)
      overriding system value values (3000000000, ${userId}, 'updated', clock_timestamp(), 'modified')`);
    await db.execute(sql`vacuum analyze ${t.events}, ${t.syncWindows}, ${t.syncRuns}`);
    const plans: string[] = [];
    const watched = {
      ...mirror,
      db: {
        execute: async (query: SQL) => {
          const { rows: plan } = await db.execute(sql`explain ${query}`);
          plans.push(plan.map((line) => line['QUERY PLAN']).join('\n'));
          return db.execute(query);
        },
      } as unknown as typeof db,
    };
    const found = await readExplain(watched, userId);
    expect(found).toMatchObject({
      events: [{ eventId: 'e1' }],
      changes: [{ kind: 'created' }, { seq: 3_000_000_000 }],
    });
    const near = found?.windows.filter(({ pull }) => pull === 'modified') ?? [];
    expect(near).toHaveLength(3);
    for (const { windowId } of near) expect(windowId).toBeGreaterThan(3_000_007_190);
    expect(plans.join('\n')).toMatch(/events_user_ids/);
    expect(plans.join('\n')).not.toMatch(/Seq Scan on (events|sync_windows)|events_received/);
    expect(await putBackEvents(watched, { ...ALL, userId }, new AbortController().signal)).toBe(1);
    expect(plans.at(-1)).not.toMatch(/Seq Scan on events|events_received/);
  });

  it('lists a window around an event no later than it was proven', async () => {
    const s = await begin(5);
    const [userId = ''] = realUserIds(s);
    const { db, t } = s.database.mirror;
    const modifiedAt = (minutes: number) =>
      db.execute(sql`
        update ${t.users} set modified_time = '2026-11-01T01:00Z'::timestamptz + make_interval(mins => ${minutes})
        where user_id = ${userId}`);
    await db.execute(sql`
      with run as (insert into ${t.syncRuns} (pull, reason, outcome)
                   values ('modified', 'an event that names nobody', 'complete') returning run_id)
      insert into ${t.syncWindows} (run_id, pull, from_time, to_time, proven_at, state)
      select run_id, 'modified', '2026-11-01T00:55Z', '2026-11-01T01:05Z', '2026-11-01T01:01Z', 'proven'
      from run`);
    const pulls = async () => (await explained(s, userId)).windows.map(({ pull }) => pull);
    await modifiedAt(0);
    expect(await pulls()).toEqual(['modified', 'sweep']);
    await modifiedAt(3);
    expect(await pulls()).toEqual(['sweep']);
  });
});

const ALL = { since: null, userId: null, failedOnly: false };

describe('toStory', () => {
  test('what is still so comes last, whatever its kind', () => {
    const instant = (second: number) => `2026-11-21T00:00:0${second}.000000Z`;
    const story = toStory({
      events: [
        {
          ...{ eventId: 'abcdef0123', byLoginId: true, action: 'UserModified', state: 'pending' },
          ...{ perhapsAnothers: false, attempts: 2 },
          ...{ occurredAt: instant(0), receivedAt: instant(1), webhookAt: instant(1) },
          ...{ auditAt: null, archiveAt: null, appliedAt: null, dueAt: instant(9), looks: 0 },
          ...{ outcome: null, error: 'refused' },
        },
      ],
      changes: [
        {
          ...{ seq: 1, kind: 'created', changed: [], witness: 'sweep' },
          ...{ observedAt: instant(1), writtenAt: instant(2) },
        },
      ],
      deletions: [
        {
          ...{ deletionId: 7, state: 'suspected', witness: 'sweep', runId: 3, pull: 'sweep' },
          ...{ nominatedAt: instant(0), verifiedAt: null, decidedAt: null },
          evidence: null,
        },
      ],
    });
    expect(story.map(({ at, about, text }) => [at?.slice(17, 19) ?? 'now', about, text])).toEqual([
      ['00', 'deletion', 'deletion 7 nominated: not found by run 3, a sweep'],
      [
        '01',
        'event',
        `UserModified (event abcdef01) told by webhook 1.0 s after ${instant(0)}, naming a login id only`,
      ],
      ['02', 'change', `created by sweep, as observed at ${instant(1)}`],
      [
        'now',
        'event',
        `UserModified (event abcdef01) waits to be looked at from ${instant(9)} (refused, 2 attempts)`,
      ],
      ['now', 'deletion', 'deletion 7 suspected, to be loaded by id'],
    ]);
  });
});

test('a deletion is told as decided after it was entered, though one statement did both', () => {
  const at = (micros: number) => `2026-11-21T00:00:00.00000${micros}Z`;
  const deletion = {
    ...{ deletionId: 7, state: 'tombstoned', witness: 'webhook', runId: null, pull: null },
    ...{ nominatedAt: at(5), verifiedAt: at(1), decidedAt: at(4), evidence: 'not found' },
  };
  const story = toStory({ events: [], changes: [], deletions: [deletion] });
  expect(story.map(({ at, text }) => [at?.slice(25, 26), text])).toEqual([
    [
      '5',
      `deletion 7 nominated: reported by webhook, verified: a load by id says gone at ${at(1)}`,
    ],
    ['5', 'deletion 7 tombstoned (not found)'],
  ]);
});

describe('rollcall explain', () => {
  it('exits 0 with a story, 3 with one line where nothing is known, 2 without a user', async () => {
    const s = await begin(5);
    const [userId = ''] = realUserIds(s);
    const env = withoutCredentials(s);
    const known = startProcess(['explain', userId, '--json'], { env });
    expect(await known.exit).toBe(0);
    expect(JSON.parse(known.stdout())).toMatchObject({ known: true, userId });
    const unknown = startProcess(['explain', 'nobody@example.com'], { env });
    expect(await unknown.exit).toBe(3);
    expect(unknown.stdout()).toMatch(/^nothing is known of this user[^\n]*\n$/);
    expect(await startProcess(['explain'], { env }).exit).toBe(2);
    const json = await runCommand(explain, s, { user: 'U2nobody' }, { json: true });
    expect(json).toMatchObject({ exitCode: 3 });
    expect(json.json()).toMatchObject({ known: false });
  });

  it('is answered over HTTP too', async () => {
    const w: World = await createWorld({ simulator: { users: 5 } });
    scene = w;
    await w.untilFilled();
    const [userId = ''] = realUserIds(w);
    const base = `http://127.0.0.1:${w.service.adminPort}/api/users`;
    const known = await fetch(`${base}/${userId}/explain`);
    expect(known.status).toBe(200);
    expect(await known.json()).toMatchObject({ userId, changes: [{ kind: 'created' }] });
    expect((await fetch(`${base}/U2nobody/explain`)).status).toBe(404);
  });
});

it('a tombstone older than its feed is told as what it is', async () => {
  const s = await begin(3);
  const [userId = ''] = realUserIds(s);
  const { t, db } = s.database.mirror;
  await db.execute(sql`
    update ${t.users} set deleted_at = '2026-11-01T00:00Z' where user_id = ${userId}`);
  const lines = (await runCommand(explain, s, { user: userId })).stdout;
  expect(lines[0]).toContain(`${userId}: tombstone since 2026-11-01T00:00:00.000000Z`);
});
