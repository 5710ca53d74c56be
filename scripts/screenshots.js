/* global fetch, URL */
// Runs the demo and takes pictures of its dashboard into docs/screenshots: its pages for a desktop and a
// phone, in light and dark, each as a few of the four. `--minutes N` lets it live so long first, for the charts to have something;
// `--chromium FILE` is the browser, where it is not on the path.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const MOST_BYTES = 200_000;
/** The machine may have other things to do. */
const PATIENCE_MS = 120_000;
const SIZES = {
  desktop: { width: 1280, height: 900 },
  phone: { width: 390, height: 844 },
};

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '8' },
    chromium: { type: 'string' },
  },
});
const root = join(import.meta.dirname, '..');
const pictures = join(root, 'docs/screenshots');
const folder = mkdtempSync(join(tmpdir(), 'rollcall-screenshots-'));

const demo = spawn(process.execPath, [join(root, 'dist/src/main.js'), 'demo', '--json'], {
  cwd: folder,
  env: { ...process.env, ADMIN_PORT: '0' },
  stdio: ['ignore', 'pipe', 'inherit'],
});
const ended = new Promise((resolve) => demo.once('exit', resolve));
let browser;
try {
  const { page: url, simulator } = await firstLine();
  mkdirSync(pictures, { recursive: true });
  browser = await chromium.launch({ executablePath: values.chromium ?? findChromium() });
  console.log(`the demo answers at ${url} and lives for ${values.minutes} minutes`);
  await pause(Number(values.minutes) * 60_000);
  const user = await someoneWithAStory(url);
  await takeAll(url, [
    ['overview', '/', '#charts canvas', ['desktop-light', 'desktop-dark', 'phone-dark']],
    ['user', `/users#${user}`, '#lines li', ['desktop-dark', 'phone-light']],
    ['events', '/events', '#rows td', ['desktop-light', 'phone-light']],
  ]);
  await holdDeletions(url, simulator);
  await takeAll(url, [['deletions', '/deletions', '#rows td', ['desktop-light', 'phone-dark']]]);
  await rejectOne(url);
  await takeAll(url, [['log', '/log', '#rows td', ['desktop-dark']]]);
} finally {
  await browser?.close();
  demo.kill('SIGTERM');
  await ended;
  rmSync(folder, { recursive: true, force: true });
}

function findChromium() {
  const folders = process.env.PATH.split(delimiter);
  const files = folders.flatMap((path) =>
    ['chromium', 'chromium-browser'].map((name) => join(path, name)),
  );
  return files.find((file) => existsSync(file));
}

async function firstLine() {
  try {
    for await (const line of createInterface({ input: demo.stdout })) {
      if (line.startsWith('{"page"')) return JSON.parse(line);
    }
    throw new Error('the demo ended before it said where it is');
  } finally {
    // What else it prints is let go by, or it would be held up.
    demo.stdout.resume();
  }
}

async function getJson(url, body) {
  const init = body && {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-rollcall': '1' },
    body: JSON.stringify(body),
  };
  const response = await fetch(url, init);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.json();
}

/** Of the latest changes, the user with most to tell. */
async function someoneWithAStory(url) {
  const { recentChanges } = await getJson(`${url}api/status`);
  const told = await Promise.all(
    recentChanges.map(({ userId }) => getJson(`${url}api/users/${userId}/explain`)),
  );
  told.sort((a, b) => b.story.length - a.story.length);
  return told[0].userId;
}

/** Lets people leave until the breaker holds some of them. */
async function holdDeletions(url, simulator) {
  const mix = {
    ...{ signUp: 0, change: 0, delete: 1, login: 0 },
    ...{ batchCreate: 0, batchChange: 0, batchDelete: 0 },
  };
  await getJson(`${simulator}/simulator/traffic`, { perSecond: 100, mix });
  let held = 0;
  while (held < 20) {
    await pause(1_000);
    held = (await getJson(`${url}api/status`)).heldDeletions;
  }
  await getJson(`${simulator}/simulator/traffic`, { perSecond: 0, mix });
  await pause(10_000);
}

/** For the log to have something in it. */
async function rejectOne(url) {
  const { deletions } = await getJson(`${url}api/deletions?limit=5`);
  const userIds = deletions.map(({ userId }) => userId);
  await getJson(`${url}api/deletions/approve`, { userIds: userIds.slice(0, 3) });
  await getJson(`${url}api/deletions/reject`, { userIds: userIds.slice(3) });
  await getJson(`${url}api/replay`, { failed: true });
}

async function takeAll(url, pages) {
  for (const [name, path, ready, looks] of pages) {
    for (const look of looks) {
      const [size, colorScheme] = look.split('-');
      await take({ name: `${name}-${look}`, url: new URL(path, url), ready, size, colorScheme });
    }
  }
}

async function take({ name, url, ready, size, colorScheme }) {
  const page = await browser.newPage({ viewport: SIZES[size], colorScheme });
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(url.href);
  await page.locator(ready).first().waitFor();
  // The stream's second status: numbers and sizes have settled.
  await pause(3_000);
  const path = join(pictures, `${name}.png`);
  await page.screenshot({ path });
  await page.close();
  const { size: bytes } = statSync(path);
  console.log(`${path}: ${Math.round(bytes / 1000)} kB`);
  if (bytes >= MOST_BYTES) throw new Error(`${path} is too large: ${bytes} bytes`);
}
