import express, { Router, type NextFunction, type Request, type Response } from 'express';
import { z } from 'zod';

import {
  describeError,
  DescopeRejected,
  DescopeThrottled,
  DescopeUnauthorised,
  DescopeUnavailable,
  hidePersonalData,
  Stopping,
} from '../errors.ts';
import { detailOfUsers, whileLogged, type AdminAction } from '../mirror/adminLog.ts';
import { listNotHeld } from '../readers/deletions.ts';
import { refuseOtherSites } from './access.ts';
import { readRequest } from './readRequest.ts';

import type { Mirror } from '../mirror/database.ts';

/*
 * What a person may do at the admin port: decide on held deletions, have events applied again. Each is done
 * by the very functions that the commands use, and each leaves a row in `admin_log`.
 */

export interface AdminActions {
  /**
   * Carries out held deletions, of all users where none is named but none held later than the deletion
   * `upTo`, and returns how many were decided.
   */
  readonly approve: (userIds: readonly string[], upTo?: number) => Promise<number>;
  /** Drops them, and returns how many those were. */
  readonly reject: (userIds: readonly string[], upTo?: number) => Promise<number>;
  /** Has parked events applied again, or all of one user's, and returns how many. */
  readonly replay: (which: { readonly userId: string | null }) => Promise<number>;
}

/** Ids of one call; who has more takes all, or calls again. */
const MOST_USERS = 5_000;
/** Unknown ids that are named in an answer. */
const NAMED = 5;
/** As many ids as a call may name, and some. */
const BODY_LIMIT = '512kb';

const userId = z
  .string()
  .min(1)
  .max(512)
  .refine((id) => !id.includes('\0'), 'no id holds a NUL');
const usersBody = z.union(
  [
    z.strictObject({ userIds: z.array(userId).min(1).max(MOST_USERS) }),
    z.strictObject({ all: z.literal(true), upTo: z.int().min(0).optional() }),
  ],
  {
    error: `give either userIds, a list of 1 to ${MOST_USERS} user ids, or all: true, perhaps upTo a deletionId`,
  },
);
const replayBody = z.union(
  [z.strictObject({ failed: z.literal(true) }), z.strictObject({ userId })],
  { error: 'give either failed: true, or a userId' },
);

/**
 * What stands before every route that is posted to: other sites' pages are refused by the header that they
 * may not send and by what their browser says of them, and a body is JSON of a bounded size.
 */
export function createPostGuard(): Router {
  const router = Router();
  router.use((request: Request, response: Response, next: NextFunction) => {
    if (request.method === 'GET' || request.method === 'HEAD') next();
    else if (request.headers['x-rollcall'] === '1') refuseOtherSites(request, response, next);
    else response.status(403).json({ error: 'send the header x-rollcall: 1' });
  });
  router.use(express.json({ limit: BODY_LIMIT }));
  return router;
}

/** `POST /api/deletions/approve`, `POST /api/deletions/reject` and `POST /api/replay`. */
export function createActionRouter(
  mirror: Pick<Mirror, 'db' | 't'>,
  actions: AdminActions,
): Router {
  const router = Router();
  for (const decision of ['approve', 'reject'] as const) {
    router.post(`/api/deletions/${decision}`, async (request, response) => {
      const asked = readRequest(usersBody, request.body, response);
      if (!asked) return;
      const userIds = 'all' in asked ? [] : [...new Set(asked.userIds)];
      const unknown = await listNotHeld(mirror, userIds);
      if (unknown.length > 0) {
        const named = unknown.slice(0, NAMED).map(hidePersonalData).join(', ');
        const more = unknown.length > NAMED ? ` and ${unknown.length - NAMED} more` : '';
        response.status(409).json({ error: `no deletion is held of ${named}${more}` });
        return;
      }
      const detail = 'all' in asked ? asked : detailOfUsers(userIds);
      const upTo = 'all' in asked ? asked.upTo : undefined;
      const action = `deletions ${decision}`;
      await act(mirror, response, { action, detail }, async () => ({
        decided: await actions[decision](userIds, upTo),
      }));
    });
  }
  router.post('/api/replay', async (request, response) => {
    const asked = readRequest(replayBody, request.body, response);
    if (!asked) return;
    const one = 'userId' in asked ? asked.userId : null;
    await act(mirror, response, { action: 'replay', detail: asked }, async () => ({
      events: await actions.replay({ userId: one }),
    }));
  });
  return router;
}

/** Goes on to its end also where the person leaves: what they asked for is in the log. */
async function act(
  mirror: Pick<Mirror, 'db' | 't'>,
  response: Response,
  action: Pick<AdminAction, 'action' | 'detail'>,
  work: () => Promise<Readonly<Record<string, number>>>,
): Promise<void> {
  try {
    const done = await whileLogged(mirror, { actor: 'dashboard', ...action }, work, (it) => it);
    response.json(done);
  } catch (error) {
    const status = statusOf(error);
    if (status === 500) throw error;
    response.status(status).json({ error: describeError(error) });
  }
}

/** Descope's failures are told: the person can mend a key, or wait. What is done until then stays done. */
function statusOf(error: unknown): 500 | 502 | 503 {
  if (error instanceof Stopping) return 503;
  const ofDescope = [DescopeRejected, DescopeThrottled, DescopeUnauthorised, DescopeUnavailable];
  return ofDescope.some((kind) => error instanceof kind) ? 502 : 500;
}
