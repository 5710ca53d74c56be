import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as doctor from '../../src/commands/doctor.ts';
import { createScreen, PIPE } from '../../src/commands/screen.ts';
import { parseConfig } from '../../src/config.ts';
import { checkAddress } from '../../src/doctor/credentials.ts';
import { claimProject } from '../../src/mirror/project.ts';
import { applyBehaviour, type BehaviourPatch } from '../../src/simulator/behaviour.ts';
import { createEmptyDatabase } from '../support/database.ts';
import { freePort } from '../support/redisServer.ts';
import { startProcess } from '../support/process.ts';
import { createScene, realUserIds, type Scene, type WorldOptions } from '../support/world.ts';
import { runCommand, type Outcome } from './context.ts';

import type { Check } from '../../src/doctor/check.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

async function begin(options: WorldOptions = {}): Promise<Scene> {
  scene = await createScene({ ...options, simulator: { users: 150, ...options.simulator } });
  return scene;
}

interface Examined {
  readonly exitCode: number;
  readonly checks: readonly Check[];
  readonly requests: number;
  /** @throws Error where there is none of this name */
  of(name: string): Check;
}

/** Runs the doctor with some settings changed; an empty one is one not set. Nothing it says is private. */
async function examine(s: Scene, env: Readonly<Record<string, string>> = {}): Promise<Examined> {
  const needs = { descope: true, receives: false, serves: false };
  const config = parseConfig({ ...s.env, ...env }, needs);
  const before = s.simulator.requests.countOf();
  const outcome: Outcome = await runCommand(doctor, { config, logs: s.logs }, {}, { json: true });
  await s.assertPrivate(outcome.stdout.join('\n') + outcome.stderr.join('\n'));
  const { checks, requests } = outcome.json() as unknown as Examined;
  expect(s.simulator.requests.countOf() - before).toBeLessThanOrEqual(12);
  expect(outcome.exitCode).toBe(checks.some(({ verdict }) => verdict === 'bad') ? 3 : 0);
  for (const check of checks) expect(check.remedy === null).toBe(check.verdict === 'ok');
  return {
    ...{ exitCode: outcome.exitCode, checks, requests },
    of(name) {
      const found = checks.filter((check) => check.name === name);
      if (found.length === 1 && found[0]) return found[0];
      throw new Error(`${found.length} × ${name} among ${checks.map((c) => c.name).join(', ')}`);
    },
  };
}

const badOnes = ({ checks }: Examined) =>
  checks.filter(({ verdict }) => verdict === 'bad').map(({ name }) => name);

async function learnt(s: Scene): Promise<Record<string, unknown>> {
  const found = await s.query<{ name: string; value: unknown }>(
    sql`select name, value from ${s.database.mirror.t.learnt}`,
  );
  return Object.fromEntries(found.map(({ name, value }) => [name, value]));
}

const roleOf = (s: Scene) => new URL(s.database.url).username;

describe('a good set-up', () => {
  it('is found good with few requests within the budget, and what was learnt is kept', async () => {
    const s = await begin();
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    s.simulator.requests.reset();
    const examined = await examine(s);
    expect(examined).toMatchObject({ exitCode: 0 });
    expect(examined.requests).toBe(s.simulator.requests.countOf());
    // The tests' Postgres does without fsync, for speed.
    const odd = examined.checks.filter(({ verdict }) => verdict !== 'ok');
    expect(odd.map(({ name }) => name)).toEqual(['durability']);
    expect(await learnt(s)).toMatchObject({
      timeUnit: 'ms',
      sendsModifiedTime: false,
      unknownIds: 'skipped',
      largestPage: 100,
    });
    const granted = await s.query<{ granted: number }>(
      sql`select sum(granted)::int as granted from ${s.database.mirror.t.budgets}`,
    );
    expect(granted[0]?.granted).toBeGreaterThanOrEqual(examined.requests);
    await s.assertEqual();
  });

  it('may be empty', async () => {
    const s = await begin({ simulator: { users: 0 } });
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual([]);
    expect(examined.of('time unit').found).toContain('nobody to tell by');
    expect(await learnt(s)).toEqual({});
  });

  it('may count in seconds, send modified times and put more in a page', async () => {
    const s = await begin({
      simulator: { behaviour: { timeUnit: 's', sendModifiedTime: true, maxPageSize: 140 } },
    });
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual([]);
    expect(examined.of('time unit').found).toContain('seconds');
    expect(examined.of('time bounds').verdict).toBe('ok');
    expect(examined.of('page size').found).toContain('PAGE_SIZE=140');
    expect(await learnt(s)).toMatchObject({
      timeUnit: 's',
      sendsModifiedTime: true,
      largestPage: 140,
    });
  });

  it('is told in lines: with tabs in a pipe, wrapped and marked on a terminal', async () => {
    const s = await begin();
    const env = { ...s.env, REDIS_URL: 'redis://127.0.0.1:1' };
    const config = parseConfig(env);
    const piped = await runCommand(doctor, { config, logs: s.logs });
    expect(piped.exitCode).toBe(3);
    for (const line of piped.stdout) expect(line).toMatch(/^(ok|warning|bad)\t[^\t]+\t[^\t]+/);
    expect(piped.stdout.filter((line) => line.split('\t').length === 4)).toHaveLength(2);
    expect(piped.stderr).toEqual([
      expect.stringMatching(/^\d+ ok, 1 warning, 1 bad; \d+ requests to Descope$/),
    ]);
    const screen = createScreen({ isTTY: true, columns: 80 }, { NO_COLOR: '1' });
    const shown = await runCommand(doctor, { config, logs: s.logs }, {}, { screen });
    expect(shown.stdout.join('\n')).toMatch(
      /\n✗ {2}redis {14}cannot be reached [^→]*\n {22}→ start Redis/,
    );
    for (const line of shown.stdout) expect(line.length).toBeLessThanOrEqual(80);
    expect(doctor.toLines({ name: 'x', verdict: 'ok', found: 'y', remedy: null }, PIPE)).toEqual([
      'ok\tx\ty',
    ]);
  });
});

describe('Descope', () => {
  it('a wrong management key', async () => {
    const s = await begin();
    const examined = await examine(s, { DESCOPE_MANAGEMENT_KEY: 'K2wrong' });
    expect(badOnes(examined)).toEqual(['credentials']);
    const { found, remedy } = examined.of('credentials');
    expect(found).toMatch(/HTTP 401.*project P\w+ exists, so it is the key/);
    expect(remedy).toMatch(/check DESCOPE_MANAGEMENT_KEY/);
    expect(await learnt(s)).toEqual({});
  });

  it('a wrong project id', async () => {
    const s = await begin();
    const examined = await examine(s, { DESCOPE_PROJECT_ID: `P${'3'.repeat(27)}` });
    expect(badOnes(examined)).toEqual(['credentials']);
    expect(examined.of('credentials').found).toMatch(/knows no project P3{27}/);
    expect(examined.of('credentials').remedy).toMatch(/set DESCOPE_PROJECT_ID/);
  });

  it('project id and key exchanged', async () => {
    const s = await begin();
    const examined = await examine(s, {
      DESCOPE_PROJECT_ID: 'K2key',
      DESCOPE_MANAGEMENT_KEY: s.simulator.projectId,
    });
    expect(examined.of('credentials').found).toMatch(/look exchanged/);
  });

  it('a key that may not read users', async () => {
    const s = await begin();
    s.simulator.faults.next('status403', { path: 'search', times: 9 });
    const { found, remedy } = (await examine(s)).of('credentials');
    expect(found).toMatch(/HTTP 403.*lacks the role/);
    expect(remedy).toMatch(/Management Keys/);
  });

  it('a key without audit rights', async () => {
    const s = await begin();
    s.simulator.faults.next('status403', { path: 'audit', times: 9 });
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['audit trail']);
    expect(examined.of('audit trail').found).toMatch(/may not search the audit trail/);
    expect(examined.of('audit trail').remedy).toMatch(/role that may read audit/);
  });

  it('an unreachable base URL, and one of another region', async () => {
    const s = await begin();
    const nowhere = `http://127.0.0.1:${await freePort()}`;
    const examined = await examine(s, { DESCOPE_BASE_URL: nowhere });
    expect(badOnes(examined)).toEqual(['credentials']);
    expect(examined.of('credentials').found).toMatch(/ECONNREFUSED.*http:\/\/127\.0\.0\.1:/);
    expect(examined.of('credentials').remedy).toMatch(/is DESCOPE_BASE_URL right/);
    expect(examined.of('descope').remedy).toMatch(/run doctor again/);

    // Nobody is asked there: the proxy of the machine or its absence must not decide.
    const elsewhere = { projectId: `Peuc1${'2'.repeat(27)}`, managementKey: 'K2' };
    const baseUrl = 'https://api.descope.com';
    expect(checkAddress({ ...elsewhere, baseUrl })).toMatchObject({
      verdict: 'warning',
      found: expect.stringContaining('https://api.euc1.descope.com') as string,
    });
    expect(checkAddress({ ...elsewhere, baseUrl: undefined })).toMatchObject({ verdict: 'ok' });
    expect(checkAddress({ ...elsewhere, baseUrl: 'http://auth.example.com' }).verdict).toBe(
      'warning',
    );
  });

  it('an address that answers with a web page', async () => {
    const s = await begin();
    s.simulator.faults.next('status502html', { path: 'search', times: 9 });
    const { verdict, found } = (await examine(s)).of('credentials');
    expect([verdict, found]).toEqual(['bad', expect.stringMatching(/HTTP 502/)]);
  });

  it('a time unit that is set wrong', async () => {
    const s = await begin({ simulator: { behaviour: { timeUnit: 's' } } });
    const examined = await examine(s, { DESCOPE_TIME_UNIT: 'ms' });
    expect(badOnes(examined)).toEqual(['time unit']);
    expect(examined.of('time unit').remedy).toMatch(/unset DESCOPE_TIME_UNIT/);
  });

  it('pages smaller than asked for: warned of, remembered, and gone by', async () => {
    const s = await begin();
    const examined = await examine(s, { PAGE_SIZE: '500' });
    expect(examined.of('page size')).toMatchObject({
      verdict: 'warning',
      found: 'PAGE_SIZE is 500, but only 100 users come in one answer',
      remedy: expect.stringContaining('set PAGE_SIZE=100') as string,
    });
    expect(await learnt(s)).toMatchObject({ pageSize: 100, largestPage: 100 });
    // An answer cut short once is not taken for a rule.
    s.simulator.faults.next('partialPage', { path: 'search', times: 1 });
    await s.query(sql`delete from ${s.database.mirror.t.learnt}`);
    expect((await examine(s)).of('page size').found).toMatch(/came and then 100/);
    expect(await learnt(s)).not.toHaveProperty('pageSize');
  });

  it.each<[string, BehaviourPatch, RegExp]>([
    ['400', { unknownIds: 'fail' }, /HTTP 400 E112102/],
    ['200 with its code', { unknownIds: 'fail', missingUserStatus: 200 }, /HTTP 200 E112102/],
  ])('a batch load that refuses unknown ids by %s', async (_what, behaviour, found) => {
    const s = await begin({ simulator: { behaviour } });
    const examined = await examine(s);
    expect(examined.of('batch load').verdict).toBe('warning');
    expect(examined.of('batch load').found).toMatch(found);
    expect(examined.of('batch load').remedy).toMatch(/halved/);
    expect(await learnt(s)).toMatchObject({ unknownIds: 'refused' });
  });

  it('loads that are not permitted at all', async () => {
    const s = await begin();
    s.simulator.faults.next('status403', { path: 'load', times: 9 });
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['batch load']);
    expect(await learnt(s)).not.toHaveProperty('unknownIds');
  });

  it('too many requests: it stops asking, and does not wait out the silence', async () => {
    const s = await begin();
    applyBehaviour(s.simulator.behaviour, { limits: { users: 1 } });
    const examined = await examine(s);
    expect(examined.of('time unit')).toMatchObject({
      verdict: 'warning',
      found: expect.stringContaining('throttles') as string,
    });
    expect(examined.checks.map(({ name }) => name)).not.toContain('audit trail');
  });

  it('a clock that is minutes off', async () => {
    const s = await begin({ simulator: { behaviour: { clockSkewMs: 180_000 } } });
    expect((await examine(s)).of('clock')).toMatchObject({
      verdict: 'warning',
      found:
        "Postgres' clock is 3 min behind Descope's, this machine's clock is 3 min behind Descope's",
      remedy: expect.stringContaining('NTP') as string,
    });
    applyBehaviour(s.simulator.behaviour, { clockSkewMs: -30_000 });
    // Without a Postgres, by this machine's own clock.
    const { found } = (await examine(s, { DATABASE_URL: '' })).of('clock');
    expect(found).toMatch(/^this machine's clock is (29|30|31) s ahead of Descope's$/);
  });
});

describe('the webhook', () => {
  it('no secret', async () => {
    const s = await begin();
    const examined = await examine(s, { WEBHOOK_HMAC_SECRETS: '' });
    expect(badOnes(examined)).toEqual(['webhook secrets']);
    expect(examined.of('webhook secrets').remedy).toMatch(/set WEBHOOK_HMAC_SECRETS; `rollcall w/);
    const env = { WEBHOOK_HMAC_SECRETS: '', WEBHOOK_ALLOW_UNAUTHENTICATED: 'true' };
    expect((await examine(s, env)).of('webhook secrets').verdict).toBe('warning');
  });

  it.each([
    [{ WEBHOOK_HMAC_SECRETS: 'hunter2' }, 'WEBHOOK_HMAC_SECRETS can be guessed'],
    [
      { WEBHOOK_HMAC_SECRETS: `${'q9'.repeat(20)},the-webhook-secret-of-this-test` },
      'WEBHOOK_HMAC_SECRETS (number 1) can be guessed',
    ],
    [{ WEBHOOK_API_KEY: 'X-Key:tooshort' }, 'WEBHOOK_API_KEY can be guessed'],
    [{ WEBHOOK_BASIC: 'a:b', WEBHOOK_BEARER_TOKENS: 'x' }, 'want the same header'],
  ])('a weak secret, or two that exclude each other: %j', async (env, found) => {
    const s = await begin({ simulator: { users: 1 } });
    const examined = await examine(s, env);
    expect(badOnes(examined)).toEqual(['webhook secrets']);
    expect(examined.of('webhook secrets').found).toContain(found);
    expect(JSON.stringify(examined.checks)).not.toMatch(/hunter2|tooshort|q9q9/);
  });

  it('no delivery for a day while the audit trail has events', async () => {
    let agoMs = 3_600_000;
    const s = await begin({ simulator: { now: () => Date.now() - agoMs } });
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    const [one = '', ...others] = realUserIds(s);
    s.simulator.directory.modifyUser(one, { name: 'Somebody Else' });
    s.simulator.directory.deleteBatch(others.slice(0, 2));
    agoMs = 0;
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['deliveries']);
    expect(examined.of('deliveries').found).toMatch(/no webhook .* 2 events about users/);
    expect(examined.of('deliveries').remedy).toMatch(/no filter.*webhook check --wait/);

    const { t } = s.database.mirror;
    await s.query(sql`
      insert into ${t.events} (event_id, action, occurred_at, payload, state, webhook_at, audit_at)
      values ('e1', 'UserModified', now() - interval '1 hour', '{}', 'applied', now(), now()),
             ('e2', 'UserModified', now() - interval '1 hour', '{}', 'applied', null,
              now() - interval '1 minute')`);
    const after = await examine(s);
    expect(after.of('deliveries').found).toMatch(/: 1 by webhook .*, 2 by the audit pull/);
    expect(after.of('webhook loss')).toMatchObject({ verdict: 'warning' });
    expect(after.of('webhook loss').found).toMatch(/^(50|100)\.0 % of the last day/);
  });
});

describe('Postgres', () => {
  it('down: named with its remedy, and the rest is looked at all the same', async () => {
    const s = await begin();
    const url = new URL(s.database.url);
    url.port = '1';
    const examined = await examine(s, { DATABASE_URL: url.toString() });
    expect(badOnes(examined)).toEqual(['postgres']);
    expect(examined.of('postgres').found).toContain('ECONNREFUSED');
    expect(examined.of('postgres').remedy).toMatch(/cannot reach Postgres.*DATABASE_URL/);
    expect(examined.of('batch load').verdict).toBe('ok');
    expect(await learnt(s)).toEqual({});
  });

  it('refusing the password, or without the database', async () => {
    const s = await begin({ simulator: { users: 1 } });
    const url = new URL(s.database.url);
    url.pathname = '/nowhere';
    const examined = await examine(s, { DATABASE_URL: url.toString() });
    expect(examined.of('postgres').remedy).toMatch(/does not exist\. Create it/);
  });

  it('a role that may not write to the tables', async () => {
    const s = await begin();
    await s.query(sql.raw(`revoke insert on descope.users from "${roleOf(s)}"`));
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['postgres rights']);
    expect(examined.of('postgres rights').found).toMatch(/may not read and write users/);
    expect(examined.of('postgres rights').remedy).toMatch(/^grant select, insert, update, delete/);
    await s.query(sql.raw(examined.of('postgres rights').remedy ?? ''));
    expect(badOnes(await examine(s))).toEqual([]);
  });

  it('a role that may not use or create the schema', async () => {
    const database = await createEmptyDatabase();
    const s = await begin({ database, simulator: { users: 1 } });
    expect((await examine(s)).of('schema')).toMatchObject({
      verdict: 'ok',
      found: expect.stringContaining('not migrated yet') as string,
    });
    const name = new URL(database.url).pathname.slice(1);
    await s.query(sql.raw(`revoke create on database ${name} from "${roleOf(s)}"`));
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['postgres rights']);
    expect(examined.of('postgres rights').found).toMatch(
      /may not create the schema "descope", nor create the queue's schema "descope_queue"/,
    );
    expect(examined.of('postgres rights').remedy).toBe(
      `grant create on database "${name}" to "${roleOf(s)}"`,
    );
    expect(examined.of('credentials').verdict).toBe('ok');
  });

  it('a schema that may not be used', async () => {
    const s = await begin({ simulator: { users: 1 } });
    await s.query(sql.raw(`revoke usage on schema descope from "${roleOf(s)}"`));
    expect((await examine(s)).of('postgres rights').remedy).toMatch(/^grant usage on schema/);
  });

  it('a schema of a newer version, and one of an older', async () => {
    const s = await begin({ simulator: { users: 1 } });
    await s.query(sql`
      delete from descope.migrations
      where migration_id = (select max(migration_id) from descope.migrations)`);
    expect((await examine(s)).of('schema')).toMatchObject({
      verdict: 'warning',
      found: '"descope" is 1 migration behind',
      remedy: expect.stringContaining('rollcall migrate') as string,
    });
    await s.query(sql`
      insert into descope.migrations (migration_id, content_hash) values (9999999999999, 'later')`);
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['schema']);
    expect(examined.of('schema').found).toMatch(/newer version/);
    expect(examined.of('schema').remedy).toMatch(/run that version/);
  });

  it('the mirror of another project, which learns nothing of ours', async () => {
    const s = await begin();
    await claimProject(s.database.mirror, 'Panother');
    const examined = await examine(s);
    expect(badOnes(examined)).toEqual(['mirror']);
    expect(examined.of('mirror').found).toMatch(/project Panother, but DESCOPE_PROJECT_ID is P/);
    expect(examined.of('mirror').remedy).toMatch(/MIRROR_SCHEMA or a DATABASE_URL/);
    expect(await learnt(s)).toEqual({ projectId: 'Panother' });
  });

  it('too few connections', async () => {
    const s = await begin({ simulator: { users: 1 } });
    const name = new URL(s.database.url).pathname.slice(1);
    await s.query(sql.raw(`alter database ${name} connection limit 20`));
    const bad = (await examine(s)).of('connections');
    expect(bad).toMatchObject({ verdict: 'bad' });
    expect(bad.found).toMatch(/^20 by the database's connection limit/);
    await s.query(sql.raw(`alter database ${name} connection limit 40`));
    expect((await examine(s)).of('connections').verdict).toBe('warning');
  });

  it('none: nothing is made, and the rest is looked at all the same', async () => {
    const s = await begin({ simulator: { users: 1 } });
    const folder = join(tmpdir(), `rollcall-doctor-${process.pid}`);
    const config = parseConfig({ ...s.env, DATABASE_URL: '' });
    const running = { json: true, folder };
    const outcome = await runCommand(doctor, { config, logs: s.logs }, {}, running);
    expect(outcome.exitCode).toBe(0);
    const checks = outcome.json()['checks'] as Check[];
    expect(checks[0]).toMatchObject({
      ...{ name: 'postgres', verdict: 'warning' },
      found: expect.stringContaining('DATABASE_URL is not set') as string,
    });
    expect(checks.map(({ name }) => name)).toContain('batch load');
    expect(existsSync(folder)).toBe(false);
  });
});

describe('the command line of doctor', () => {
  it('wants credentials, says what is bad, and ends with 3', async () => {
    const s = await begin();
    const missing = startProcess(['doctor']);
    expect(await missing.exit).toBe(2);
    expect(missing.stderr()).toMatch(/^error: 2 settings are wrong: [^\n]*\n$/);
    const env = { ...s.env, DESCOPE_MANAGEMENT_KEY: 'K2wrong' };
    const child = startProcess(['doctor', '--json'], { env });
    expect(await child.exit).toBe(3);
    const { checks } = JSON.parse(child.stdout()) as { checks: Check[] };
    expect(checks.filter(({ verdict }) => verdict === 'bad').map(({ name }) => name)).toEqual([
      'credentials',
    ]);
    expect(child.stdout() + child.stderr()).not.toContain('K2wrong');
  });
});
