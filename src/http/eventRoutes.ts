import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import express, { Router, type Request, type Response } from 'express';
import { z } from 'zod';

import { findCode, Stopping } from '../errors.ts';
import { parseAskedChange } from '../inbox/changed.ts';
import { parseMoment } from '../inbox/fields.ts';
import { MOST_EVENTS, readPages, type TrailPage } from '../readers/trail.ts';
import { isAction, readCursor, type TrailFilter } from '../readers/trailFilter.ts';
import { toTexts, TRAIL_FORMATS, type TrailFormat } from '../readers/trailText.ts';

/*
 * The audit trail on the admin port: search and export. POST, since addresses of requests end up in logs
 * and a login id is personal (guarantee G10); nothing here writes.
 */

export interface EventRouterDeps {
  /** One page of the trail, a short one after `patienceMs`; rejects with `Stopping` once the signal is aborted. */
  readonly searchEvents: (
    filter: TrailFilter,
    signal: AbortSignal,
    patienceMs?: number,
  ) => Promise<TrailPage>;
}

/** A page comes at once, however rare what is looked for: a stretch more takes some 50 ms. */
const PATIENCE_MS = 80;

/** Longer is no id and no name. */
const MOST_CHARS = 512;

/** What a form leaves empty is not asked for. */
const text = z
  .string()
  .max(MOST_CHARS)
  .refine((given) => !given.includes('\0'), 'must not hold a NUL')
  .transform((given) => given.trim() || undefined);

const optional = (isRight: (given: string) => boolean, mistake: string) =>
  text.refine((given) => given === undefined || isRight(given), mistake).optional();

const instant = text
  .transform((given, context) => {
    if (given === undefined) return undefined;
    const instantMs = parseMoment(given);
    if (instantMs !== null) return new Date(instantMs).toISOString();
    context.addIssue('must be an instant such as 2026-11-21 or 2026-11-21T08:00Z');
    return z.NEVER;
  })
  .optional();

const filterFields = {
  user: text.optional(),
  actor: text.optional(),
  action: optional(isAction, 'must be a name, or its beginning and then *'),
  tenant: text.optional(),
  since: instant,
  until: instant,
  changed: optional(
    (given) => parseAskedChange(given) !== null,
    'must be a field, or a field with a value, such as roleNames=admin',
  ),
  limit: z.int().min(1).max(MOST_EVENTS).optional(),
  before: optional((given) => readCursor(given) !== null, 'must be what a page had as next'),
} as const;

const searchBody = z.strictObject(filterFields);
const exportBody = z.strictObject({ ...filterFields, format: z.enum(TRAIL_FORMATS) });

/** What a stream says whose reader has closed the connection. */
const CLIENT_GONE = 'ERR_STREAM_PREMATURE_CLOSE';

const CONTENT_TYPES: Readonly<Record<TrailFormat, string>> = {
  csv: 'text/csv; charset=utf-8; header=present',
  jsonl: 'application/x-ndjson; charset=utf-8',
};

/** `POST /api/events/search`, a page in JSON, and `POST /api/events/export`, all of it as text. */
export function createEventRouter({ searchEvents }: EventRouterDeps): Router {
  const router = Router();
  const body = express.json({ limit: '16kb' });

  router.post('/api/events/search', body, async (request: Request, response: Response) => {
    const filter = parseBody(searchBody, request, response);
    if (filter === null) return;
    const gone = abortWhenClosed(response);
    const page = await searchEvents(filter, gone, PATIENCE_MS).catch(unlessGone(gone));
    if (page !== null) response.json(page);
  });

  router.post('/api/events/export', body, async (request: Request, response: Response) => {
    const asked = parseBody(exportBody, request, response);
    if (asked === null) return;
    const { format, ...filter } = asked;
    const gone = abortWhenClosed(response);
    const pages = readPages((one) => searchEvents(one, gone), filter);
    const texts = toTexts(pages, format);
    // What fails before anything is sent can still be answered.
    const first = await texts.next().catch(unlessGone(gone));
    if (first === null) return;
    response.attachment(`rollcall-events.${format}`);
    response.set('Content-Type', CONTENT_TYPES[format]);
    try {
      // Reads the next page when the one before is taken, and none for a client that has gone.
      await pipeline(Readable.from(withFirst(first, texts)), response);
    } catch (error) {
      if (!(error instanceof Stopping) && findCode(error) !== CLIENT_GONE) throw error;
    }
  });
  return router;
}

/** The body, or null where it was answered with 400. */
function parseBody<Body>(
  schema: z.ZodType<Body>,
  request: Request,
  response: Response,
): Body | null {
  const parsed = schema.safeParse(request.body);
  if (parsed.success) return parsed.data;
  const mistakes = parsed.error.issues.map(({ path, message }) =>
    [...path.map(String), message].join(': '),
  );
  response.status(400).json({ error: mistakes.join('; ') });
  return null;
}

function abortWhenClosed(response: Response): AbortSignal {
  const gone = new AbortController();
  response.on('close', () => {
    gone.abort();
  });
  return gone.signal;
}

/** Nobody waits for the answer any more: that it failed is nobody's business. */
function unlessGone(gone: AbortSignal): (error: unknown) => null {
  return (error) => {
    if (gone.aborted) return null;
    throw error;
  };
}

async function* withFirst(
  first: IteratorResult<string, void>,
  rest: AsyncGenerator<string, void>,
): AsyncGenerator<string, void> {
  if (first.done === true) return;
  yield first.value;
  yield* rest;
}
