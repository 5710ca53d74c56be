import { accessSync, constants, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, join } from 'node:path';
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core';

import type { AxeResults } from 'axe-core';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];

/** The system's own Chromium. Null, having said so, where none is installed. @throws Error there in CI */
export function findChromium(): string | null {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  const files = folders.flatMap((folder) => NAMES.map((name) => join(folder, name)));
  const found = files.find(isExecutable);
  if (found !== undefined) return found;
  const remedy = 'install Chromium (apt install chromium, brew install chromium)';
  if (process.env['CI'] !== undefined) throw new Error(`Chromium is missing: ${remedy}`);
  console.warn(`\nTests of the dashboard in a browser are skipped. To run them, ${remedy}.\n`);
  return null;
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Starts it without a window. */
export function startBrowser(executablePath: string): Promise<Browser> {
  return chromium.launch({ executablePath });
}

/** A page of a person of its own, and what it did. */
export interface WatchedPage {
  readonly page: Page;
  /** Addresses that were asked for, in order. */
  readonly urls: readonly string[];
  /** What its console or its policy complained of since this was last asked, and what was thrown. */
  takeTroubles(): string[];
  /** Bytes of all bodies so far. */
  weight(): number;
}

/** Opens a page that is watched from its first request on. */
export async function openPage(
  browser: Browser,
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const urls: string[] = [];
  const troubles: string[] = [];
  let bytes = 0;
  page.on('request', (request) => urls.push(request.url()));
  page.on('pageerror', (error) => troubles.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') troubles.push(message.text());
  });
  const session = await context.newCDPSession(page);
  session.on('Network.dataReceived', ({ dataLength }) => {
    bytes += dataLength;
  });
  await session.send('Network.enable');
  return { page, urls, takeTroubles: () => troubles.splice(0), weight: () => bytes };
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe finds serious or critical on a page as it is now: the rule, and where. */
export async function findBarriers(page: Page): Promise<string[]> {
  // Evaluated from outside: the page's own policy would let no such script in.
  await page.evaluate(axe);
  const { violations } = await page.evaluate<AxeResults>('axe.run(document)');
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' | ')}`);
}

export const PHONE = { width: 390, height: 844 };
export const DESKTOP = { width: 1280, height: 900 };

/** The same at both widths and in both sets of colours; also what does not fit a width. */
export async function findAllBarriers(page: Page): Promise<string[]> {
  const found: string[] = [];
  for (const size of [PHONE, DESKTOP]) {
    await page.setViewportSize(size);
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      const where = `${size.width} px, ${colorScheme}`;
      found.push(...(await findBarriers(page)).map((barrier) => `${where}: ${barrier}`));
    }
    const wide = await page.evaluate<number>('document.documentElement.scrollWidth');
    if (wide > size.width) found.push(`${size.width} px: the page is ${wide} px wide`);
  }
  return found;
}
