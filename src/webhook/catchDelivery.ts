import express, { type Express, type NextFunction, type Request, type Response } from 'express';

import { WEBHOOK_PATH } from './router.ts';

import type { IncomingHttpHeaders } from 'node:http';

/** A delivery as it came. */
export interface CapturedDelivery {
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

const MAX_BODY_BYTES = 1024 * 1024;
const RETRY_AFTER_SECONDS = 5;

/**
 * An app that hands on the first delivery to the webhook's path, to be looked at. Each is answered 503:
 * nothing is stored here, so nothing may be acknowledged (guarantee G1); the audit pull brings its events.
 */
export function createCatcher(onDelivery: (delivery: CapturedDelivery) => void): Express {
  const app = express();
  app.disable('x-powered-by');
  app.post(
    WEBHOOK_PATH,
    // Unpacked where it came compressed, as the webhook itself reads it.
    express.raw({ type: () => true, limit: MAX_BODY_BYTES }),
    (request: Request, response: Response) => {
      const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
      onDelivery({ headers: request.headers, body });
      response.status(503).set('Retry-After', String(RETRY_AFTER_SECONDS));
      response.json({ error: 'this delivery was only looked at, and not stored' });
    },
  );
  app.use((_request: Request, response: Response) => {
    response.status(404).json({ error: `only POST ${WEBHOOK_PATH}` });
  });
  app.use((error: unknown, _request: Request, response: Response, next: NextFunction) => {
    if (response.headersSent) next(error);
    else response.status(400).json({ error: 'the body cannot be read' });
  });
  return app;
}
