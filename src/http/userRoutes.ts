import { Router, type Response } from 'express';
import { z } from 'zod';

import { withTimeout } from '../abort.ts';
import { toInstantMs } from '../inbox/fields.ts';
import { isStorable, readRequest } from './readRequest.ts';

import type { Instant } from '../observation.ts';
import type { NotSeen, Seen, WaitForUser } from '../readers/wait.ts';

/*
 * What the admin port tells of one user: `/api/users/:id/explain` and `/api/wait`.
 */

/** Below the minute after which proxies commonly give up on an answer. */
const LONGEST_WAIT_MS = 55_000;
const USUAL_WAIT_MS = 30_000;

export interface Waiting {
  /**
   * Resolves to what was seen once the mirror holds the user as of the instant `since`, to null where the
   * signal is aborted first, to `full` where too many wait already.
   */
  readonly waitFor: WaitForUser;
  /** The last look: what is seen by now after all, or why nothing is. */
  readonly lookNow: (userId: string, since: string) => Promise<Seen | NotSeen>;
  /** By the clock that the mirror's rows are dated by. */
  readonly now: () => Promise<Instant>;
}

export interface UserRoutes {
  /** Absent: nobody can wait here. */
  readonly waiting?: Waiting;
  /** Everything known about one user; null where there is nothing. */
  readonly explain?: (userId: string) => Promise<unknown>;
  /** Told of failures that are answered 500 or 503. */
  readonly onError?: (error: unknown) => void;
}

/** Routes of those of them that are given. */
export function createUserRouter(routes: UserRoutes): Router {
  const router = Router();
  const { explain, waiting } = routes;
  if (explain) {
    router.get('/api/users/:id/explain', async (request, response) => {
      const { id } = request.params;
      const explanation = isStorable(id) ? await explain(id) : null;
      if (explanation === null)
        response.status(404).json({ error: 'nothing is known of this user' });
      else response.json(explanation);
    });
  }
  if (waiting) {
    router.get('/api/wait', async (request, response) => {
      const asked = readRequest(waitQuery, request.query, response);
      if (!asked) return;
      try {
        await answerWait(waiting, asked, response);
      } catch (error) {
        routes.onError?.(error);
        refuseForNow(response, 'the mirror cannot be read');
      }
    });
  }
  return router;
}

/** Longer is nobody's id. */
const waitQuery = z.object({
  userId: z.string('give it once').min(1).max(512).refine(isStorable, 'must not hold a NUL'),
  since: z
    .string('give it once')
    .optional()
    .transform((text, context) => {
      const since = text === undefined ? undefined : toSince(text);
      if (since !== null) return since;
      context.addIssue('must be an instant, such as 2026-11-21T08:00:00.5Z');
      return z.NEVER;
    }),
  timeoutMs: z.coerce
    .number({ error: 'must be a number' })
    .int()
    .min(0)
    .max(LONGEST_WAIT_MS)
    .default(USUAL_WAIT_MS),
});

/**
 * The instant in a query as Postgres reads it, to the microsecond; null where it is none. Spelled anew:
 * one query asks for all who wait, and nobody's text may break it.
 */
function toSince(text: string): string | null {
  // A "+" that was not escaped arrives as a space.
  const given = text.trim().replace(/ (\d\d(?::?\d\d)?)$/, '+$1');
  const sinceMs = toInstantMs(given);
  if (sinceMs === null) return null;
  // A Date would cut the microseconds off.
  const micros = /[T ].*\.\d{3}(\d{1,3})/i.exec(given)?.[1] ?? '';
  return new Date(sinceMs).toISOString().replace('Z', `${micros}Z`);
}

async function answerWait(
  { waitFor, lookNow, now }: Waiting,
  { userId, since, timeoutMs }: z.output<typeof waitQuery>,
  response: Response,
): Promise<void> {
  const gone = new AbortController();
  response.on('close', () => {
    gone.abort();
  });
  const at = since ?? (await now());
  const seen = await withTimeout(timeoutMs, gone.signal, (signal) => waitFor(userId, at, signal));
  if (gone.signal.aborted) return;
  if (seen === 'full') {
    refuseForNow(response, 'too many are waiting here already');
    return;
  }
  // With a timeout of 0 it is the only one.
  const look = seen ?? (await lookNow(userId, at));
  if ('reason' in look) response.status(504).json({ error: 'not seen yet; ask again', ...look });
  else response.json(look);
}

function refuseForNow(response: Response, why: string): void {
  response
    .status(503)
    .set('Retry-After', '1')
    .json({ error: `${why}; ask again in a second` });
}
