import express, { Router, type NextFunction, type Request } from 'express';

import { parseDelivery, UnreadableDelivery } from '../inbox/parse.ts';
import { NO_TRACES, type SpanFields, type Traces } from '../traces.ts';
import { within } from '../within.ts';
import { authenticate, type WebhookAuthentication } from './authenticate.ts';

import type { ServerResponse } from 'node:http';
import type { Inbox, Recorded } from '../inbox/record.ts';

/*
 * In: a POST from Descope's audit webhook. Out: its events committed to the inbox and their ids handed to
 * the queue. Never answers 2xx before the commit (guarantee G1), never looks at a body before it is
 * authenticated (G9), never logs one (G10).
 */

export const WEBHOOK_PATH = '/webhooks/descope';

/** What became of one delivery, for meters and log; nothing in it is personal. */
export interface DeliveryOutcome {
  readonly status: number;
  readonly accepted: number;
  readonly duplicates: number;
  readonly ignored: number;
  readonly tookMs: number;
  /** Whether the queue heard of it; `none` where there was nothing to tell. The inbox holds it anyway. */
  readonly queued: 'yes' | 'late' | 'failed' | 'none';
  /** Why it was not taken, or not queued. */
  readonly error?: unknown;
}

export interface WebhookDeps {
  readonly authentication: WebhookAuthentication;
  /** Records of other projects are ignored; empty checks nothing. */
  readonly projectId: string;
  readonly inbox: Inbox;
  /** Called once a delivery with its new event ids; may be slow or fail. */
  readonly enqueue: (eventIds: readonly string[]) => Promise<void>;
  readonly onDelivery?: (outcome: DeliveryOutcome) => void;
  /** How long the queue may take to hear of a delivery before that is reported as late. Default 1 s. */
  readonly enqueueDeadlineMs?: number;
  readonly traces?: Traces;
}

/** Design §5.3: larger deliveries are answered 413. Descope sends up to 100 events, some kB each. */
const MAX_BODY_BYTES = 1024 * 1024;
/** Long enough for a restart of Postgres' connection, short enough that a throttled sender keeps up. */
const RETRY_AFTER_SECONDS = 5;

type Refusal = Pick<DeliveryOutcome, 'status' | 'error'> & { readonly message: string };

/** The answer to a delivery that was not taken. */
function toRefusal(error: unknown): Refusal {
  if (error instanceof UnreadableDelivery) return { status: 400, message: error.message, error };
  // What express.raw throws carries a status: 413 too large, 415 unknown encoding, 400 broken gzip.
  const status = error instanceof Error && 'status' in error ? Number(error.status) : 503;
  if (status === 413) return { status, message: 'the body is larger than 1 MiB', error };
  if (status >= 400 && status < 500) return { status, message: 'the body cannot be read', error };
  // Whatever else happened, the events are not stored: the sender should try again.
  return { status: 503, message: 'events cannot be stored at the moment', error };
}

type Told = Pick<DeliveryOutcome, 'queued' | 'error'>;

/** Tells the queue; its failure or slowness only delays the work until the recovery tick finds it. */
async function tellQueue(deps: WebhookDeps, eventIds: readonly string[]): Promise<Told> {
  if (eventIds.length === 0) return { queued: 'none' };
  const told = Promise.resolve()
    .then(() => deps.enqueue(eventIds))
    .then(
      () => ({ queued: 'yes' as const }),
      (error: unknown) => ({ queued: 'failed' as const, error }),
    );
  return within<Told>(deps.enqueueDeadlineMs ?? 1_000, told, () => ({ queued: 'late' }));
}

function toCounts(recorded: Recorded, ignoredByParser: number) {
  return {
    accepted: recorded.accepted.length + recorded.archived,
    duplicates: recorded.duplicates,
    ignored: recorded.ignored + ignoredByParser,
  };
}

/** Written so that no application of express need be around the route: it costs more than all we do here. */
function answer(
  response: ServerResponse,
  status: number,
  body: object,
  headers: Readonly<Record<string, string>> = {},
): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
    ...headers,
  });
  response.end(text);
}

/**
 * The webhook's route, `POST /webhooks/descope`: 202 with counts once the events are committed, else
 * 401, 400, 413 or 503 with `{"error": …}` (design §5.3). Works within an application, or by itself.
 */
export function createWebhookRouter(deps: WebhookDeps): Router {
  const startedAt = new WeakMap<Request, number>();
  const elapsedMs = (request: Request) =>
    performance.now() - (startedAt.get(request) ?? performance.now());
  const report = (request: Request, outcome: Omit<DeliveryOutcome, 'tookMs'>) => {
    deps.onDelivery?.({ ...outcome, tookMs: elapsedMs(request) });
  };

  async function receive(
    request: Request,
    response: ServerResponse,
    note: (fields: SpanFields) => void,
  ): Promise<void> {
    // Without a body the reader leaves nothing behind.
    const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
    if (authenticate(request.headers, body, deps.authentication) === 'refused') {
      answer(response, 401, { error: 'not authenticated' });
      note({ 'http.response.status_code': 401 });
      report(request, { status: 401, accepted: 0, duplicates: 0, ignored: 0, queued: 'none' });
      return;
    }
    const parsed = parseDelivery(body, Date.now(), deps.projectId);
    const recorded = await deps.inbox.record(parsed.events);
    const counts = toCounts(recorded, parsed.ignored);
    // The commit is what the answer promises; the sender need not wait until the queue has heard of it.
    const telling = tellQueue(deps, recorded.accepted);
    answer(response, 202, counts);
    const tookMs = elapsedMs(request);
    note({ 'http.response.status_code': 202, ...counts });
    const told = await telling;
    deps.onDelivery?.({ status: 202, ...counts, ...told, tookMs });
  }

  const { traces = NO_TRACES } = deps;
  const router = Router();
  router.post(
    WEBHOOK_PATH,
    (request: Request, _response: ServerResponse, next: NextFunction) => {
      startedAt.set(request, performance.now());
      next();
    },
    express.raw({ type: () => true, limit: MAX_BODY_BYTES }),
    (request: Request, response: ServerResponse) =>
      traces.span(`POST ${WEBHOOK_PATH}`, (note) => receive(request, response, note), 'server'),
  );
  router.all(WEBHOOK_PATH, (_request: Request, response: ServerResponse) => {
    answer(response, 405, { error: 'only POST' }, { Allow: 'POST' });
  });
  router.use(
    WEBHOOK_PATH,
    (cause: unknown, request: Request, response: ServerResponse, next: NextFunction) => {
      if (response.headersSent) {
        next(cause);
        return;
      }
      const { status, message, error } = toRefusal(cause);
      const later = { 'Retry-After': String(RETRY_AFTER_SECONDS) };
      answer(response, status, { error: message }, status === 503 ? later : {});
      report(request, { status, accepted: 0, duplicates: 0, ignored: 0, queued: 'none', error });
    },
  );
  return router;
}
