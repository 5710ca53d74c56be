import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it, test } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as deletions from '../../src/commands/deletions.ts';
import * as explain from '../../src/commands/explain.ts';
import * as sync from '../../src/commands/sync.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { readExplain, type Explanation } from '../../src/readers/explain.ts';
import { toStory } from '../../src/readers/story.ts';
import { parseRecord } from '../../src/webhook/parse.ts';
import { startProcess } from '../support/process.ts';
import { createScene, createWorld, type Scene, type World } from '../support/world.ts';
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

function realUsers(s: Scene): string[] {
  return [...s.simulator.directory.users()].filter((u) => !u.test).map((u) => u.userId);
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
    const [userId = '', other = ''] = realUsers(s);
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
        /^UsersModified \(event [0-9a-f]{8}\) told by webhook, of 2026-06-08T20:18:25.871000Z$/,
      ),
      expect.stringMatching(/^updated by (modified|webhook), as observed at .*: givenName, phone$/),
      expect.stringMatching(/^UsersModified .* applied: 2 present$/),
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
    const gone = realUsers(s).slice(0, 6);
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
    const [userId = ''] = realUsers(s);
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

describe('toStory', () => {
  test('what is still so comes last, whatever its kind', () => {
    const instant = (second: number) => `2026-11-21T00:00:0${second}.000000Z`;
    const story = toStory({
      events: [
        {
          ...{ eventId: 'abcdef0123', action: 'UserModified', state: 'pending', attempts: 2 },
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
      ['01', 'event', `UserModified (event abcdef01) told by webhook, of ${instant(0)}`],
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

describe('rollcall explain', () => {
  it('exits 0 with a story, 3 with one line where nothing is known, 2 without a user', async () => {
    const s = await begin(5);
    const [userId = ''] = realUsers(s);
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
    const [userId = ''] = realUsers(w);
    const base = `http://127.0.0.1:${w.service.adminPort}/api/users`;
    const known = await fetch(`${base}/${userId}/explain`);
    expect(known.status).toBe(200);
    expect(await known.json()).toMatchObject({ userId, changes: [{ kind: 'created' }] });
    expect((await fetch(`${base}/U2nobody/explain`)).status).toBe(404);
  });
});

it('a tombstone older than its feed is told as what it is', async () => {
  const s = await begin(3);
  const [userId = ''] = realUsers(s);
  const { t, db } = s.database.mirror;
  await db.execute(sql`
    update ${t.users} set deleted_at = '2026-11-01T00:00Z' where user_id = ${userId}`);
  const lines = (await runCommand(explain, s, { user: userId })).stdout;
  expect(lines[0]).toContain(`${userId}: tombstone since 2026-11-01T00:00:00.000000Z`);
});
