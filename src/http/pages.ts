import { Router } from 'express';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { inTime } from '../within.ts';
import { PAGE_FOLDER, renderPage } from './renderPage.ts';

import type { StatusView } from '../readers/statusView.ts';

/*
 * The dashboard's pages: one frame around five bodies, and the styles and scripts they load. All of it
 * are files of this machine. What a page shows it asks the API for; only the overview's first sentence
 * is in the page itself, so that it is there before any script ran, and where none may.
 */

export interface PageOptions {
  /** For the overview's first sentence. */
  readonly readStatus: () => Promise<Pick<StatusView, 'state' | 'sentence'>>;
  /** Requests to Descope that all processes together may send a minute: a line in a chart. */
  readonly budgetPerMinute?: number | undefined;
  /** Told why a status could not be read. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

interface Page {
  readonly path: string;
  readonly file: string;
  readonly title: string;
}

const PAGES: readonly Page[] = [
  { path: '/', file: 'overview.html', title: 'Overview' },
  { path: '/users', file: 'users.html', title: 'Users' },
  { path: '/deletions', file: 'deletions.html', title: 'Deletions' },
  { path: '/events', file: 'events.html', title: 'Events' },
  { path: '/log', file: 'log.html', title: 'Admin log' },
];

/** Where npm puts uPlot. The build copies these files beside the pages; run from source, they are there. */
const UPLOT_FOLDER = join(import.meta.dirname, '../../node_modules/uplot/dist');
const UPLOT_FILES = ['uPlot.iife.min.js', 'uPlot.min.css'];

const readPageFile = (name: string): string => readFileSync(join(PAGE_FOLDER, name), 'utf8');

/** The frame with a page's body in it; what differs from request to request is still marked. */
function composePage({ path, file, title }: Page): string {
  return readPageFile('frame.html')
    .replace(`<a href="${path}">`, `<a href="${path}" aria-current="page">`)
    .replace('{{title}}', title)
    .replace('{{body}}', () => readPageFile(file));
}

/** A Postgres that is silent must not keep the page away. */
const STATUS_DEADLINE_MS = 2_000;

async function readFirstSentence({ readStatus, onError }: PageOptions) {
  try {
    const { state, sentence } = await inTime(
      STATUS_DEADLINE_MS,
      readStatus(),
      'the status was not read',
    );
    return { state, sentence };
  } catch (error) {
    // The page itself must come up, above all when something is wrong.
    onError?.(error);
    return { state: 'unknown', sentence: 'The status cannot be read' };
  }
}

/** The five pages. Who may see them is for whoever mounts this to say. */
export function createPageRouter(options: PageOptions): Router {
  const router = Router();
  const budget = options.budgetPerMinute === undefined ? '' : String(options.budgetPerMinute);
  for (const page of PAGES) {
    const html = composePage(page);
    router.get(page.path, async (_request, response) => {
      const values = page.path === '/' ? { ...(await readFirstSentence(options)), budget } : {};
      response.type('html').send(renderPage(html, values));
    });
  }
  return router;
}

/** What the pages load, under `/page/`. These are no secret, and the login page wants some of them. */
export function createAssetRouter(): Router {
  const folders = new Map(UPLOT_FILES.map((name) => [name, UPLOT_FOLDER]));
  for (const name of readdirSync(PAGE_FOLDER)) {
    if (/\.(?:css|js|svg)$/.test(name)) folders.set(name, PAGE_FOLDER);
  }
  const router = Router();
  router.get('/page/:name', (request, response, next) => {
    const root = folders.get(request.params.name);
    if (root === undefined) next();
    else response.sendFile(request.params.name, { root });
  });
  return router;
}
