import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it, test } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as status from '../../src/commands/status.ts';
import { toTable } from '../../src/commands/table.ts';
import { recordEvents } from '../../src/inbox/record.ts';
import { parseRecord } from '../../src/webhook/parse.ts';
import { startProcess } from '../support/process.ts';
import { createScene, type Scene } from '../support/world.ts';
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
  asOf: '2026-11-21 01:20:00+00',
  sentence: 'Complete as of 12 s ago',
  state: 'complete',
  users: { live: 4_987, tombstones: 1 },
  watermarks: [
    { pull: 'audit', completeTo: '2026-11-21 01:20:00+00', lagSeconds: 12.3 },
    { pull: 'modified', completeTo: '2026-11-20 22:00:00+00', lagSeconds: 12_012 },
    { pull: 'sweep', completeTo: null, lagSeconds: null },
  ],
  gaps: 0,
  sweep: null,
  events: { pending: 0, parked: 0, appliedLastHour: 7, receivedLastHour: 8, lossRate: 0.0625 },
  heldDeletions: 0,
  budget: [{ name: 'api', granted: 62, throttled: 1, silentUntil: '2026-11-21 01:21:00+00' }],
  lastSweep: null,
  lastProof: null,
  driftPpm: null,
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
      'sweep       none under way',
      'last sweep  none yet',
      'last proof  none yet, drift not measured yet',
      'events      0 pending, 0 parked; in the last hour 8 received, 7 applied',
      'parked      none',
      'webhooks    6.3 % lost in the last hour',
      'held        none',
      'budget      api    62 sent, 1 throttled, silent until 2026-11-21 01:21:00+00',
    ]);
  });

  test('say what is under way, what went wrong and what to do', () => {
    const lines = status.toLines({
      ...PLAIN,
      gaps: 2,
      heldDeletions: 3,
      sweep: {
        ...{ runId: 4, startedAt: '', total: 5_000, rowsRead: 2_000, requests: 21 },
        ...{ windowsOpen: 3, windowsProven: 1 },
      },
      events: { ...PLAIN.events, parked: 2, lossRate: null },
      parked: [{ reason: 'refused', events: 2, firstReceivedAt: '', lastReceivedAt: '' }],
      driftPpm: 1.25,
      lastProof: '2026-11-21 00:00:00+00',
      lastError: { at: 'then', message: 'no usable answer' },
      budget: [],
    });
    expect(lines).toEqual(
      expect.arrayContaining([
        'gaps        2 windows not proven, to be read again',
        'sweep       run 4: 2000 of 5000 users, 1 of 4 windows, 21 requests',
        'last proof  2026-11-21 00:00:00+00, drift 1.3 ppm',
        'parked      2 × refused (`rollcall replay --failed` tries again)',
        'webhooks    loss not known: the audit trail told of no event in the last hour',
        'held        3 deletions (`rollcall deletions list`)',
        'budget      no request sent yet',
        'last error  no usable answer (then)',
      ]),
    );
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
      parked: [],
    });
    expect(told).not.toHaveProperty('queues');
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
      insert into ${t.deletions} (user_id, state, witness) values ('U2', 'held', 'sweep')`);
    expect(await code()).toBe(3);
    await db.execute(sql`update ${t.deletions} set state = 'rejected'`);

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

    await db.execute(sql`update ${t.events} set state = 'applied'`);
    expect(await code()).toBe(0);
    await db.execute(sql`update ${t.watermarks} set complete_to = complete_to - interval '1 day'`);
    expect(await code()).toBe(3);
  });
});
