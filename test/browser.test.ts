import { sql } from 'drizzle-orm';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import { createReleaseStack } from '../src/release.ts';
import {
  createBuiltServices,
  type BuiltService,
  type BuiltServices,
} from './support/builtService.ts';
import {
  findAllBarriers,
  findChromium,
  openPage,
  PHONE,
  startBrowser,
  type WatchedPage,
} from './support/browser.ts';
import { eventually } from './support/eventually.ts';
import { startProcess } from './support/process.ts';
import { createScene, HMAC_SECRET, realUserIds, type Scene } from './support/world.ts';

import type { Browser, Page } from 'playwright-core';

/* The built product's dashboard, as a person sees it: a real browser, service, database and simulator. */

const chromium = findChromium();
const PATIENCE_MS = 45_000;
/** All files, answers and live updates of one visit. */
const MOST_BYTES = 200_000;

let browser: Browser;
let url = '';
const visits: WatchedPage[] = [];

const releases = createReleaseStack();
afterAll(() => releases.release());

/** Opens a page in a browser session of its own. */
async function visit(path: string, options = {}): Promise<Page> {
  const visited = await openPage(browser, { acceptDownloads: true, ...options });
  visits.push(visited);
  await visited.page.goto(url + path);
  return visited.page;
}

/** Waits until there is such an element with such a text to be seen, and returns that text. */
async function seen(page: Page, selector: string, text: RegExp): Promise<string> {
  const place = page.locator(selector).filter({ hasText: text, visible: true }).first();
  await place.waitFor({ timeout: PATIENCE_MS });
  return (await place.textContent()) ?? '';
}

/** Uses what has the keyboard's attention, having moved it there by nothing but the Tab key. */
async function tabTo(page: Page, selector: string): Promise<void> {
  for (let steps = 0; steps < 200; steps += 1) {
    await page.keyboard.press('Tab');
    if (await page.locator(`${selector}:focus-visible`).count()) return;
  }
  throw new Error(`Tab never reaches ${selector}`);
}

/** Every visit: nothing was asked of another machine, and neither console nor policy complained. */
function assertQuiet(): void {
  for (const visited of visits) {
    const isOurs = (one: string) => one.startsWith(`${url}/`) || one.startsWith(`blob:${url}/`);
    expect(visited.urls.filter((one) => !isOurs(one))).toEqual([]);
    expect(visited.takeTroubles()).toEqual([]);
  }
}

beforeAll(async () => {
  if (chromium === null) return;
  browser = await startBrowser(chromium);
  releases.push('browser', () => browser.close());
});

afterEach(async () => {
  try {
    assertQuiet();
  } finally {
    for (const { page } of visits.splice(0)) await page.context().close();
  }
});

describe.skipIf(chromium === null)('the dashboard', () => {
  let scene: Scene;
  let services: BuiltServices;
  let service: BuiltService;
  const USERS = 1_500;
  /** How far the directory's clock was put forward. */
  let aheadMs = 0;

  beforeAll(async () => {
    scene = await createScene({
      // Slow at first, so that a person can watch the first fill.
      simulator: {
        users: USERS,
        now: () => Date.now() + aheadMs,
        behaviour: { latencyMs: 2_000 },
      },
      env: { PULL_AUDIT_CRON: '*/2 * * * * *', PULL_SETTLE_SECONDS: '0', BREAKER_MAX_COUNT: '5' },
    });
    releases.push('scene', () => scene.stop());
    services = await createBuiltServices();
    releases.push('services', async () => {
      await services.end();
    });
    service = await services.start(scene.env);
    url = `http://127.0.0.1:${service.adminPort}`;
  });

  /** Webhooks from now on; each comes but those that are to be lost. */
  function deliver(dropRate = 0): void {
    scene.simulator.delivery.configure({
      url: `http://127.0.0.1:${service.port}/webhooks/descope`,
      hmacSecret: HMAC_SECRET,
      policy: { dropRate },
    });
  }

  /** A live user that no test has touched. */
  let taken = 0;
  function someUser(): string {
    const userId = realUserIds(scene)[taken];
    taken += 1;
    if (userId === undefined) throw new Error('no user is left');
    return userId;
  }

  async function untilApplied(userId: string, count: number): Promise<void> {
    const { t } = scene.database.mirror;
    await eventually(async () => {
      const applied = await scene.query(sql`
        select event_id from ${t.events}
        where state = 'applied' and user_ids @> ${sql.param([userId])}::text[]`);
      expect(applied).toHaveLength(count);
    });
  }

  it('shows how far the first fill is, and then that it is complete', async () => {
    const page = await visit('/');
    await seen(page, 'h1[data-state="filling"]', /^Filling: \d+ of \d+ users so far$/);
    await seen(page, '#progress-text', /^Sweep: [\d,]+ of 1,\d+ users read in \d+ requests?/);
    scene.simulator.behaviour.latencyMs = 0;
    await seen(page, 'h1[data-state="complete"]', /^Complete as of \d+ s ago$/);
    await page.locator('#progress').waitFor({ state: 'hidden' });
    await seen(page, '#sweep .value', /^complete$/);
    expect(await page.title()).toBe('Complete · Rollcall');
  });

  it('tells the time that a sweep still takes by how fast it went of late', async () => {
    const page = await visit('/log');
    const told = await page.evaluate(`import('/page/progress.js').then(({ createProgress }) => {
      const read = createProgress();
      const sweep = (rowsRead, runId = 1) => ({ runId, rowsRead, total: 10_000 });
      return [
        read(null, 0), read(sweep(4_000), 0), read(sweep(4_500), 3_000), read(sweep(5_000), 10_000),
        read(sweep(5_000), 80_000), read(sweep(1, 2), 90_000), read({ ...sweep(2), total: null }, 99_000),
      ];
    })`);
    expect(told).toEqual([null, null, null, 50, null, null, null]);
  });

  it('shows a lost webhook as lost, and what the audit pull mended', async () => {
    deliver(1);
    const userId = someUser();
    scene.simulator.directory.modifyUser(userId, { name: 'Somebody Else' });
    const page = await visit('/');
    const link = `a[href="/users#${userId}"]`;
    await seen(page, `#changes tr:has(${link})`, /updated.*name.*audit/);
    // It counts as lost once it is half a minute late.
    const { t } = scene.database.mirror;
    await scene.query(sql`update ${t.events} set audit_at = audit_at - interval '40 seconds'
                          where webhook_at is null`);
    await seen(page, '#loss .value', /^[1-9][\d.]* %$/);
    await page.locator(`#changes ${link}`).first().click();
    await seen(page, '#lines li', /UserModified .* told by audit .* no webhook brought it so far/);
    await seen(page, '#lines li.change', /updated by audit.*name/);
    deliver();
  });

  it('finds a user by login id and tells the story, with nothing personal in any address', async () => {
    deliver();
    const userId = someUser();
    const loginId = scene.simulator.directory.answer(userId)?.loginIds[0] ?? '';
    expect(loginId).not.toBe('');
    scene.simulator.directory.modifyUser(userId, { givenName: 'Ada' });
    await untilApplied(userId, 1);
    const page = await visit('/users');
    await seen(page, '#hint', /Look somebody up/);
    await page.getByLabel('User id, login id').fill(loginId);
    await page.keyboard.press('Enter');
    await seen(page, '#found', new RegExp(userId));
    if ((await page.locator('#found tr').count()) > 1)
      await page.locator('#found a').first().click();
    await seen(page, '#story h2', new RegExp(userId));
    await seen(page, '#present', /live/);
    await seen(page, '#lines li', /UserModified .* told by webhook/);
    expect(page.url()).toBe(`${url}/users#${encodeURIComponent(userId)}`);
    const asked = visits.flatMap((one) => one.urls).map(decodeURIComponent);
    expect(asked.filter((one) => one.includes(loginId))).toEqual([]);
    expect(await findAllBarriers(page)).toEqual([]);

    await page.getByRole('button', { name: 'Apply the events again' }).click();
    await seen(page, '#notice', /^\d+ events? of this user will be applied again\.$/);
    await page.goto(`${url}/users#U2nobody`);
    await seen(page, '#error', /^Rollcall says: nothing is known of this user\.$/);
    expect(visits.flatMap((one) => one.takeTroubles())).toEqual([expect.stringContaining('404')]);
  });

  it('lets a person decide on held deletions, by keyboard alone', async () => {
    deliver();
    const gone = Array.from({ length: 12 }, someUser);
    const page = await visit('/deletions');
    await seen(page, '#empty', /^\s*Nothing waits/);
    await page.goto(`${url}/`);
    scene.simulator.directory.deleteBatch(gone);
    await seen(page, '#held', /^12 deletions wait for you$/);
    await tabTo(page, '#held a');
    await page.keyboard.press('Enter');
    await seen(page, 'h1', /^12 deletions held$/);
    expect(await page.locator('#rows tr').count()).toBe(12);

    await tabTo(page, '#rows input');
    await page.keyboard.press('Space');
    await tabTo(page, '#rows input');
    await page.keyboard.press('Space');
    await seen(page, '#chosen', /^2 chosen$/);
    expect(await findAllBarriers(page)).toEqual([]);
    await page.locator('button[value="approve"][data-of="chosen"]').focus();
    await page.keyboard.press('Enter');
    await seen(page, 'dialog h2', /^Remove 2 users\?$/);
    expect(await findAllBarriers(page)).toEqual([]);
    // Cancel has the attention at first; nothing happens by an Enter too many.
    await page.keyboard.press('Enter');
    await page.locator('dialog').waitFor({ state: 'hidden' });
    await page.locator('button[value="approve"][data-of="chosen"]').focus();
    await page.keyboard.press('Enter');
    await tabTo(page, '#confirm-yes');
    await page.keyboard.press('Enter');
    await seen(page, '#notice', /^2 deletions approved\.$/);
    await seen(page, 'h1', /^10 deletions held$/);
    expect(await tombstones(gone)).toBe(2);

    await page.getByRole('button', { name: 'Reject all' }).click();
    await seen(page, 'dialog h2', /^Keep 10 users\?$/);
    await page.getByRole('button', { name: 'Reject 10' }).click();
    await seen(page, '#notice', /^10 deletions rejected\.$/);
    await seen(page, 'h1', /^No deletion waits$/);
    expect(await tombstones(gone)).toBe(2);

    await page.goto(`${url}/log`);
    await seen(page, '#rows tr:nth-child(1)', /dashboard.*reject/);
    await seen(page, '#rows tr:nth-child(2)', /dashboard.*approve/);
    expect(await findAllBarriers(page)).toEqual([]);
  });

  async function tombstones(userIds: readonly string[]): Promise<number> {
    const { t } = scene.database.mirror;
    const [row] = await scene.query<{ count: number }>(
      sql`select count(*)::int as count from ${t.users}
          where deleted_at is not null and user_id = any(${sql.param(userIds)}::text[])`,
    );
    return row?.count ?? -1;
  }

  it('searches, pages and exports the audit trail', async () => {
    deliver();
    const userId = someUser();
    const { directory } = scene.simulator;
    for (let turn = 0; turn < 60; turn += 1) {
      // Two events of one and the same moment would be one.
      aheadMs += 1;
      directory.modifyUser(userId, { customAttributes: { turn } });
    }
    await untilApplied(userId, 60);
    const page = await visit(`/events#${userId}`);
    await seen(page, '#found', /^The latest 50 events$/);
    await page.getByRole('button', { name: 'Show older' }).click();
    await seen(page, '#found', /^60 events$/);
    expect(await page.locator('#rows tr').count()).toBe(60);
    expect(await findAllBarriers(page)).toEqual([]);

    const started = page.waitForEvent('download');
    await page.getByRole('button', { name: 'Export JSON lines' }).click();
    const download = await started;
    expect(download.suggestedFilename()).toMatch(/^rollcall-events-\d{4}-\d\d-\d\d\.jsonl$/);
    const lines = (await readFile(await download.path(), 'utf8')).trim().split('\n');
    expect(lines).toHaveLength(60);
    expect(lines.every((line) => line.includes(userId))).toBe(true);

    await page.getByLabel('Action').fill('UserDeleted');
    await page.keyboard.press('Enter');
    await seen(page, '#empty', /^No event of the trail is like that/);
    await page.getByRole('button', { name: 'Clear' }).click();
    await seen(page, '#found', /events/);
    expect(await page.getByLabel('User').inputValue()).toBe('');
  });

  it('draws what the history and the ledger hold, with the same in words', async () => {
    const { t } = scene.database.mirror;
    await scene.query(sql`
      insert into ${t.statusHistory} (step, at, lag_seconds, loss_rate, by_webhook, by_audit, applied, requests)
      select 'minute', date_trunc('minute', now()) - make_interval(mins => n), 900, 0.1, 300, 200, 500, 40
      from generate_series(2, 200) as n on conflict do nothing`);
    const [run] = await scene.query<{ runId: number }>(sql`
      insert into ${t.syncRuns} (pull, reason, finished_at, outcome)
      values ('modified', 'schedule', now(), 'partial') returning run_id::float8 as "runId"`);
    await scene.query(sql`
      insert into ${t.syncWindows} (run_id, pull, from_time, to_time, state, gap_since, error)
      values (${run?.runId}, 'modified', now() - interval '30 minutes', now() - interval '20 minutes',
              'gap', now(), 'Descope did not answer')`);
    const page = await visit('/');
    await seen(page, '#charts .chart:nth-child(1) .words', /now, at most 15 min$/);
    await seen(page, '#charts .chart:nth-child(2) .words', / % now, at most \d/);
    const described = async (chart: number) =>
      page.locator(`#charts .chart:nth-child(${chart}) .plot`).getAttribute('aria-label');
    expect(await described(3)).toMatch(
      /: webhook \S+ now, at most 300 · audit \S+ now, at most 200/,
    );
    expect(await described(5)).toMatch(/: sent .* · budget 200,000$/);
    expect(await page.locator('#charts canvas').count()).toBe(5);
    await page.locator('#charts summary').first().click();
    const rows = page.locator('#charts .chart:nth-child(1) tbody tr');
    const oldestMinutes = async () => {
      const at = await rows.last().locator('time').getAttribute('datetime');
      return (Date.now() - Date.parse(at ?? '')) / 60_000;
    };
    expect(await oldestMinutes()).toBeLessThan(62);
    await page.getByRole('button', { name: '24 h' }).click();
    await eventually(async () => {
      expect(await oldestMinutes()).toBeGreaterThan(180);
    });
    expect(page.url()).toBe(`${url}/?hours=24`);
    await seen(page, '#coverage article', /modified.*but for a gap of 10 min/);
    expect(await page.locator('#coverage .window.gap').count()).toBe(1);
    expect(await page.locator('#coverage .window.proven').count()).toBeGreaterThan(0);
    expect(await findAllBarriers(page)).toEqual([]);
    await scene.query(sql`delete from ${t.syncWindows} where run_id = ${run?.runId}`);
  });

  it('applies parked events again at the press of a button', async () => {
    const { t } = scene.database.mirror;
    deliver();
    const userId = someUser();
    scene.simulator.directory.modifyUser(userId, { familyName: 'Parked' });
    await untilApplied(userId, 1);
    await scene.query(sql`
      update ${t.events} set state = 'parked', error = 'it was too much', applied_at = null
      where user_ids @> ${sql.param([userId])}::text[]`);
    const page = await visit('/', { viewport: PHONE });
    await seen(page, '#parked .more', /^it was too much$/);
    await page.getByRole('button', { name: 'Apply them again' }).click();
    await seen(page, '#notice', /^1 parked event will be applied again\.$/);
    await seen(page, '#parked .value', /^0$/);
    const [row] = await scene.query<{ live: number }>(
      sql`select count(*)::int as live from ${t.liveUsers}`,
    );
    // Counted every 15 s at most.
    await seen(page, '#live .value', new RegExp(`^${row?.live.toLocaleString('en') ?? ''}$`));
  });

  it('says that the connection is lost, and since when, and finds it again', async () => {
    const page = await visit('/');
    await seen(page, '#as-of', /^as of /);
    const { adminPort } = service;
    await service.kill();
    await seen(page, '#connection', /^connection lost, last seen \d+ s ago$/);
    service = await services.start({ ...scene.env, ADMIN_PORT: String(adminPort) });
    await eventually(
      async () => {
        expect(await page.locator('#connection').textContent()).toBe('');
      },
      { timeoutMs: PATIENCE_MS },
    );
    await seen(page, 'h1:not([data-state="unknown"])', /as of/);
    // The browser's notes of what could not be asked meanwhile.
    for (const one of visits) one.takeTroubles();
  });
});

describe.skipIf(chromium === null)('the demo', () => {
  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'rollcall-demo-'));
    releases.push('demo folder', () => rm(folder, { recursive: true, force: true }));
    const demo = startProcess(['demo', '--json'], { cwd: folder, env: { ADMIN_PORT: '0' } });
    releases.push('demo', async () => {
      demo.kill('SIGTERM');
      await demo.exit;
    });
    const [, page = ''] = await demo.waitForLine(/"page":"([^"]+)\/"/, PATIENCE_MS);
    url = page;
  }, 60_000);

  it('says its first sentence without any script', async () => {
    const page = await visit('/', { javaScriptEnabled: false });
    await seen(page, 'h1', /^\s*(Filling: \d+|Complete as of)/);
    await seen(page, 'noscript p', /needs JavaScript/);
  });

  it('shows that the mirror equals the directory', async () => {
    const page = await visit('/');
    await seen(page, 'h1[data-state="complete"]', /^Complete as of/);
    await seen(page, '#demo', /^demo: mirror equals directory ✓$/);
  });

  it.each([
    ['/', '#changes td[data-label]'],
    ['/users', '#hint'],
    ['/deletions', '#empty'],
    ['/events', '#rows td'],
    ['/log', '#empty'],
  ])('%s is light, quick and open to everyone', async (path, selector) => {
    const page = await visit(path);
    await seen(page, selector, /./);
    const [watched] = visits;
    const bytes = watched?.weight() ?? Number.POSITIVE_INFINITY;
    const ms = await page.evaluate<number>(
      `performance.getEntriesByType('navigation')[0].loadEventEnd`,
    );
    console.info(`${path}: ${(bytes / 1000).toFixed(0)} kB, loaded in ${ms.toFixed(0)} ms`);
    expect(bytes).toBeGreaterThan(5_000);
    expect(bytes).toBeLessThan(MOST_BYTES);
    expect(await findAllBarriers(page)).toEqual([]);
  });
});
