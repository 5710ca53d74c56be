import express, { Router, type NextFunction, type Request, type Response } from 'express';
import helmet from 'helmet';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { isSameSecret } from '../webhook/authenticate.ts';
import { toInstantMs } from '../inbox/fields.ts';
import { hasToken, isLocalHost, SESSION_COOKIE, toSession } from './access.ts';
import { startListening, type RunningServer } from './listen.ts';
import { endWithJsonErrors } from './public.ts';

import type { RecentChange, StatusView } from '../readers/statusView.ts';

/*
 * The port for the people who run this: the status page, the metrics and a small API. Everything shown
 * comes from the functions given; nothing here writes.
 */

export interface AdminServerOptions {
  readonly host: string;
  readonly port: number;
  /** Needed by every route where set (`ADMIN_TOKEN`). */
  readonly token: string | undefined;
  readonly readStatus: () => Promise<StatusView>;
  /** The latest changes, newest first; some twenty are shown. */
  readonly readRecentChanges: () => Promise<readonly RecentChange[]>;
  /** The Prometheus text. */
  readonly metrics: () => Promise<string>;
  /**
   * Resolves to what was seen once the mirror has seen the user at or after the instant `since`, to null
   * where the signal is aborted first.
   */
  readonly waitFor?: (userId: string, since: string, signal: AbortSignal) => Promise<unknown>;
  /** Everything known about one user; null where there is nothing. */
  readonly explain?: (userId: string) => Promise<unknown>;
  /** Search and export of the audit trail. */
  readonly eventRouter?: Router;
  /** The queue board, shown under `/queues`; it brings its own security headers. */
  readonly queueBoard?: Router;
  /** Told of failures that are answered 500 or 503. */
  readonly onError?: (error: unknown) => void;
}

const PAGE_FOLDER = join(import.meta.dirname, 'page');
const COOKIE_MAX_AGE_SECONDS = 12 * 60 * 60;
/** Below the minute after which proxies commonly give up on an answer. */
const WAIT_DEADLINE_MS = 30_000;

/** Only our own files, and plain HTTP stays plain HTTP: the port is usually opened without TLS. */
const securityHeaders = helmet({
  strictTransportSecurity: false,
  crossOriginOpenerPolicy: false,
  contentSecurityPolicy: {
    useDefaults: false,
    directives: {
      defaultSrc: ["'none'"],
      scriptSrc: ["'self'"],
      styleSrc: ["'self'"],
      connectSrc: ["'self'"],
      imgSrc: ["'self'", 'data:'],
      formAction: ["'self'"],
      baseUri: ["'none'"],
      frameAncestors: ["'none'"],
    },
  },
});

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Puts escaped values in the places marked `{{name}}` of one of our pages. */
function renderPage(html: string, values: Readonly<Record<string, string>>): string {
  const escape = (text: string) => text.replaceAll(/[&<>"']/g, (sign) => ESCAPES[sign] ?? sign);
  return html.replaceAll(/\{\{(\w+)\}\}/g, (_, name: string) => escape(values[name] ?? ''));
}

/** Shares one reading among all who ask while it is under way: many open pages cost one query. */
function shared<T>(read: () => Promise<T>): () => Promise<T> {
  let reading: Promise<T> | undefined;
  return () =>
    (reading ??= read().finally(() => {
      reading = undefined;
    }));
}

function createLoginRouter(token: string): Router {
  const loginPage = readFileSync(join(PAGE_FOLDER, 'login.html'), 'utf8');
  const router = Router();
  router.get('/login', (_request, response) => {
    response.type('html').send(renderPage(loginPage, {}));
  });
  router.post(
    '/login',
    express.urlencoded({ extended: false, limit: '4kb' }),
    (request: Request, response: Response) => {
      const form = request.body as { token?: unknown } | undefined;
      const given = typeof form?.token === 'string' ? form.token : '';
      if (!isSameSecret(given, token)) {
        response.status(401).type('html');
        response.send(renderPage(loginPage, { message: 'That is not the token.' }));
        return;
      }
      const secure = request.headers['x-forwarded-proto'] === 'https' ? '; Secure' : '';
      response.set(
        'Set-Cookie',
        `${SESSION_COOKIE}=${toSession(token)}; Path=/; HttpOnly; SameSite=Strict; ` +
          `Max-Age=${COOKIE_MAX_AGE_SECONDS}${secure}`,
      );
      response.redirect(303, '/');
    },
  );
  router.use((request: Request, response: Response, next: NextFunction) => {
    if (hasToken(request.headers, token)) next();
    else if (request.method === 'GET' && request.path === '/') {
      response.status(401).type('html').send(renderPage(loginPage, {}));
    } else {
      response.status(401).set('WWW-Authenticate', 'Bearer').json({ error: 'not authenticated' });
    }
  });
  return router;
}

function createLocalOnlyRouter(host: string): Router {
  return Router().use((request: Request, response: Response, next: NextFunction) => {
    if (isLocalHost(request.headers.host, host)) next();
    else response.status(403).json({ error: 'without ADMIN_TOKEN only loopback names are served' });
  });
}

/** One page and the same in JSON. */
function createStatusRouter(options: AdminServerOptions): Router {
  const { onError } = options;
  const indexPage = readFileSync(join(PAGE_FOLDER, 'index.html'), 'utf8');
  const readStatus = shared(options.readStatus);
  const readRecentChanges = shared(options.readRecentChanges);
  const readMetrics = shared(options.metrics);
  const router = Router();
  router.get('/', async (_request, response) => {
    let values = { state: 'unknown', sentence: 'The status cannot be read' };
    try {
      const { state, sentence } = await readStatus();
      values = { state, sentence };
    } catch (error) {
      // The page itself must come up, above all when something is wrong.
      onError?.(error);
    }
    response.type('html').send(renderPage(indexPage, values));
  });
  router.get('/api/status', async (_request, response) => {
    try {
      const [status, recentChanges] = await Promise.all([readStatus(), readRecentChanges()]);
      response.json({ ...status, recentChanges });
    } catch (error) {
      onError?.(error);
      response.status(503).json({ error: 'the status cannot be read' });
    }
  });
  router.get('/metrics', async (_request, response) => {
    const text = await readMetrics();
    response.set('Content-Type', 'text/plain; version=0.0.4; charset=utf-8').send(text);
  });
  return router;
}

/** The instant in a query, as text Postgres reads; null where it is none. */
function toSince(value: unknown): string | null {
  if (value === undefined) return new Date().toISOString();
  // A "+" that was not escaped arrives as a space.
  const text = typeof value === 'string' ? value.trim().replace(/ (\d\d(?::?\d\d)?)$/, '+$1') : '';
  const sinceMs = toInstantMs(text);
  if (sinceMs === null) return null;
  // Kept as it is where it names a zone: a Date would cut the microseconds off.
  return /[T ].*(?:Z|[+-]\d\d(?::?\d\d)?)$/i.test(text) ? text : new Date(sinceMs).toISOString();
}

function createUserRouter({ waitFor, explain }: AdminServerOptions): Router {
  const router = Router();
  if (explain) {
    router.get('/api/users/:id/explain', async (request, response) => {
      const explanation = await explain(request.params.id);
      if (explanation === null)
        response.status(404).json({ error: 'nothing is known of this user' });
      else response.json(explanation);
    });
  }
  if (waitFor) {
    router.get('/api/wait', async (request, response) => {
      const { userId } = request.query;
      const since = toSince(request.query['since']);
      if (typeof userId !== 'string' || userId === '' || since === null) {
        response.status(400).json({ error: 'give userId, and since as an instant' });
        return;
      }
      const gone = new AbortController();
      response.on('close', () => {
        gone.abort();
      });
      const signal = AbortSignal.any([gone.signal, AbortSignal.timeout(WAIT_DEADLINE_MS)]);
      const seen = await waitFor(userId, since, signal);
      if (seen === null) response.status(504).json({ error: 'not seen yet; ask again' });
      else response.json(seen);
    });
  }
  return router;
}

/** Starts the admin server (design §5.3). It takes no part in answering webhooks. */
export async function startAdminServer(options: AdminServerOptions): Promise<RunningServer> {
  const { host, port, token, queueBoard, onError } = options;
  const app = express();
  app.disable('x-powered-by');
  const access = token ? createLoginRouter(token) : createLocalOnlyRouter(host);
  if (queueBoard) app.use('/queues', access, queueBoard);
  app.use(securityHeaders);
  // These are no secret, and the login page wants them.
  for (const name of ['style.css', 'status.js']) {
    app.get(`/page/${name}`, (_request, response) => {
      response.sendFile(name, { root: PAGE_FOLDER });
    });
  }
  app.use((_request: Request, response: Response, next: NextFunction) => {
    response.set('Cache-Control', 'no-store');
    next();
  });
  app.use(access);
  app.use(createStatusRouter(options));
  app.use(createUserRouter(options));
  if (options.eventRouter) app.use(options.eventRouter);
  endWithJsonErrors(app, onError);
  return startListening(app, { host, port });
}
