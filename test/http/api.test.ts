import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';

import { databaseNow } from '../../src/mirror/database.ts';
import { whileLogged } from '../../src/mirror/adminLog.ts';
import { searchUsers } from '../../src/readers/searchUsers.ts';
import { beginAdmin, type AdminScene } from './adminClient.ts';

/** One line, that says what is wrong and not what was sent. */
const mistake = (text: string) => ({
  status: 400,
  body: { error: expect.stringMatching(text) as string },
});

describe('/api/history', () => {
  it('is the points of so many hours, 24 where not told', async () => {
    const { world, get } = await beginAdmin();
    await world.query(sql`
      insert into descope.status_history (step, at, gaps)
      select 'minute', date_trunc('minute', now()) - make_interval(hours => n), n
      from unnest(array[1, 30]) n
      union all select 'hour', date_trunc('hour', now(), 'UTC') - interval '60 hours', 60`);
    const gaps = async (query: string) => {
      const { body } = await get(`/api/history${query}`);
      return [body['step'], (body['points'] as { gaps: number }[]).map((point) => point.gaps)];
    };
    expect(await gaps('')).toEqual(['minute', [1]]);
    expect(await gaps('?hours=48')).toEqual(['minute', [30, 1]]);
    expect(await gaps('?hours=2160')).toEqual(['hour', [60, 30, 1]]);
    const { body } = await get('/api/history');
    expect(Object.keys((body['points'] as object[])[0] ?? {})).toEqual([
      ...['at', 'lagSeconds', 'lossRate', 'driftPpm', 'gaps', 'pendingEvents', 'parkedEvents'],
      ...['heldDeletions', 'liveUsers', 'byWebhook', 'byAudit', 'byArchive', 'applied', 'requests'],
      'throttled',
    ]);
  });

  it('refuses other hours', async () => {
    const { get } = await beginAdmin();
    for (const hours of ['0', '2161', '1.5', 'many', '', '1&hours=2']) {
      expect(await get(`/api/history?hours=${hours}`)).toEqual(mistake('^hours: [^\\n]+$'));
    }
  });
});

describe('/api/coverage', () => {
  /** Windows of the last day by when they begin and end, in minutes before now. */
  async function cover(
    { world }: AdminScene,
    windows: readonly (readonly [pull: string, from: number, to: number, state: string])[],
  ): Promise<void> {
    // All of one moment, or those that touch would not.
    const moment = await databaseNow(world.database.mirror);
    const minute = (minutes: number) =>
      sql`${moment}::timestamptz - make_interval(mins => ${minutes})`;
    for (const [pull, from, to, state] of windows) {
      await world.query(sql`
        with run as (
          insert into descope.sync_runs (pull, reason, outcome) values (${pull}, 'a test', 'complete')
          returning run_id)
        insert into descope.sync_windows (run_id, pull, from_time, to_time, state, proven_at, error)
        select run_id, ${pull}, ${minute(from)}, ${minute(to)}, ${state},
               case when ${state} = 'proven' then now() end,
               case when ${state} = 'gap' then 'no usable answer' end from run`);
    }
  }

  /** What is told of a pull, in minutes before the end of the time. */
  async function told({ get }: AdminScene, pull: string, query = '') {
    const { body } = await get(`/api/coverage${query}`);
    const pulls = body['pulls'] as {
      pull: string;
      watermark: string | null;
      windows: { from: string; to: string; state: string; error: string | null }[];
    }[];
    const endMs = Date.parse(String(body['to']));
    const before = (instant: string) => Math.round((endMs - Date.parse(instant)) / 60_000);
    const found = pulls.find((one) => one.pull === pull);
    return {
      ...{ hours: (endMs - Date.parse(String(body['from']))) / 3_600_000 },
      watermark: found?.watermark,
      windows: found?.windows.map(({ from, to, state }) => [before(from), before(to), state]),
      errors: found?.windows.map(({ error }) => error),
    };
  }

  it('merges proven neighbours, that touch or overlap, and keeps what is not proven apart', async () => {
    const scene = await beginAdmin();
    await cover(scene, [
      ['modified', 60, 50, 'proven'],
      ['modified', 55, 40, 'proven'],
      ['modified', 40, 35, 'proven'],
      ['modified', 35, 30, 'gap'],
      ['modified', 30, 20, 'proven'],
      ['modified', 28, 25, 'proven'],
      ['modified', 10, 5, 'open'],
      ['audit', 8, 7, 'proven'],
    ]);
    expect(await told(scene, 'modified')).toEqual({
      hours: 24,
      watermark: null,
      windows: [
        [60, 35, 'proven'],
        [35, 30, 'gap'],
        [30, 20, 'proven'],
        [10, 5, 'open'],
      ],
      errors: [null, 'no usable answer', null, null],
    });
    expect((await told(scene, 'audit')).windows).toEqual([[8, 7, 'proven']]);
    expect((await told(scene, 'sweep')).windows).toEqual([]);
  });

  it('cuts windows at the ends of the time asked for', async () => {
    const scene = await beginAdmin();
    await cover(scene, [
      ['modified', 600, 300, 'proven'],
      ['modified', 200, 150, 'proven'],
      ['modified', 100, 30, 'gap'],
      ['modified', 20, -10, 'open'],
    ]);
    expect((await told(scene, 'modified', '?hours=1')).windows).toEqual([
      [60, 30, 'gap'],
      [20, 0, 'open'],
    ]);
    expect((await told(scene, 'modified', '?hours=6')).windows?.[0]).toEqual([360, 300, 'proven']);
  });

  it('counts only what was read of a window that ends later, and a gap that is read again as a gap', async () => {
    const scene = await beginAdmin();
    await cover(scene, [
      ['modified', 20, -10, 'proven'],
      ['modified', 40, 30, 'open'],
    ]);
    await scene.world.query(sql`
      update descope.sync_windows set proven_at = now() - interval '15 minutes', gap_since = now()`);
    expect((await told(scene, 'modified')).windows).toEqual([
      [40, 30, 'gap'],
      [20, 15, 'proven'],
    ]);
  });

  it('tells of the latest sweep alone, whose windows touch to the millisecond', async () => {
    const scene = await beginAdmin();
    await cover(scene, [['sweep', 300, 200, 'gap']]);
    await scene.world.query(sql`
      with run as (insert into descope.sync_runs (pull, reason) values ('sweep', 'a test') returning run_id)
      insert into descope.sync_windows (run_id, pull, from_time, to_time, state, proven_at)
      select run_id, 'sweep', now() - interval '10 hours', now() - interval '5 hours 0.001 seconds',
             'proven', now() from run
      union all
      select run_id, 'sweep', now() - interval '5 hours', null, 'proven', now() from run`);
    expect((await told(scene, 'sweep')).windows).toEqual([[600, 0, 'proven']]);
  });

  it('tells at most 500 windows a pull, the latest, and up to where a pull is complete', async () => {
    const scene = await beginAdmin();
    await scene.world.query(sql`
      insert into descope.sync_windows (run_id, pull, from_time, to_time, state)
      select 1, 'audit', now() - make_interval(mins => n), now() - make_interval(mins => n - 1), 'gap'
      from generate_series(1, 700) n`);
    await scene.world.query(sql`
      insert into descope.watermarks (pull, complete_to) values ('audit', '2026-06-08T12:00:00Z')`);
    const { windows, watermark } = await told(scene, 'audit');
    expect(windows).toHaveLength(500);
    expect([windows?.[0], windows?.at(-1)]).toEqual([
      [500, 499, 'gap'],
      [1, 0, 'gap'],
    ]);
    expect(watermark).toBe('2026-06-08T12:00:00.000000Z');
  });

  it('refuses more than the ledger holds', async () => {
    const { get } = await beginAdmin();
    expect(await get('/api/coverage?hours=721')).toEqual(mistake('^hours: '));
  });
});

describe('/api/deletions', () => {
  it('is the held ones, a user once, a page after the other', async () => {
    const { world, get } = await beginAdmin();
    await world.query(sql`
      insert into descope.deletions (user_id, state, witness, evidence, verified_at)
      select 'U' || n, case when n = 3 then 'tombstoned' else 'held' end, 'sweep', 'missing', now()
      from generate_series(1, 6) n`);
    await world.query(sql`
      insert into descope.deletions (user_id, state, witness) values ('U1', 'held', 'webhook')`);
    const page = async (query: string) => {
      const { body } = await get(`/api/deletions?limit=2${query}`);
      const deletions = body['deletions'] as { userId: string }[];
      return { ...body, deletions: deletions.map(({ userId }) => userId) };
    };
    const first = await page('');
    expect(first).toEqual({ total: 5, deletions: ['U2', 'U4'], next: 4, newest: 7 });
    expect(await page('&after=4')).toEqual({
      total: 5,
      deletions: ['U5', 'U6'],
      next: 6,
      newest: 7,
    });
    expect(await page('&after=6')).toEqual({ total: 5, deletions: ['U1'], next: null, newest: 7 });
    const { body } = await get('/api/deletions?limit=1');
    expect(body['deletions']).toEqual([
      {
        ...{ deletionId: 2, userId: 'U2', witness: 'sweep', evidence: 'missing' },
        nominatedAt: expect.stringMatching(/Z$/) as string,
        verifiedAt: expect.stringMatching(/Z$/) as string,
      },
    ]);
    expect(await get('/api/deletions?after=x')).toEqual(mistake('^after: must be a number$'));
    expect(await get('/api/deletions?limit=501')).toEqual(mistake('^limit: '));
  });
});

describe('/api/parked', () => {
  it('is the events given up, newest first, with their reason', async () => {
    const { world, get } = await beginAdmin();
    await world.query(sql`
      insert into descope.events (event_id, action, occurred_at, user_ids, payload, state, attempts, error)
      select 'e' || n, 'UserModified', '2026-06-08T12:00:00Z', array['U1'], '{}',
             case when n = 2 then 'pending' else 'parked' end, n, 'refused'
      from generate_series(1, 4) n`);
    const { body } = await get('/api/parked?limit=2');
    expect(body).toEqual({
      total: 3,
      events: [4, 3].map((n) => ({
        ...{ eventId: `e${n}`, action: 'UserModified', userIds: ['U1'], attempts: n },
        ...{ occurredAt: '2026-06-08T12:00:00.000000Z', error: 'refused' },
      })),
    });
  });
});

describe('/api/admin-log', () => {
  it('is what was done, newest first, with how it ended and no mail address', async () => {
    const { world, get } = await beginAdmin();
    const { mirror } = world.database;
    const entry = (action: string) =>
      ({ actor: 'command', action, detail: { userId: 'ada@example.com' } }) as const;
    await whileLogged(
      mirror,
      entry('one'),
      () => Promise.resolve(7),
      (events) => ({ events }),
    );
    const failing = () => Promise.reject(new Error('no answer for +4915112345678'));
    await expect(whileLogged(mirror, entry('two'), failing)).rejects.toThrow('no answer');
    const begun = { body: {} as Record<string, unknown> };
    await whileLogged(mirror, entry('three'), async () => {
      begun.body = (await get('/api/admin-log?limit=1')).body;
    });
    const [first, second, third] = (await get('/api/admin-log')).body['entries'] as object[];
    const common = { actor: 'command', at: expect.stringMatching(/Z$/) as string };
    expect([first, second, third]).toEqual([
      { ...common, entryId: 3, action: 'three', detail: { userId: '[email]' }, outcome: 'done' },
      {
        ...{ ...common, entryId: 2, action: 'two', detail: { userId: '[email]' } },
        outcome: 'failed: no answer for [phone]',
      },
      {
        ...common,
        entryId: 1,
        action: 'one',
        detail: { userId: '[email]', events: 7 },
        outcome: 'done',
      },
    ]);
    // Nothing is done before it is entered.
    expect(begun.body['entries']).toMatchObject([{ action: 'three', outcome: 'begun' }]);
  });

  it('lets nothing be done that cannot be entered', async () => {
    const { world } = await beginAdmin();
    await world.query(sql`alter table descope.admin_log rename to gone`);
    let done = false;
    const work = () => {
      done = true;
      return Promise.resolve();
    };
    const action = { actor: 'command', action: 'one', detail: {} } as const;
    await expect(whileLogged(world.database.mirror, action, work)).rejects.toThrow();
    expect(done).toBe(false);
  });
});

describe('/api/users/search', () => {
  async function begin(): Promise<AdminScene> {
    const scene = await beginAdmin();
    await scene.world.query(sql`
      insert into descope.users (user_id, login_ids, email, name, status, observed_at, changed_at, witness,
                                 deleted_at)
      values ('U1', '{ada@example.com,ada}', 'ada@example.com', 'Ada', 'enabled', now(), now(), 'sweep', null),
             ('U2', '{adam@example.com}', 'ada@example.com', 'Adam', 'enabled', now(), now(), 'sweep', null),
             ('U3', '{Ada.Two@example.com}', null, null, 'invited', now(), now(), 'sweep', null),
             ('U4', '{ada@example.com}', null, 'Ada', 'enabled', now(), now(), 'sweep', '2026-06-08T12:00:00Z'),
             ('U5', '{bob_5}', 'bob@example.com', 'Bob', 'enabled', now(), now(), 'sweep', null)`);
    return scene;
  }
  const ids = ({ body }: { body: Record<string, unknown> }) =>
    (body['users'] as { userId: string }[]).map(({ userId }) => userId);

  it('finds by user id, login id and mail address, the live first, then by how a login id begins', async () => {
    const { post } = await begin();
    const find = async (query: string) => ids(await post('/api/users/search', { query }));
    expect(await find('U5')).toEqual(['U5']);
    expect(await find('ada@example.com')).toEqual(['U1', 'U2', 'U4']);
    expect(await find(' ADA@example.com ')).toEqual(['U1', 'U2', 'U4']);
    expect(await find('ada')).toEqual(['U1', 'U3', 'U4', 'U2']);
    // These are themselves.
    expect(await find('bob%')).toEqual([]);
    expect(await find('bob_')).toEqual(['U5']);
    expect(await find('eve')).toEqual([]);
  });

  it('tells who they are, only to who asked (G10)', async () => {
    const { world, post } = await begin();
    const { body } = await post('/api/users/search', { query: 'U4' });
    expect(body).toEqual({
      users: [
        {
          ...{ userId: 'U4', loginIds: ['ada@example.com'], email: null, name: 'Ada' },
          ...{ status: 'enabled', deletedAt: '2026-06-08T12:00:00.000000Z' },
        },
      ],
      complete: true,
    });
    await world.query(sql`alter table descope.users rename to gone`);
    const failed = await post('/api/users/search', { query: 'ada@example.com' });
    expect(failed).toEqual({ status: 500, body: { error: 'internal error' } });
    expect(world.logs.join()).toContain('a request failed');
    expect(world.logs.join()).not.toContain('ada@example');
  });

  it('looks at everyone for beginnings only where it is asked to, and says so', async () => {
    const { world, post } = await beginAdmin();
    await world.query(sql`
      insert into descope.users (user_id, login_ids, observed_at, changed_at, witness)
      select 'U' || n, array['user-' || n || '@example.com'], now(), now(), 'sweep'
      from generate_series(1, 60000) n`);
    const { mirror } = world.database;
    const last = { users: [{ userId: 'U59999' }] };
    expect(await searchUsers(mirror, 'user-59999')).toEqual({ users: [], complete: false });
    const thorough = { query: 'user-59999', thorough: true };
    const all = await post('/api/users/search', thorough);
    expect(all.body).toMatchObject({ ...last, complete: true });
    const few = await searchUsers(mirror, 'user-59999', { looked: 60_000 });
    expect(few).toMatchObject({ ...last, complete: true });
    // Whole ids are found in any case, and enough is enough.
    expect(await searchUsers(mirror, 'U59999')).toMatchObject({ ...last, complete: false });
    const common = await searchUsers(mirror, 'user-');
    expect([common.users.length, common.complete]).toEqual([20, true]);
    const cut = await searchUsers(mirror, 'nobody', { thorough: true, patienceMs: 1 });
    expect(cut).toEqual({ users: [], complete: false });
  });

  it('refuses other bodies', async () => {
    const { post } = await beginAdmin();
    const long = 'x'.repeat(513);
    const wrong = [
      {},
      { query: '' },
      { query: ' ' },
      { query: 7 },
      { query: 'a', more: 1 },
      { query: long },
    ];
    for (const body of wrong) {
      expect(await post('/api/users/search', body)).toEqual(mistake('^[^\\n]+$'));
    }
  });
});

describe('the posts', () => {
  it('are JSON of a bounded size', async () => {
    const { url } = await beginAdmin();
    const post = async (body: string) =>
      (
        await fetch(`${url}/api/users/search`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'x-rollcall': '1' },
          body,
        })
      ).status;
    expect(await post('{"query":')).toBe(400);
    expect(await post(JSON.stringify({ query: 'x'.repeat(600_000) }))).toBe(413);
  });

  it('are refused without our header, and from another site', async () => {
    const { post } = await beginAdmin();
    const own = { 'x-rollcall': '1' };
    for (const headers of [
      {},
      { 'x-rollcall': 'yes' },
      { ...own, origin: 'https://evil.example.com' },
      { ...own, origin: 'null' },
      { ...own, 'sec-fetch-site': 'cross-site' },
      // Another port of this machine.
      { ...own, 'sec-fetch-site': 'same-site' },
    ]) {
      expect((await post('/api/users/search', { query: 'ada' }, headers)).status).toBe(403);
    }
  });

  it('of a page of ours and of a program are taken', async () => {
    const { post, url } = await beginAdmin();
    const own = { 'x-rollcall': '1', origin: url };
    for (const headers of [
      own,
      { 'x-rollcall': '1' },
      { ...own, 'sec-fetch-site': 'same-origin' },
    ]) {
      expect((await post('/api/users/search', { query: 'ada' }, headers)).status).toBe(200);
    }
  });
});
