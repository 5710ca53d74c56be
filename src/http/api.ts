import { Router } from 'express';
import { z } from 'zod';

import { toInstantMs } from '../inbox/fields.ts';
import { listAdminLog } from '../readers/adminLog.ts';
import { readCoverage } from '../readers/coverage.ts';
import { readHeldPage } from '../readers/deletions.ts';
import { readHistory } from '../readers/history.ts';
import { listParked } from '../readers/parked.ts';
import { searchUsers } from '../readers/searchUsers.ts';
import { readRequest } from './readRequest.ts';

import type { Mirror } from '../mirror/database.ts';

/*
 * What the admin port tells in JSON. Nothing here writes; what does is in `actions.ts`.
 */

const wholeNumber = (min: number, max: number, fallback: number) =>
  z.coerce.number({ error: 'must be a number' }).int().min(min).max(max).default(fallback);

/** The ledger is kept for 30 days, hours of the history for 90. */
const coverageQuery = z.object({ hours: wholeNumber(1, 720, 24) });
const historyQuery = z.object({ hours: wholeNumber(1, 2_160, 24) });
const listQuery = z.object({ limit: wholeNumber(1, 500, 50) });
const pageQuery = listQuery.extend({ after: wholeNumber(0, Number.MAX_SAFE_INTEGER, 0) });
/** Longer is nobody's id or address. */
const searchBody = z.strictObject({
  query: z.string().trim().min(1).max(512).refine(isStorable, 'must not hold a NUL'),
  thorough: z.boolean().optional(),
});

/** Postgres has no text with a NUL in it. */
function isStorable(text: string): boolean {
  return !text.includes('\0');
}

/** Reads of the mirror: history, coverage, held deletions, parked events, the admin log, users. */
export function createReadRouter(mirror: Mirror): Router {
  const router = Router();
  router.get('/api/history', async ({ query }, response) => {
    const asked = readRequest(historyQuery, query, response);
    if (asked) response.json(await readHistory(mirror, asked.hours));
  });
  router.get('/api/coverage', async ({ query }, response) => {
    const asked = readRequest(coverageQuery, query, response);
    if (asked) response.json(await readCoverage(mirror, asked.hours));
  });
  router.get('/api/deletions', async ({ query }, response) => {
    const asked = readRequest(pageQuery, query, response);
    if (!asked) return;
    response.json(await readHeldPage(mirror, { after: asked.after, most: asked.limit }));
  });
  router.get('/api/parked', async ({ query }, response) => {
    const asked = readRequest(listQuery, query, response);
    if (asked) response.json(await listParked(mirror, asked.limit));
  });
  router.get('/api/admin-log', async ({ query }, response) => {
    const asked = readRequest(listQuery, query, response);
    if (asked) response.json({ entries: await listAdminLog(mirror, asked.limit) });
  });
  // A search names people: it is posted, so that no address of a request does (guarantee G10).
  router.post('/api/users/search', async (request, response) => {
    const asked = readRequest(searchBody, request.body, response);
    if (asked) response.json(await searchUsers(mirror, asked.query, asked));
  });
  return router;
}

export interface StatusRoutes {
  /** What `/api/status` answers. */
  readonly readStatus: () => Promise<unknown>;
  /** The Prometheus text. */
  readonly metrics: () => Promise<string>;
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** `/api/status` and `/metrics`. */
export function createStatusRouter({ readStatus, metrics, onError }: StatusRoutes): Router {
  const router = Router();
  router.get('/api/status', async (_request, response) => {
    try {
      response.json(await readStatus());
    } catch (error) {
      onError?.(error);
      response.status(503).json({ error: 'the status cannot be read' });
    }
  });
  router.get('/metrics', async (_request, response) => {
    const text = await metrics();
    response.set('Content-Type', 'text/plain; version=0.0.4; charset=utf-8').send(text);
  });
  return router;
}

/** Below the minute after which proxies commonly give up on an answer. */
const WAIT_DEADLINE_MS = 30_000;

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

export interface UserRoutes {
  /**
   * Resolves to what was seen once the mirror has seen the user at or after the instant `since`, to null
   * where the signal is aborted first.
   */
  readonly waitFor?: (userId: string, since: string, signal: AbortSignal) => Promise<unknown>;
  /** Everything known about one user; null where there is nothing. */
  readonly explain?: (userId: string) => Promise<unknown>;
}

/** `/api/users/:id/explain` and `/api/wait`. */
export function createUserRouter({ waitFor, explain }: UserRoutes): Router {
  const router = Router();
  if (explain) {
    router.get('/api/users/:id/explain', async (request, response) => {
      const { id } = request.params;
      const explanation = isStorable(id) ? await explain(id) : null;
      if (explanation === null)
        response.status(404).json({ error: 'nothing is known of this user' });
      else response.json(explanation);
    });
  }
  if (waitFor) {
    router.get('/api/wait', async (request, response) => {
      const { userId } = request.query;
      const since = toSince(request.query['since']);
      if (typeof userId !== 'string' || userId === '' || !isStorable(userId) || since === null) {
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
