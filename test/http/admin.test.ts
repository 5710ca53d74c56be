import { Router } from 'express';
import { request } from 'node:http';
import { afterEach, describe, expect, test } from 'vitest';

import { startAdminServer, type AdminServerOptions } from '../../src/http/admin.ts';
import { createMetrics } from '../../src/metrics.ts';
import { setStatusGauges } from '../../src/readers/statusGauges.ts';
import { createReleaseStack } from '../../src/release.ts';

import type { RecentChange, StatusView } from '../../src/readers/statusView.ts';

const status: StatusView = {
  asOf: '2026-06-08 20:18:25.871835+00',
  lagSeconds: 12,
  sentence: 'Complete as of 12 s ago',
  state: 'complete',
  users: { live: 5000, tombstones: 3, ageSeconds: 2 },
  watermarks: [{ pull: 'modified', completeTo: '2026-06-08 20:18:25+00', lagSeconds: 12 }],
  gaps: 0,
  gapWindows: [],
  gapsRefilledLastDay: 0,
  lastRuns: [
    { pull: 'sweep', runId: 7, outcome: 'partial', at: '2026-06-08 20:18:25+00', reason: null },
  ],
  sweep: null,
  events: {
    ...{ pending: 0, parked: 0, parkedReason: null, appliedLastHour: 2, receivedLastHour: 2 },
    ...{
      lossRate: null,
      lossRateDay: 0.25,
      webhookDelaySeconds: 0.4,
      webhookDelayDaySeconds: null,
    },
  },
  queues: [{ name: 'events', waiting: 0, active: 1, delayed: 0, failed: 0 }],
  queueProblem: null,
  heldDeletions: 0,
  budget: [{ name: 'api', granted: 57, throttled: 1, silentUntil: null, silentSeconds: 0 }],
  consumers: [],
  endpoints: [],
  lastSweep: null,
  lastProof: null,
  lastProofAgeSeconds: null,
  driftPpm: null,
  driftSample: null,
  driftRemains: false,
  lastError: null,
};
const change: RecentChange = {
  seq: 1,
  userId: 'U1',
  kind: 'updated',
  changed: ['email'],
  witness: 'webhook',
  observedAt: '2026-06-08 20:18:25.871835+00',
  ageSeconds: 3,
};
const TOKEN = 'a long token';

let releases = createReleaseStack();

afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

async function start(overrides: Partial<AdminServerOptions> = {}) {
  const server = await startAdminServer({
    host: '127.0.0.1',
    port: 0,
    token: undefined,
    readStatus: () => Promise.resolve(status),
    readRecentChanges: () => Promise.resolve([change]),
    metrics: () => Promise.resolve('rollcall_users 5000\n'),
    ...overrides,
  });
  releases.push('server', () => server.stop());
  return `http://127.0.0.1:${server.port}`;
}

const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

describe('the status page', () => {
  test('says in its first line how things are, before any script ran', async () => {
    const url = await start();
    const response = await fetch(url);
    const html = await response.text();
    expect(response.headers.get('content-type')).toContain('text/html');
    expect(html).toMatch(/<h1[^>]*data-state="complete"[^>]*>\s*Complete as of 12 s ago\s*</);
  });

  test('escapes what it shows', async () => {
    const readStatus = () => Promise.resolve({ ...status, sentence: '<b>$&' });
    expect(await (await fetch(await start({ readStatus }))).text()).toContain('&lt;b&gt;$&amp;');
  });

  test('loads only its own files, which its policy allows, and nothing inline', async () => {
    const url = await start();
    const response = await fetch(url);
    const html = await response.text();
    const policy = response.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("script-src 'self'");
    expect(policy).not.toMatch(/unsafe|upgrade-insecure/);
    expect(html).not.toMatch(/<style|<script>|\sstyle=|\son\w+=|https?:\/\//);
    const files = [...html.matchAll(/(?:href|src)="(\/page\/[^"]+)"/g)].map((match) => match[1]);
    expect(files).toEqual(expect.arrayContaining(['/page/style.css', '/page/uPlot.iife.min.js']));
    for (const file of files) expect((await fetch(url + (file ?? ''))).status).toBe(200);
  });

  test.each(['/users', '/deletions', '/events', '/log'])(
    '%s is a page of its own, marked in the bar, with nothing inline',
    async (path) => {
      const response = await fetch((await start()) + path);
      const html = await response.text();
      expect([response.status, response.headers.get('cache-control')]).toEqual([200, 'no-store']);
      expect(html).toContain(`<a href="${path}" aria-current="page">`);
      expect(html.match(/aria-current/g)).toHaveLength(1);
      expect(html).not.toMatch(/\{\{|<style|<script>|\sstyle=|\son\w+=|https?:\/\//);
    },
  );

  test('nothing but what pages load is served of their folder', async () => {
    const url = await start();
    for (const name of ['overview.html', 'login.html', '..%2Fadmin.ts', 'nothing.js']) {
      expect((await fetch(`${url}/page/${name}`)).status).toBe(404);
    }
  });

  test('knows the budget that its chart of requests is drawn against', async () => {
    const html = await (await fetch(await start({ budgetPerMinute: 108 }))).text();
    expect(html).toContain('data-budget="108"');
  });

  test('comes up when the status cannot be read, and says so', async () => {
    const errors: unknown[] = [];
    const url = await start({
      readStatus: () => Promise.reject(new Error('no database')),
      onError: (error) => errors.push(error),
    });
    const page = await fetch(url);
    expect(page.status).toBe(200);
    expect(await page.text()).toContain('The status cannot be read');
    const json = await fetch(`${url}/api/status`);
    expect(json.status).toBe(503);
    expect(await json.text()).not.toContain('no database');
    expect(errors).toHaveLength(2);
  });
});

describe('the API', () => {
  test('/api/status is the status and the recent changes', async () => {
    const response = await fetch(`${await start()}/api/status`);
    expect(await response.json()).toEqual({ ...status, recentChanges: [change] });
    expect(response.headers.get('cache-control')).toBe('no-store');
  });

  test('many who ask at once cost one reading', async () => {
    let readings = 0;
    let answer: () => void = () => undefined;
    const reading = new Promise<StatusView>((resolve) => {
      answer = () => {
        resolve(status);
      };
    });
    const url = await start({
      readStatus: () => {
        readings += 1;
        return reading;
      },
      readRecentChanges: () => {
        answer();
        return Promise.resolve([]);
      },
    });
    const page = fetch(url);
    await Promise.all([fetch(`${url}/api/status`), page]);
    expect(readings).toBe(1);
  });

  test('/metrics is Prometheus text', async () => {
    const response = await fetch(`${await start()}/metrics`);
    expect(response.headers.get('content-type')).toContain('version=0.0.4');
    expect(await response.text()).toBe('rollcall_users 5000\n');
  });

  test.each(['/api/users/U1/explain', '/api/wait?userId=U1', '/queues', '/nothing'])(
    '%s is 404 in JSON where it is not given',
    async (path) => {
      const response = await fetch((await start()) + path);
      expect(response.status).toBe(404);
      expect(await response.json()).toEqual({ error: 'no such page' });
    },
  );

  test('explain answers what is known, and 404 where nothing is', async () => {
    const explain = (id: string) => Promise.resolve(id === 'U 1' ? { userId: id } : null);
    const url = await start({ explain });
    expect(await (await fetch(`${url}/api/users/U%201/explain`)).json()).toEqual({ userId: 'U 1' });
    expect((await fetch(`${url}/api/users/U2/explain`)).status).toBe(404);
  });
});

describe('the gauges of the status', () => {
  /** The lines with a value, but for what the process counts itself. */
  async function valuesOf(...shown: (StatusView | null)[]): Promise<string[]> {
    const metrics = createMetrics();
    for (const one of shown) setStatusGauges(metrics, one);
    const lines = (await metrics.registry.metrics()).split('\n');
    const counted =
      /_(bucket|sum|count)\b|status_known|(deliveries|requests|received|applied|jobs)_total\b/;
    return lines.filter((line) => line.startsWith('rollcall_') && !counted.test(line));
  }

  test('show what is known, and nothing of what is not', async () => {
    expect(await valuesOf(status)).toEqual([
      'rollcall_queue_jobs{queue="events",state="waiting"} 0',
      'rollcall_queue_jobs{queue="events",state="active"} 1',
      'rollcall_queue_jobs{queue="events",state="delayed"} 0',
      'rollcall_queue_jobs{queue="events",state="failed"} 0',
      'rollcall_state{state="complete"} 1',
      'rollcall_state{state="filling"} 0',
      'rollcall_state{state="behind"} 0',
      'rollcall_state{state="blocked"} 0',
      'rollcall_lag_seconds 12',
      'rollcall_watermark_lag_seconds{pull="modified"} 12',
      'rollcall_users{kind="live"} 5000',
      'rollcall_users{kind="tombstone"} 3',
      'rollcall_gaps 0',
      'rollcall_last_run_outcome{pull="sweep",outcome="complete"} 0',
      'rollcall_last_run_outcome{pull="sweep",outcome="partial"} 1',
      'rollcall_last_run_outcome{pull="sweep",outcome="blocked"} 0',
      'rollcall_deletions_held 0',
      'rollcall_events_pending 0',
      'rollcall_events_parked 0',
      'rollcall_webhook_loss_ratio{window="1d"} 0.25',
      'rollcall_webhook_delay_seconds{window="1h"} 0.4',
      'rollcall_budget_granted_total{budget="api"} 57',
      'rollcall_budget_throttled_total{budget="api"} 1',
      'rollcall_budget_silence_seconds{budget="api"} 0',
    ]);
  });

  test('show drift and the age of the last proof once there is one', async () => {
    const proven = { ...status, driftPpm: 12.5, lastProofAgeSeconds: 60 };
    expect(await valuesOf(proven)).toEqual(
      expect.arrayContaining(['rollcall_drift_ppm 12.5', 'rollcall_last_proof_age_seconds 60']),
    );
  });

  test('show how far a sweep has come while one is under way', async () => {
    const sweep = {
      ...{ runId: 8, startedAt: '2026-06-08 20:18:25+00', total: 5000, rowsRead: 1200 },
      ...{ requests: 13, windowsOpen: 3, windowsProven: 1 },
    };
    expect(await valuesOf({ ...status, sweep })).toEqual(
      expect.arrayContaining([
        'rollcall_sweep_users{kind="read"} 1200',
        'rollcall_sweep_users{kind="total"} 5000',
        'rollcall_sweep_windows{state="open"} 3',
        'rollcall_sweep_windows{state="proven"} 1',
      ]),
    );
    expect((await valuesOf({ ...status, sweep }, status)).join()).not.toContain('rollcall_sweep');
  });

  test('are absent while the status cannot be read, and back to what it says after that', async () => {
    expect(await valuesOf(status, null)).toEqual([]);
    // Totals are set, not added up.
    expect(await valuesOf(status, null, status, status)).toEqual(await valuesOf(status));
  });
});

describe('with a token', () => {
  const everyRoute = [
    '/',
    '/users',
    '/deletions',
    '/events',
    '/log',
    '/api/status',
    '/metrics',
    '/queues',
    '/api/wait?userId=U1',
    '/api/users/U1/explain',
    '/nothing',
  ];
  const full: Partial<AdminServerOptions> = {
    token: TOKEN,
    explain: () => Promise.resolve({}),
    waiting: {
      waitFor: (userId) => Promise.resolve({ userId, observedAt: '', asOf: '', deleted: false }),
      lookNow: () => Promise.reject(new Error('not asked for')),
      now: () => Promise.resolve(''),
    },
    queueBoard: Router().get('/', (_request, response) => {
      response.send('board');
    }),
  };

  test.each(everyRoute)('%s is refused without it (G9)', async (path) => {
    const url = await start(full);
    for (const init of [{}, bearer('wrong'), { headers: { cookie: `rollcall_admin=${TOKEN}` } }]) {
      const response = await fetch(url + path, init);
      expect(response.status).toBe(401);
      expect(await response.text()).not.toMatch(/Complete as of|board/);
    }
  });

  test.each(everyRoute.slice(0, -1))('%s is answered with it as a bearer', async (path) => {
    expect((await fetch((await start(full)) + path, bearer(TOKEN))).status).toBe(200);
  });

  test('the login form gives a cookie that opens the page and is not the token', async () => {
    const url = await start(full);
    const form = (token: string) =>
      fetch(`${url}/login`, {
        method: 'POST',
        body: new URLSearchParams({ token }),
        redirect: 'manual',
      });
    expect((await form('wrong')).status).toBe(401);

    const opened = await form(TOKEN);

    const cookie = opened.headers.get('set-cookie') ?? '';
    expect([opened.status, opened.headers.get('location')]).toEqual([303, '/']);
    expect(cookie).toMatch(/; HttpOnly; SameSite=Strict/);
    expect(cookie).not.toContain(TOKEN);
    const [pair = ''] = cookie.split(';');
    const page = await fetch(url, { headers: { cookie: `other=1; ${pair}` } });
    expect(await page.text()).toContain('Complete as of');
  });

  test('whoever opens the page is shown the form, with its style', async () => {
    const url = await start(full);
    for (const path of ['/', '/users', '/deletions', '/events', '/log']) {
      const page = await fetch(url + path, { headers: { accept: 'text/html' } });
      expect([page.status, await page.text()]).toEqual([401, expect.stringContaining('"/login"')]);
    }
    expect((await fetch(`${url}/login`)).status).toBe(200);
    expect((await fetch(`${url}/page/style.css`)).status).toBe(200);
  });

  test('any host name may be used', async () => {
    const url = await start(full);
    expect(await statusFor(url, 'rollcall.example.com', bearer(TOKEN).headers)).toBe(200);
  });
});

/** `fetch` does not let a caller choose the Host header. */
function statusFor(url: string, host: string, headers: Record<string, string> = {}) {
  return new Promise<number | undefined>((resolve, reject) => {
    request(`${url}/metrics`, { headers: { ...headers, host } }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on('error', reject)
      .end();
  });
}

describe('without a token', () => {
  test.each(['localhost:8788', '127.0.0.1', '[::1]:8788', 'LOCALHOST'])(
    'the loopback name %s is served',
    async (host) => {
      expect(await statusFor(await start(), host)).toBe(200);
    },
  );

  test.each(['evil.example.com', 'localhost.example.com', '127.0.0.1.example.com:80'])(
    'the name %j, which another site may have pointed here, is not',
    async (host) => {
      expect(await statusFor(await start(), host)).toBe(403);
    },
  );
});
