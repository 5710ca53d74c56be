import { stripVTControlCharacters } from 'node:util';

import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it, test } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import { createScreen } from '../../src/commands/screen.ts';
import * as status from '../../src/commands/status.ts';
import * as sync from '../../src/commands/sync.ts';
import { toTable } from '../../src/commands/table.ts';
import { pruneFeed } from '../../src/feed/prune.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { createStatusReader } from '../../src/readers/status.ts';
import { parseRecord } from '../../src/inbox/parse.ts';
import { startProcess } from '../support/process.ts';
import { createScene, realUserIds, type Scene } from '../support/world.ts';
import { runCommand, textOf, withoutCredentials } from './context.ts';

import type { Status } from '../../src/commands/status.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

async function begin(users: number): Promise<Scene> {
  scene = await createScene({ simulator: { users }, env: { PULL_SETTLE_SECONDS: '0' } });
  return scene;
}

const PLAIN: Status = {
  generations: { hasNext: false, previous: null },
  asOf: '2026-11-21 01:20:00+00',
  lagSeconds: 12,
  sentence: 'Complete as of 12 s ago',
  state: 'complete',
  users: { live: 4_987, tombstones: 1, ageSeconds: 0 },
  watermarks: [
    { pull: 'audit', completeTo: '2026-11-21 01:20:00+00', lagSeconds: 12.3 },
    { pull: 'modified', completeTo: '2026-11-20 22:00:00+00', lagSeconds: 12_012 },
    { pull: 'sweep', completeTo: null, lagSeconds: null },
  ],
  gaps: 0,
  gapWindows: [],
  gapsRefilledLastDay: 0,
  lastRuns: [
    ...[{ pull: 'audit', runId: 8, outcome: 'complete', at: '2026-11-21T01:20:01.5+00:00' }],
    ...[{ pull: 'sweep', runId: 2, outcome: 'complete', at: '2026-11-20T03:00:00+00:00' }],
  ].map((run) => ({ ...run, reason: null })),
  sweep: null,
  events: {
    ...{ pending: 0, parked: 0, parkedReason: null, appliedLastHour: 7, receivedLastHour: 8 },
    ...{ lossRate: 0.0625, lossRateDay: 0.01 },
    ...{ webhookDelaySeconds: 0.42, webhookDelayDaySeconds: 1.3 },
  },
  queues: [
    { name: 'events', waiting: 3, active: 1, delayed: 0, failed: 0 },
    { name: 'pulls', waiting: 0, active: 0, delayed: 2, failed: 1 },
  ],
  queueProblem: null,
  heldDeletions: 0,
  budget: [
    {
      ...{ name: 'api', granted: 62, throttled: 1 },
      ...{ silentUntil: '2026-11-21 01:21:00.25+00', silentSeconds: 60 },
    },
  ],
  consumers: [],
  endpoints: [],
  lastSweep: null,
  lastProof: null,
  lastProofAgeSeconds: null,
  driftPpm: null,
  driftSample: null,
  driftRemains: false,
  lastError: null,
  parked: [],
};

describe('the lines of status', () => {
  test('are a sentence and an aligned table', () => {
    expect(status.toLines(PLAIN)).toEqual([
      'Complete as of 12 s ago.',
      'users       4987 live, 1 tombstone',
      'watermarks  audit     2026-11-21 01:20:00+00  12 s behind',
      '            modified  2026-11-20 22:00:00+00  3 h behind',
      '            sweep     not begun',
      'gaps        none',
      'last runs   audit     complete at 2026-11-21 01:20:01+00',
      '            sweep     complete at 2026-11-20 03:00:00+00',
      'sweep       none under way',
      'last sweep  none yet',
      'last proof  none yet, drift not measured yet',
      'events      0 pending, 0 parked; in the last hour 8 received, 7 applied',
      'parked      none',
      'queue       events  3 waiting, 1 active, 0 delayed, 0 failed',
      '            pulls   0 waiting, 0 active, 2 delayed, 1 failed',
      'webhooks    last hour  6.3 % lost, median delay 0.4 s',
      '            last day   1.0 % lost, median delay 1.3 s',
      'held        none',
      'budget      api    62 sent, 1 throttled, silent until 2026-11-21 01:21:00+00',
    ]);
  });

  test('tell how far behind each consumer of the feed is, and warn before one is cut off', () => {
    const day = 86_400;
    const consumer = {
      ...{ movedAt: '', changes: 1, lagSeconds: 5, usedRatio: 0, leftSeconds: 30 * day },
      isCutOff: false,
    };
    const lines = status.toLines({
      ...PLAIN,
      consumers: [
        { ...consumer, name: 'crm', isCutOff: true },
        {
          ...{ ...consumer, name: 'search', changes: 10_000, usedRatio: 0.8 },
          ...{ lagSeconds: 24 * day, leftSeconds: 6 * day },
        },
        { ...consumer, name: 'mail' },
        { ...consumer, name: 'warehouse', changes: 0, leftSeconds: null },
      ],
    });
    const at = lines.findIndex((line) => line.startsWith('consumers'));
    expect(lines.slice(at)).toEqual([
      'consumers   crm  cut off: it has to take a snapshot and begin from feed_head()',
      '            search  10000 changes or more behind, the first 24 days old: will be cut off in 6 days',
      '            mail  1 change behind, the first 5 s old',
      '            warehouse  has read everything',
    ]);
  });

  test('say what is under way, what went wrong and what to do', () => {
    const lines = status.toLines({
      ...PLAIN,
      gaps: 7,
      gapsRefilledLastDay: 4,
      gapWindows: Array.from({ length: 6 }, (_, at) => ({
        ...{ pull: 'modified', from: `2026-11-21T01:0${at}:00+00:00` },
        ...{ to: at === 1 ? null : '2026-11-21T01:20:00.123+00:00' },
        ...{ since: '2026-11-21T01:20:09+00:00', reason: 'no usable answer' },
      })),
      lastRuns: [
        {
          ...{ pull: 'modified', runId: 9, outcome: 'blocked' },
          ...{ at: '2026-11-21T01:21:00+00:00', reason: 'no usable answer' },
        },
      ],
      heldDeletions: 3,
      sweep: {
        ...{ runId: 4, startedAt: '', total: 5_000, rowsRead: 2_000, requests: 21 },
        ...{ windowsOpen: 3, windowsProven: 1 },
      },
      events: { ...PLAIN.events, parked: 2, lossRate: null, webhookDelaySeconds: null },
      parked: [{ reason: 'refused', events: 2, firstReceivedAt: '', lastReceivedAt: '' }],
      driftPpm: 1.25,
      driftSample: 100,
      driftRemains: true,
      lastProof: '2026-11-21 00:00:00+00',
      lastProofAgeSeconds: 4_800,
      lastError: { at: 'then', message: 'no usable answer' },
      budget: [],
    });
    expect(lines).toEqual(
      expect.arrayContaining([
        'gaps        7 windows not proven, to be read again; 4 refilled in the last day',
        '            modified  2026-11-21 01:00:00+00 to 2026-11-21 01:20:00+00, a gap since 2026-11-21 01:20:09+00: no usable answer',
        '            modified  2026-11-21 01:01:00+00 to now, a gap since 2026-11-21 01:20:09+00: no usable answer',
        '            and 2 more, in the table sync_windows',
        'last runs   modified  blocked at 2026-11-21 01:21:00+00: no usable answer',
        'sweep       run 4: 2000 of 5000 users, 1 of 4 windows, 21 requests',
        'last proof  2026-11-21 00:00:00+00, 80 min ago, drift 1.3 ppm, estimated from counts and a sample of 100 (`rollcall verify --repair` mends it)',
        'parked      2 × refused (`rollcall replay --failed` tries again)',
        'webhooks    last hour  loss not known: the audit trail told of no event, no webhook came',
        'held        3 deletions (`rollcall deletions list`)',
        'budget      no request sent yet',
        'last error  no usable answer (then)',
      ]),
    );
  });

  test('wrap on a terminal without losing a word, with its sentence in the colour of its state', () => {
    const narrow = createScreen({ isTTY: true, columns: 60 }, {});
    const plain = (lines: readonly string[]) => lines.map((line) => stripVTControlCharacters(line));
    const lines = status.toLines(PLAIN, narrow);
    expect(lines[0]).toBe(narrow.paint.green(narrow.paint.bold('Complete as of 12 s ago.')));
    for (const line of plain(lines)) expect(line.length).toBeLessThanOrEqual(60);
    const words = (from: readonly string[]) => from.join(' ').split(/\s+/);
    expect(words(plain(lines))).toEqual(words(status.toLines(PLAIN)));
    const wide = createScreen({ isTTY: true, columns: 200 }, { NO_COLOR: '1' });
    expect(status.toLines(PLAIN, wide)).toEqual(status.toLines(PLAIN));
  });

  test('a table needs no trailing blanks and takes rows of any length', () => {
    expect(toTable([['a', 'bb', ''], ['ccc'], []])).toEqual(['a    bb', 'ccc', '']);
  });
});

describe('rollcall status', () => {
  it('says no while the mirror fills, yes once it is complete, without credentials', async () => {
    const s = await begin(120);
    const env = withoutCredentials(s);
    const before = startProcess(['status'], { env });
    expect(await before.exit).toBe(3);
    expect(before.stdout()).toMatch(/^Filling: 0 users so far\.\n/);

    await runCommand(backfill, s);
    const after = startProcess(['status', '--json'], { env });
    expect(await after.exit).toBe(0);
    const told = JSON.parse(after.stdout()) as Record<string, unknown>;
    expect(told).toMatchObject({
      state: 'complete',
      gaps: 0,
      heldDeletions: 0,
      lastSweep: { outcome: 'complete' },
      lastRuns: [{ pull: 'sweep', outcome: 'complete', reason: null }],
      parked: [],
    });
    // No service has run here.
    expect(told).toMatchObject({
      queues: [],
      queueProblem: 'not made yet, the first `rollcall start` makes it',
    });
    const text = await runCommand(status, s);
    expect(text.exitCode).toBe(0);
    expect(text.stdout[0]).toMatch(/^Complete as of \d+ s ago\.$/);
    await s.assertPrivate(after.stdout() + textOf(text));
  });

  it('says no, and why, for gaps, events given up and held deletions', async () => {
    const s = await begin(10);
    await runCommand(backfill, s);
    const { t, db } = s.database.mirror;
    const code = async () => (await runCommand(status, s)).exitCode;
    expect(await code()).toBe(0);

    await db.execute(sql`update ${t.syncWindows} set state = 'gap'`);
    expect(await code()).toBe(3);
    await db.execute(sql`update ${t.syncWindows} set state = 'proven'`);

    await db.execute(sql`
      insert into ${t.syncRuns} (pull, reason, outcome, finished_at, missing, extra, different)
      values ('verify', 'sample', 'partial', clock_timestamp(), 2, 0, 1)`);
    expect(await code()).toBe(3);
    const drift = await runCommand(status, s);
    expect(drift.stdout.join('\n')).toMatch(
      /verify +partial at .*: 2 missing, 0 extra, 1 different/,
    );
    // One that could not compare tells nothing; the next that could takes the place of the last.
    for (const [outcome, exitCode] of Object.entries({ blocked: 3, complete: 0 })) {
      await db.execute(sql`
        insert into ${t.syncRuns} (pull, reason, outcome, finished_at)
        values ('verify', 'sample', ${outcome}, clock_timestamp())`);
      expect(await code()).toBe(exitCode);
    }

    await db.execute(sql`
      insert into ${t.deletions} (user_id, state, witness) values ('U2', 'held', 'sweep')`);
    expect(await code()).toBe(3);
    await db.execute(sql`update ${t.deletions} set state = 'rejected'`);

    await db.execute(sql`
      insert into ${t.outgoingEndpoints} (endpoint_id, host, cursor, state)
      values ('e', 'crm.example.com', '0-0', 'disabled')`);
    expect(await code()).toBe(3);
    await db.execute(sql`delete from ${t.outgoingEndpoints}`);
    expect(await code()).toBe(0);

    const nowMs = Date.now();
    for (const [userId, error] of Object.entries({ U1: 'one', U2: 'other', U3: 'other' })) {
      const event = parseRecord({ action: 'UserCreated', userId, occurred: nowMs }, nowMs);
      if (!event) throw new Error('not an event');
      await recordEvents(db, t, [event], 'webhook', { archiveAll: false });
      await db.execute(sql`
        update ${t.events} set state = 'parked', error = ${error} where event_id = ${event.eventId}`);
    }
    const parked = await runCommand(status, s);
    expect(parked.exitCode).toBe(3);
    const lines = parked.stdout.map((line) => line.replace(/ \(.*/, ''));
    const at = lines.findIndex((line) => line.startsWith('parked'));
    expect(lines.slice(at, at + 2)).toEqual(['parked      2 × other', '            1 × one']);
    // The newest reason is the first.
    await db.execute(sql`
      update ${t.events} set due_at = clock_timestamp() + interval '1 hour' where error = 'one'`);
    const json = (await runCommand(status, s, {}, { json: true })).json();
    expect(json).toMatchObject({
      events: { parked: 3, parkedReason: 'one' },
      parked: [
        { reason: 'one', events: 1 },
        { reason: 'other', events: 2 },
      ],
    });

    await db.execute(sql`update ${t.events} set state = 'applied'`);
    expect(await code()).toBe(0);
    await db.execute(sql`update ${t.watermarks} set complete_to = complete_to - interval '1 day'`);
    expect(await code()).toBe(3);
  });

  it('sync goes on beside a gap, names it, and says no', async () => {
    const s = await begin(30);
    await runCommand(backfill, s);
    const { directory, faults, requests } = s.simulator;
    const asked = requests.countOf('audit');
    directory.modifyUser(realUserIds(s)[0] ?? '', { name: 'Changed' });
    const { t } = s.database.mirror;
    await s.query(sql`
      insert into ${t.syncWindows} (run_id, pull, from_time, to_time, state)
      values (1, 'modified', '2020-01-01', now(), 'gap')`);
    faults.random(1, ['partialPage'], () => 0);
    const partial = await runCommand(sync, s, {}, { json: true });
    expect(partial.exitCode).toBe(3);
    expect(partial.json()).toMatchObject({ outcome: 'partial' });
    const first = expect.stringMatching(/^window not proven complete: \d+ rows/) as string;
    expect(partial.json()['gaps']).toContainEqual(first);
    // The audit trail was asked all the same.
    expect(requests.countOf('audit')).toBeGreaterThan(asked);
    faults.clear();
    expect((await runCommand(sync, s)).exitCode).toBe(0);
  });

  it('tells a gap, of which pull, since when and why, until it is refilled (G5)', async () => {
    const s = await begin(30);
    await runCommand(backfill, s);
    const { faults } = s.simulator;
    // The first answer tells Descope's time, without which no window is cut.
    let asked = 0;
    faults.random(0.5, ['status403'], () => (asked++ === 0 ? 1 : 0));
    await runCommand(sync, s).catch(() => undefined);
    faults.clear();

    const before = await runCommand(status, s, {}, { json: true });
    expect(before.exitCode).toBe(3);
    const instant = expect.stringMatching(/^2\d{3}-/) as string;
    const reason = expect.stringMatching(/^Descope refuses the management key/) as string;
    const gap = { pull: 'modified', from: instant, to: instant, since: instant, reason };
    expect(before.json()).toMatchObject({ gaps: 1, gapsRefilledLastDay: 0, gapWindows: [gap] });
    expect(before.json()['lastRuns']).toContainEqual({
      ...{ pull: 'modified', outcome: 'blocked', reason },
      ...{ runId: expect.any(Number) as number, at: instant },
    });

    await runCommand(sync, s);
    const after = await runCommand(status, s, {}, { json: true });
    expect(after.json()).toMatchObject({ gaps: 0, gapsRefilledLastDay: 1, gapWindows: [] });
    expect(after.exitCode).toBe(0);
  });
});

describe('a status reader', () => {
  it('counts users anew where that was quick, and once for all who ask', async () => {
    const s = await begin(1);
    const { db, t } = s.database.mirror;
    const addUser = (id: string) =>
      db.execute(sql`
        insert into ${t.users} (user_id, observed_at, changed_at, witness)
        values (${id}, now(), now(), 'manual')`);
    let nowMs = 0;
    const readStatus = createStatusReader(s.database.mirror, {
      nowMs: () => nowMs,
      patienceMs: 60_000,
    });
    const usersAt = async (ms: number) => {
      nowMs = ms;
      return (await readStatus()).users;
    };
    await addUser('U1');
    expect(await usersAt(0)).toEqual({ live: 1, tombstones: 0, ageSeconds: 0 });
    await addUser('U2');
    await db.execute(sql`update ${t.users} set deleted_at = now() where user_id = 'U1'`);
    expect(await usersAt(1)).toEqual({ live: 1, tombstones: 1, ageSeconds: 0 });
    await addUser('U3');
    const [a, b] = await Promise.all([usersAt(30_000), usersAt(30_000)]);
    expect([a, b]).toEqual(Array(2).fill({ live: 2, tombstones: 1, ageSeconds: 0 }));
  });

  it('counts the last hour of what was received and of what was applied, each by its own time', async () => {
    const s = await begin(1);
    const { db, t } = s.database.mirror;
    await db.execute(sql`
      insert into ${t.events}
        (event_id, action, occurred_at, payload, received_at, state, applied_at)
      select id, 'UserModified', now(), '{}', now() - received, 'applied', now() - applied
      from (values ('late', interval '2 hours', interval '1 minute'),
                   ('old', interval '3 hours', interval '2 hours'),
                   ('new', interval '1 minute', null)) as e(id, received, applied)`);
    const { events } = await createStatusReader(s.database.mirror)();
    expect(events).toMatchObject({ appliedLastHour: 1, receivedLastHour: 1 });
  });

  it('knows how far each consumer is, what is left to it, and who was cut off', async () => {
    const s = await begin(1);
    const { mirror } = s.database;
    const { db, t } = mirror;
    await db.execute(sql`
      insert into ${t.userChanges} (user_id, kind, observed_at, witness, written_at)
      select n, 'created', now(), 'manual', now() - make_interval(days => 31 - n)
      from generate_series(1, 30) as n order by n`);
    const confirm = async (name: string, nth: number) => {
      await db.execute(sql`
        select descope.confirm_changes(${name}, cursor)
        from (select cursor from descope.changes_since(null, ${nth})
              order by seq desc limit 1) as read`);
    };
    await confirm('slow', 5);
    await confirm('quick', 30);
    await confirm('lost', 1);
    const readStatus = createStatusReader(mirror);
    expect((await readStatus()).consumers.map(({ usedRatio }) => usedRatio)).toContain(null);

    await pruneFeed(mirror, { days: 28, steps: 1 }, new AbortController().signal);
    const { consumers } = await readStatus();
    expect(consumers).toMatchObject([
      { name: 'lost', isCutOff: true, usedRatio: 1, leftSeconds: 0 },
      { name: 'slow', isCutOff: false, changes: 25 },
      {
        name: 'quick',
        isCutOff: false,
        changes: 0,
        lagSeconds: 0,
        usedRatio: 0,
        leftSeconds: null,
      },
    ]);
    const [, slow] = consumers;
    expect((slow?.lagSeconds ?? 0) / 86_400).toBeCloseTo(25, 1);
    expect((slow?.leftSeconds ?? 0) / 86_400).toBeCloseTo(3, 1);
    expect(slow?.usedRatio).toBeCloseTo(25 / 28, 2);
  });

  it('asks again at once after a failure', async () => {
    const s = await begin(1);
    const { db, t } = s.database.mirror;
    const readStatus = createStatusReader(s.database.mirror, { nowMs: () => 0 });
    await db.execute(sql`alter table ${t.users} rename to elsewhere`);
    await expect(readStatus()).rejects.toThrow();
    await db.execute(sql`alter table descope.elsewhere rename to users`);
    expect(await readStatus()).toMatchObject({ users: { live: 0, tombstones: 0 } });
  });
});
