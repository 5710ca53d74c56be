import express, {
  type Router,
  type Express,
  type NextFunction,
  type Request,
  type RequestHandler,
  type Response,
} from 'express';
import helmet from 'helmet';

import { shared } from '../shared.ts';
import { createActionRouter, createPostGuard, type AdminActions } from './actions.ts';
import { createReadRouter, createStatusRouter } from './api.ts';
import { guardBoard } from './board.ts';
import { startListening, type RunningServer } from './listen.ts';
import { createLocalOnlyRouter, createLoginRouter } from './login.ts';
import { createAssetRouter, createPageRouter } from './pages.ts';
import { endWithJsonErrors } from './public.ts';
import { createStatusStream } from './stream.ts';
import { createUserRouter, type UserRoutes } from './userRoutes.ts';

import type { Mirror } from '../mirror/database.ts';
import type { RecentChange, StatusView } from '../readers/statusView.ts';

/*
 * The port for the people who run this: the pages, the metrics, the queue board and the API.
 */

export interface AdminServerOptions extends UserRoutes {
  readonly host: string;
  readonly port: number;
  /** Needed by every route where set (`ADMIN_TOKEN`). */
  readonly token: string | undefined;
  readonly readStatus: () => Promise<StatusView>;
  /** The latest changes, newest first; some twenty are shown. */
  readonly readRecentChanges: () => Promise<readonly RecentChange[]>;
  /** Requests to Descope that may be sent a minute: a line in the page's chart of them. */
  readonly budgetPerMinute?: number;
  /** The Prometheus text. */
  readonly metrics: () => Promise<string>;
  /** What the API reads from, and where it keeps its log; without it there is neither, nor any action. */
  readonly mirror?: Mirror;
  readonly actions?: AdminActions;
  /** Routes of `/api/events/…`. */
  readonly eventRouter?: Router;
  /** The queue board, shown under `/queues`; without a token it shows and changes nothing. */
  readonly queueBoard?: RequestHandler;
}

/** Only our own files, and plain HTTP stays plain HTTP: the port is usually opened without TLS. */
const securityHeaders = helmet({
  strictTransportSecurity: false,
  crossOriginOpenerPolicy: false,
  // Without a referrer the browser sends the login form's origin as "null", which is nobody's.
  referrerPolicy: { policy: 'same-origin' },
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

/** Starts the admin server (design §5.3). It takes no part in answering webhooks. */
export async function startAdminServer(given: AdminServerOptions): Promise<RunningServer> {
  const options = { ...given, readStatus: shared(given.readStatus) };
  const { host, port, token, onError } = options;
  const readStatus = shared(async () => {
    const [status, recentChanges] = await Promise.all([
      options.readStatus(),
      options.readRecentChanges(),
    ]);
    return { ...status, recentChanges };
  });
  const stream = createStatusStream({ read: readStatus, onError });
  const app = express();
  app.disable('x-powered-by');
  const access = token ? createLoginRouter(token) : createLocalOnlyRouter(host);
  app.use(securityHeaders, createAssetRouter());
  app.use((_request: Request, response: Response, next: NextFunction) => {
    response.set('Cache-Control', 'no-store');
    next();
  });
  mountBoard(app, access, options);
  app.use(access, createPostGuard());
  app.use(createPageRouter(options), stream.router);
  app.use(createStatusRouter({ readStatus, metrics: shared(options.metrics), onError }));
  app.use(createUserRouter(options));
  mountApi(app, options);
  endWithJsonErrors(app, onError);
  const server = await startListening(app, { host, port });
  return {
    port: server.port,
    stop: () => {
      // Streams would go on for ever, and the server waits for what is under way.
      stream.stop();
      return server.stop();
    },
  };
}

function mountApi(app: Express, { mirror, actions, eventRouter }: AdminServerOptions): void {
  if (mirror) app.use(createReadRouter(mirror));
  if (mirror && actions) app.use(createActionRouter(mirror, actions));
  if (eventRouter) app.use(eventRouter);
}

function mountBoard(app: Express, access: Router, options: AdminServerOptions): void {
  const { queueBoard, token, mirror } = options;
  if (!queueBoard) return;
  app.use('/queues', access, guardBoard(queueBoard, { isReadOnly: !token, mirror }));
}
