import express, { type Express, type NextFunction, type Request, type Response } from 'express';
import helmet from 'helmet';

import { startListening, type ListenOptions, type RunningServer } from './listen.ts';

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
  // Before the headers that are for browsers: a tenth of what a delivery costs.
  if (router) app.use(router);
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
  return startListening(app, listen);
}
