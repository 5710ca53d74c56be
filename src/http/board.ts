import {
  Router,
  type NextFunction,
  type Request,
  type RequestHandler,
  type Response,
} from 'express';
import helmet from 'helmet';

import { whileLogged } from '../mirror/adminLog.ts';
import { refuseOtherSites } from './access.ts';

import type { Mirror } from '../mirror/database.ts';

export interface BoardOptions {
  /** Only looks are let through. */
  readonly isReadOnly: boolean;
  /** Where changes are kept in the admin log: which of the board's calls, and how it was answered. */
  readonly mirror: Pick<Mirror, 'db' | 't'> | undefined;
}

/** The board styles itself as it goes; its fonts from elsewhere are left out. */
const securityHeaders = helmet({
  strictTransportSecurity: false,
  crossOriginOpenerPolicy: false,
  referrerPolicy: { policy: 'same-origin' },
  contentSecurityPolicy: {
    useDefaults: false,
    directives: {
      defaultSrc: ["'none'"],
      scriptSrc: ["'self'"],
      styleSrc: ["'self'", "'unsafe-inline'"],
      fontSrc: ["'self'"],
      connectSrc: ["'self'"],
      imgSrc: ["'self'", 'data:'],
      baseUri: ["'self'"],
      formAction: ["'none'"],
      frameAncestors: ["'none'"],
    },
  },
});

/** Puts our own rules in front of the queue board. */
export function guardBoard(board: RequestHandler, { isReadOnly, mirror }: BoardOptions): Router {
  const router = Router().use(securityHeaders);
  router.use((request: Request, response: Response, next: NextFunction) => {
    if (isLook(request)) next();
    else if (!isReadOnly) refuseOtherSites(request, response, next);
    else response.status(405).json({ error: 'without ADMIN_TOKEN the board changes nothing' });
  });
  if (mirror) router.use(logChanges(mirror));
  return router.use(board);
}

function isLook({ method }: Request): boolean {
  return method === 'GET' || method === 'HEAD';
}

/** A path names a queue, and perhaps a job by its number. */
function logChanges(mirror: Pick<Mirror, 'db' | 't'>): RequestHandler {
  return (request, response, next) => {
    if (isLook(request)) {
      next();
      return;
    }
    const { method, path } = request;
    const work = () => {
      const answered = new Promise<number>((resolve) => {
        response.on('close', () => {
          resolve(response.statusCode);
        });
      });
      next();
      return answered;
    };
    const action = { actor: 'dashboard', action: 'queue board', detail: { method, path } } as const;
    whileLogged(mirror, action, work, (status) => ({ status })).catch(next);
  };
}
