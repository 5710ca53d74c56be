import express, { type Express, type NextFunction, type Request, type Response } from 'express';
import helmet from 'helmet';

import { startListening, type ListenOptions, type RunningServer } from './listen.ts';

import type { RequestListener } from 'node:http';
import type { Router } from 'express';
import type { Health } from './health.ts';

/*
 * The port the world reaches: the webhook and two probes. Never shows anything of the mirror.
 */

export interface PublicServerOptions extends ListenOptions {
  /** The webhook's route; none where the process does not answer webhooks. */
  readonly router?: Router;
  readonly health: Health;
  /** Told of failures no route expected; they are answered 500 without a word about them. */
  readonly onError?: (error: unknown) => void;
}

/** The last two handlers of a server: 404 and 500, both JSON. */
export function endWithJsonErrors(app: Express, onError?: (error: unknown) => void): void {
  app.use((_request: Request, response: Response) => {
    response.status(404).json({ error: 'no such page' });
  });
  app.use((error: unknown, _request: Request, response: Response, next: NextFunction) => {
    // A malformed address or body is the sender's mistake; express marks those with a status.
    const status = error instanceof Error && 'status' in error ? Number(error.status) : 500;
    const isTheirs = status >= 400 && status < 500;
    if (!isTheirs) onError?.(error);
    if (response.headersSent) {
      next(error);
      return;
    }
    response
      .status(isTheirs ? status : 500)
      .json({ error: isTheirs ? 'bad request' : 'internal error' });
  });
}

/** Starts the public server: the webhook if any, `/livez` (never asks a dependency) and `/readyz`. */
export function startPublicServer(options: PublicServerOptions): Promise<RunningServer> {
  const { router, health, onError, ...listen } = options;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  const failures = new WeakMap<object, unknown>();
  app.use((request: Request, _response: Response, next: NextFunction) => {
    next(failures.get(request));
  });
  app.use(helmet());
  app.get('/livez', (_request, response) => {
    response.json({ live: true });
  });
  app.get('/readyz', async (_request, response) => {
    const { ready, failing } = await health.readReadiness();
    response
      .status(ready ? 200 : 503)
      .set('Cache-Control', 'no-store')
      .json(failing.length === 0 ? { ready } : { ready, failing });
  });
  endWithJsonErrors(app, onError);
  return startListening(router ? before(router, app, failures) : app, listen);
}

/**
 * A listener that asks `router` first, and `app` where it has no answer or fails. Beside the application, not
 * within: what that does to each request, and the headers for browsers, are a third of what a delivery costs.
 */
function before(router: Router, app: Express, failures: WeakMap<object, unknown>): RequestListener {
  return (request, response) => {
    // It says that it takes an application's, and asks nothing of them.
    router(request as Request, response as Response, (error?: unknown) => {
      failures.set(request, error);
      app(request, response);
    });
  };
}
