import express, { Router, type NextFunction, type Request, type Response } from 'express';
import { rateLimit } from 'express-rate-limit';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { isSameSecret } from '../webhook/authenticate.ts';
import { hasToken, isLocalHost, refuseOtherSites, SESSION_COOKIE, toSession } from './access.ts';
import { limitGuesses } from './guesses.ts';
import { PAGE_FOLDER, renderPage } from './renderPage.ts';

/*
 * The door of the admin port: whoever passes these routers may use what is mounted after them.
 */

const COOKIE_MAX_AGE_SECONDS = 12 * 60 * 60;
const FAILURES = 10;
const FAILURES_WINDOW_MS = 15 * 60_000;

/** Lets through who brings the token, and shows others the form to bring it with. */
export function createLoginRouter(token: string): Router {
  const loginPage = readFileSync(join(PAGE_FOLDER, 'login.html'), 'utf8');
  const showForm = (response: Response, status: number, message = '') => {
    response.status(status).type('html').send(renderPage(loginPage, { message }));
  };
  const router = Router();
  router.get('/login', (_request, response) => {
    showForm(response, 200);
  });
  router.post(
    '/login',
    refuseOtherSites,
    limitFailures((response) => {
      showForm(response, 429, 'Too many wrong tokens. Try again in a quarter of an hour.');
    }),
    express.urlencoded({ extended: false, limit: '4kb' }),
    (request: Request, response: Response) => {
      const form = request.body as { token?: unknown } | undefined;
      const given = typeof form?.token === 'string' ? form.token : '';
      if (!isSameSecret(given, token)) {
        showForm(response, 401, 'That is not the token.');
        return;
      }
      response.set('Set-Cookie', sessionCookie(request, token));
      response.redirect(303, '/');
    },
  );
  const { door, count } = limitGuesses((response) => {
    response
      .status(429)
      .json({ error: 'too many wrong tokens: try again in a quarter of an hour' });
  });
  router.use(door, (request: Request, _response: Response, next: NextFunction) => {
    next(hasToken(request.headers, token) ? 'router' : undefined);
  });
  router.use(count, (request: Request, response: Response) => {
    if (isPage(request)) showForm(response, 401);
    else
      response.status(401).set('WWW-Authenticate', 'Bearer').json({ error: 'not authenticated' });
  });
  return router;
}

/** Lets through who opened the page under a loopback name. */
export function createLocalOnlyRouter(host: string): Router {
  return Router().use((request: Request, response: Response, next: NextFunction) => {
    if (isLocalHost(request.headers.host, host)) next();
    else response.status(403).json({ error: 'without ADMIN_TOKEN only loopback names are served' });
  });
}

/**
 * Ten wrong tokens from one address in a quarter of an hour, then none is looked at until it is over; right
 * ones do not count. By the address that connects to us: behind a proxy, one for all.
 */
function limitFailures(refuse: (response: Response) => void): ReturnType<typeof rateLimit> {
  return rateLimit({
    windowMs: FAILURES_WINDOW_MS,
    limit: FAILURES,
    skipSuccessfulRequests: true,
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    // What a proxy or a guesser says of the address is not believed, so there is nothing to warn of.
    validate: { xForwardedForHeader: false, forwardedHeader: false },
    handler: (_request, response) => {
      refuse(response);
    },
  });
}

function sessionCookie(request: Request, token: string): string {
  const secure = request.headers['x-forwarded-proto'] === 'https' ? '; Secure' : '';
  return (
    `${SESSION_COOKIE}=${toSession(token)}; Path=/; HttpOnly; SameSite=Strict; ` +
    `Max-Age=${COOKIE_MAX_AGE_SECONDS}${secure}`
  );
}

/** What a person opens in a browser; programs are answered in JSON. */
function isPage({ method, path, headers }: Request): boolean {
  return method === 'GET' && (path === '/' || (headers.accept ?? '').includes('text/html'));
}
