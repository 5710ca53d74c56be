import { describe, expect, it, onTestFinished } from 'vitest';

import { startAdminServer } from '../../src/http/admin.ts';

const TOKEN = 'a long token of this test';

async function begin(): Promise<string> {
  const server = await startAdminServer({
    host: '127.0.0.1',
    port: 0,
    token: TOKEN,
    readStatus: () => Promise.reject(new Error('not of this test')),
    readRecentChanges: () => Promise.resolve([]),
    metrics: () => Promise.resolve('rollcall_users 5\n'),
  });
  onTestFinished(() => server.stop());
  return `http://127.0.0.1:${server.port}`;
}

const logIn = (url: string, token: string, headers: Readonly<Record<string, string>> = {}) =>
  fetch(`${url}/login`, {
    method: 'POST',
    body: new URLSearchParams({ token }),
    headers,
    redirect: 'manual',
  });

const ask = async (url: string, headers: Readonly<Record<string, string>>) => {
  const { status } = await fetch(`${url}/metrics`, { headers });
  return status;
};

describe('a token that every request brings', () => {
  it('is not looked at for a while after a hundred wrong ones, bearers and cookies alike', async () => {
    const url = await begin();
    for (let nth = 1; nth <= 50; nth++) {
      expect(await ask(url, { authorization: `Bearer wrong ${nth}` })).toBe(401);
      expect(await ask(url, { cookie: `rollcall_admin=wrong${nth}` })).toBe(401);
    }
    const refused = await fetch(`${url}/metrics`, {
      headers: { authorization: `Bearer ${TOKEN}` },
    });
    expect(refused.status).toBe(429);
    expect(await refused.json()).toEqual({
      error: 'too many wrong tokens: try again in a quarter of an hour',
    });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(14 * 60);
    // Who brings none is told what is wanted, as ever.
    expect(await ask(url, {})).toBe(401);
  });

  it('does no harm that is old, and brought again and again', async () => {
    const url = await begin();
    for (let nth = 1; nth <= 150; nth++) {
      expect(await ask(url, { authorization: 'Bearer of yesterday' })).toBe(401);
    }
    for (let nth = 1; nth <= 150; nth++) {
      expect(await ask(url, { authorization: `Bearer ${TOKEN}` })).toBe(200);
    }
  });
});

describe('the login', () => {
  it('looks at no token for a while after ten wrong ones', async () => {
    const url = await begin();
    const right = await logIn(url, TOKEN);
    const [session = ''] = (right.headers.get('set-cookie') ?? '').split(';');
    for (let nth = 1; nth <= 10; nth++) expect((await logIn(url, 'wrong')).status).toBe(401);

    for (const token of ['wrong', TOKEN]) {
      const refused = await logIn(url, token);
      expect(refused.status).toBe(429);
      const retryAfter = Number(refused.headers.get('retry-after'));
      expect(retryAfter).toBeGreaterThan(14 * 60);
      expect(retryAfter).toBeLessThanOrEqual(15 * 60);
      expect(refused.headers.get('set-cookie')).toBeNull();
      expect(await refused.text()).toContain('Too many wrong tokens');
    }
    // Who is in stays in, and a proxy's word for another address helps nobody.
    expect((await fetch(`${url}/metrics`, { headers: { cookie: session } })).status).toBe(200);
    const bearer = { headers: { authorization: `Bearer ${TOKEN}` } };
    expect((await fetch(`${url}/metrics`, bearer)).status).toBe(200);
    expect((await logIn(url, 'wrong', { 'x-forwarded-for': '192.0.2.7' })).status).toBe(429);
  });

  it('does not count right tokens', async () => {
    const url = await begin();
    for (let nth = 1; nth <= 9; nth++) expect((await logIn(url, 'wrong')).status).toBe(401);
    for (let nth = 1; nth <= 12; nth++) expect((await logIn(url, TOKEN)).status).toBe(303);
    expect((await logIn(url, 'wrong')).status).toBe(401);
    expect((await logIn(url, TOKEN)).status).toBe(429);
  });

  it('is not filled in by another site, whose tries do not count', async () => {
    const url = await begin();
    for (let nth = 1; nth <= 12; nth++) {
      expect((await logIn(url, 'wrong', { origin: 'https://evil.example.com' })).status).toBe(403);
    }
    expect((await logIn(url, TOKEN, { origin: url })).status).toBe(303);
    // A proxy may call us by another name: what the browser says of the two sites counts.
    const proxied = { origin: 'https://rollcall.example.com', 'sec-fetch-site': 'same-origin' };
    expect((await logIn(url, TOKEN, proxied)).status).toBe(303);
  });

  it('takes no long forms', async () => {
    const url = await begin();
    expect((await logIn(url, 'x'.repeat(10_000))).status).toBe(413);
  });

  it('is shown to browsers that open any page, and JSON to programs', async () => {
    const url = await begin();
    const page = await fetch(`${url}/deletions`, { headers: { accept: 'text/html,*/*' } });
    expect([page.status, await page.text()]).toEqual([
      401,
      expect.stringContaining('action="/login"') as string,
    ]);
    const answer = await fetch(`${url}/api/deletions`);
    expect([answer.status, await answer.json()]).toEqual([401, { error: 'not authenticated' }]);
    const post = await fetch(`${url}/api/replay`, {
      method: 'POST',
      headers: { 'x-rollcall': '1', accept: 'text/html' },
    });
    expect(post.status).toBe(401);
  });
});
