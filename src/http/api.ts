import { Router } from 'express';
import { z } from 'zod';

import { listAdminLog } from '../readers/adminLog.ts';
import { readCoverage } from '../readers/coverage.ts';
import { readHeldPage } from '../readers/deletions.ts';
import { readHistory } from '../readers/history.ts';
import { listParked } from '../readers/parked.ts';
import { searchUsers } from '../readers/searchUsers.ts';
import { isStorable, readRequest } from './readRequest.ts';

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
