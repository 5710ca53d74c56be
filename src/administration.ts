import { createQueueBoard } from '../jobs/board.ts';
import { approveHeld, rejectHeld } from './apply/held.ts';
import { Stopping } from './errors.ts';
import { startAdminServer } from './http/admin.ts';
import { createEventRouter } from './http/eventRoutes.ts';
import { createScrape } from './http/scrape.ts';
import { listPending } from './inbox/pending.ts';
import { putBackEvents } from './inbox/replay.ts';
import { databaseNow } from './mirror/database.ts';
import { readExplain } from './readers/explain.ts';
import { createStatusReader, readRecentChanges } from './readers/status.ts';
import { searchEvents } from './readers/trail.ts';
import { createWaitForUser, lookNow } from './readers/wait.ts';
import { shared } from './shared.ts';
import { within } from './within.ts';

import type { Queues } from '../jobs/queues.ts';
import type { Config } from './config.ts';
import type { Engine } from './engine.ts';
import type { AdminActions } from './http/actions.ts';
import type { Health } from './http/health.ts';
import type { RunningServer } from './http/listen.ts';
import type { DemoView } from './readers/statusView.ts';

/*
 * The admin port put together: what it shows comes from the mirror, what it does is done by the engine, in
 * whatever role the process runs.
 */

export interface AdministrationOptions {
  readonly config: Config;
  readonly engine: Engine;
  readonly queues: Queues;
  readonly health: Health;
  /** The demo's comparison with its directory, for the status page. */
  readonly demo: (() => DemoView | undefined) | undefined;
  readonly onError: (error: unknown) => void;
}

/** A third of a second for a million users; deliveries are taken meanwhile. */
const COUNTING_MS = 1_000;
/** Some twenty are shown. */
const CHANGES_SHOWN = 20;
/** Replayed events told to the queue at once; a worker's recovery finds the others within seconds. */
const EVENTS_TOLD = 2_000;

/**
 * Starts the admin server of this process.
 * @throws UsageError where its address cannot be used
 */
export async function startAdministration(options: AdministrationOptions): Promise<RunningServer> {
  const { config, engine, queues, health, onError } = options;
  const { mirror, metrics } = engine;
  // One reader for the page, the API and the meters: what is dear to count is counted once for all.
  const readStatus = createStatusReader(mirror);
  // Counted before anybody can ask: the first page then has not to wait for it.
  const first = readStatus().then(
    () => undefined,
    () => undefined,
  );
  await within(COUNTING_MS, first, () => undefined);
  // A scrape that has given up leaves its statements behind: the next one joins them.
  const readAll = shared(() => readStatus(queues.counts));
  return startAdminServer({
    host: config.ADMIN_HOST,
    port: config.ADMIN_PORT,
    token: config.ADMIN_TOKEN,
    mirror,
    actions: createActions(options),
    queueBoard: createQueueBoard(queues, { isReadOnly: config.ADMIN_TOKEN === undefined }),
    readStatus: async () => {
      const status = await readAll();
      const demo = options.demo?.();
      return demo === undefined ? status : { ...status, demo };
    },
    budgetPerMinute: config.API_BUDGET_PER_MINUTE + config.AUDIT_BUDGET_PER_MINUTE,
    readRecentChanges: () => readRecentChanges(mirror, CHANGES_SHOWN),
    // By user id only: login ids are personal, and addresses of requests end up in logs.
    explain: async (userId) => {
      const story = await readExplain(mirror, userId);
      return story?.userId === userId ? story : null;
    },
    waiting: {
      waitFor: createWaitForUser(mirror, engine.signal),
      lookNow: (userId, since) => lookNow(mirror, userId, since),
      now: () => databaseNow(mirror),
    },
    eventRouter: createEventRouter({
      searchEvents: async (filter, signal, patienceMs) => {
        // An export may be long, and its reader slow.
        if (engine.signal.aborted) throw new Stopping();
        return searchEvents(mirror, filter, { signal, patienceMs });
      },
    }),
    metrics: createScrape({
      metrics,
      readStatus: readAll,
      health,
      pool: mirror.pool,
      onError,
    }),
    onError,
  });
}

/** What the commands do, without a process of their own. A stop ends each at its next safe point. */
function createActions({ engine }: AdministrationOptions): AdminActions {
  const { mirror, jobs, signal } = engine;
  return {
    async approve(userIds, upTo) {
      const { client } = jobs.sweep;
      const { tombstoned, present } = await approveHeld({ mirror, client }, userIds, signal, upTo);
      return tombstoned + present;
    },
    reject: (userIds, upTo) => rejectHeld(mirror, userIds, signal, upTo),
    async replay({ userId }) {
      const selection = { since: null, userId, failedOnly: userId === null };
      const events = await putBackEvents(mirror, selection, signal);
      const due = await listPending(mirror, { seconds: 0, most: EVENTS_TOLD });
      // The inbox knows them in any case: a queue that is away only makes it slower.
      await engine.enqueueEvents(due.map(({ eventId }) => eventId)).catch(() => undefined);
      return events;
    },
  };
}
