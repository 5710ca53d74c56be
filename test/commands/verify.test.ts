import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import { toLines } from '../../src/commands/verify.ts';
import { eventually } from '../support/eventually.ts';
import { startProcess } from '../support/process.ts';
import { createScene, realUserIds, type Scene } from '../support/world.ts';
import { runCommand } from './context.ts';

/* `rollcall verify`, as a shell sees it. */

const EQUAL = {
  outcome: 'equal',
  runId: 7,
  compared: 5_000,
  requests: 52,
  drift: { missing: [], extra: [], different: [] },
  driftPpm: 0,
  repaired: 0,
  held: 0,
  lastProof: '2026-11-21T01:20:00.123456Z',
} as const;

describe('the lines of verify', () => {
  test('are two where nothing differs', () => {
    expect(toLines(EQUAL, false)).toEqual([
      '5000 users compared with 52 requests: 0 missing, 0 extra, 0 different (drift 0.0 ppm)',
      'last proof 2026-11-21 01:20:00 UTC',
    ]);
  });

  test('name who differs and in what, ten of each kind, and the remedy', () => {
    const extra = Array.from({ length: 12 }, (_, at) => `X${at}`);
    const different = [{ userId: 'D1', fields: ['email', 'name'] }];
    const drift = { missing: ['M1'], extra, different };
    expect(
      toLines({ ...EQUAL, outcome: 'drift', drift, driftPpm: 2_800, lastProof: null }, false),
    ).toEqual([
      '5000 users compared with 52 requests: 1 missing, 12 extra, 1 different (drift 2800.0 ppm)',
      '  missing M1',
      ...extra.slice(0, 10).map((userId) => `  extra ${userId}`),
      '  … and 2 more extra',
      '  different D1: email, name',
      'mend it with `rollcall verify --repair`',
      'last proof none yet',
    ]);
  });

  test('tell after a repair what was mended and what waits', () => {
    const drift = { ...EQUAL.drift, extra: ['X1'], missing: ['M1', 'M2'] };
    const mended = toLines({ ...EQUAL, drift, repaired: 2, held: 1 }, true);
    expect(mended).toContain('2 repaired');
    expect(mended).toContain('1 deletion held: decide with `rollcall deletions`');
    expect(mended.join()).not.toContain('--repair');
  });
});

describe('verify', () => {
  let scene: Scene;
  beforeEach(async () => {
    scene = await createScene({
      simulator: { users: 300 },
      env: { LOG_LEVEL: 'warn', PULL_SETTLE_SECONDS: '0' },
    });
  });
  afterEach(() => scene.stop());

  async function verify(...args: string[]) {
    const child = startProcess(['verify', ...args], { env: scene.env });
    const exit = await child.exit;
    await scene.assertPrivate(child.stdout() + child.stderr());
    const answer = () =>
      JSON.parse(child.stdout().trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
    return { exit, stdout: child.stdout(), stderr: child.stderr(), answer };
  }

  it('before any backfill says what to do first, and ends with 3', async () => {
    const { exit, stdout } = await verify();
    expect({ exit, stdout }).toEqual({
      exit: 3,
      stdout: 'no sweep has completed yet: run `rollcall backfill` first\n',
    });
    expect((await verify('--json')).answer()).toMatchObject({ outcome: 'notBegun' });
  });

  it('reports drift without values and ends with 3, repairs it and ends with 0', async () => {
    await runCommand(backfill, scene);
    const { directory } = scene.simulator;
    const [changed = '', gone = ''] = realUserIds(scene);
    const silent = { event: false, moveModifiedTime: false };
    directory.modifyUser(changed, { givenName: 'Hidden From Sight' }, silent);
    directory.deleteUser(gone, silent);
    const created = directory.createUser({ test: false }, silent);

    const found = await verify();
    expect(found).toMatchObject({ exit: 3, stderr: '' });
    const [counts = '', ...lines] = found.stdout.trimEnd().split('\n');
    expect(counts).toMatch(
      /^\d+ users compared with \d+ requests: 1 missing, 1 extra, 1 different \(drift \d+\.\d ppm\)$/,
    );
    expect(lines).toEqual([
      `  missing ${created.userId}`,
      `  extra ${gone}`,
      `  different ${changed}: givenName`,
      'mend it with `rollcall verify --repair`',
      expect.stringMatching(/^last proof \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$/),
    ]);

    const json = await verify('--json');
    expect(json.exit).toBe(3);
    expect(json.answer()).toMatchObject({
      outcome: 'drift',
      drift: {
        missing: [created.userId],
        extra: [gone],
        different: [{ userId: changed, fields: ['givenName'] }],
      },
      repaired: 0,
    });

    const mended = await verify('--repair', '--json');
    expect(mended.exit).toBe(0);
    expect(mended.answer()).toMatchObject({ outcome: 'equal', repaired: 3, held: 0 });
    const proofOf = (ran: typeof mended) => String(ran.answer()['lastProof']);
    expect(proofOf(mended) > proofOf(json)).toBe(true);
    expect((await verify()).exit).toBe(0);
    await scene.assertEqual();
    // Of all these, one changed something.
    expect(
      await scene.query(sql`select actor, action, detail, outcome from descope.admin_log`),
    ).toEqual([
      {
        ...{ actor: 'command', action: 'verify --repair', outcome: 'done' },
        detail: { repaired: 3, held: 0 },
      },
    ]);
  });

  it('tells in one line that Descope refuses, and ends with 1', async () => {
    await runCommand(backfill, scene);
    scene.simulator.faults.random(1, ['status403'], () => 0);
    const { exit, stdout, stderr } = await verify();
    expect({ exit, stdout }).toEqual({ exit: 1, stdout: '' });
    expect(stderr).toMatch(/^error: Descope refuses the management key .+\n$/);
  });

  it('is quiet where a signal ends it, with 1', async () => {
    await runCommand(backfill, scene);
    scene.simulator.behaviour.latencyMs = 200;
    const searches = () => scene.simulator.requests.countOf('userSearch');
    const before = searches();
    const child = startProcess(['verify'], {
      env: { ...scene.env, LOG_LEVEL: 'warn', PAGE_SIZE: '5' },
    });
    await eventually(() => {
      expect(searches()).toBeGreaterThan(before);
    });
    child.kill('SIGINT');
    expect(await child.exit).toBe(1);
    expect([child.stdout(), child.stderr()]).toEqual(['', '']);
  });
});
