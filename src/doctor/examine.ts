import { createBudget, type Budget } from '../descope/budget.ts';
import { createLocalBudget } from '../descope/localBudget.ts';
import { createProbe, type Probe } from '../descope/probe.ts';
import { DescopeUnavailable } from '../errors.ts';
import { openMirror, type Mirror } from '../mirror/database.ts';
import { checkClock } from './clock.ts';
import { checkDescope } from './descope.ts';
import { checkPostgres, NO_DATABASE, type PostgresFindings } from './postgres.ts';
import { checkRedis } from './redis.ts';
import { checkAuthentication, checkDeliveries } from './webhook.ts';

import type { Config } from '../config.ts';
import type { Check } from './check.ts';

/*
 * `rollcall doctor`: looks at everything Rollcall stands on and says what is wrong and how to mend it.
 * It writes nothing but what it found out about Descope, into a mirror that is ours.
 */

export interface ExamineDeps {
  readonly config: Config;
  /** Null: DATABASE_URL is not set, and there is no embedded Postgres. */
  readonly database: { readonly url: string; readonly isEmbedded: boolean } | null;
  /** What a person can do about an error of Postgres. */
  readonly remedyFor: (error: unknown) => string;
  /** Told of each request to Descope. */
  readonly onRequest: () => void;
  /** Told when a request waits for the budget for long: somebody is watching. */
  readonly onWait: () => void;
  readonly signal: AbortSignal;
}

/** Requests to Descope that one examination may spend, the SDK's own retries included. */
const MOST_REQUESTS = 12;
/** Sooner than the service would: somebody is waiting. */
const REQUEST_TIMEOUT_MS = 10_000;
/** A wait for the budget is told of after this long. */
const LONG_WAIT_MS = 3_000;
/** One to look, and two to tell a pooler by. */
const CONNECTIONS = 3;

/** Yields findings as they come. @throws Stopping, and what nobody expected */
export async function* examine(deps: ExamineDeps): AsyncGenerator<Check, void, undefined> {
  const { config, database } = deps;
  if (database === null) {
    yield NO_DATABASE;
    yield* examineRest(deps, null, { checks: [], state: 'unreachable', clockOffsetMs: null });
    return;
  }
  const mirror = openMirror({
    databaseUrl: database.url,
    schema: config.MIRROR_SCHEMA,
    maxConnections: CONNECTIONS,
    onError: () => undefined,
  });
  try {
    const found = await checkPostgres({
      mirror,
      isEmbedded: database.isEmbedded,
      projectId: config.DESCOPE_PROJECT_ID,
      queueInPostgres: config.REDIS_URL === null,
      remedyFor: deps.remedyFor,
    });
    yield* found.checks;
    const isUsable = found.state === 'ours' || found.state === 'unclaimed';
    yield* examineRest(deps, isUsable ? mirror : null, found);
  } finally {
    await mirror.pool.end();
  }
}

/** @param mirror null where there is none that may be used */
async function* examineRest(
  deps: ExamineDeps,
  mirror: Mirror | null,
  postgres: PostgresFindings,
): AsyncGenerator<Check, void, undefined> {
  const { config } = deps;
  yield* await checkRedis(config.REDIS_URL);
  const probe = createDoctorsProbe(deps, mirror);
  const { lastDay, isAnswered } = yield* checkDescope({
    probe,
    account: {
      projectId: config.DESCOPE_PROJECT_ID,
      managementKey: config.DESCOPE_MANAGEMENT_KEY,
      baseUrl: config.DESCOPE_BASE_URL,
    },
    pageSize: config.PAGE_SIZE,
    timeUnit: config.DESCOPE_TIME_UNIT,
    mirror,
  });
  if (isAnswered) yield checkClock(toClocks(probe, mirror !== null, postgres));
  yield* checkAuthentication(config);
  // Before the service first ran, nobody can have received anything.
  if (mirror && postgres.state === 'ours') yield* await checkDeliveries(mirror, lastDay);
}

/** The probe compares Descope's clock with its budget's: Postgres' where that is shared, else this machine's. */
function toClocks(probe: Probe, isShared: boolean, { clockOffsetMs }: PostgresFindings) {
  const budgetsMs = -probe.clockOffsetMs();
  const machineMs = isShared ? budgetsMs - (clockOffsetMs ?? 0) : budgetsMs;
  return { machineMs, postgresMs: clockOffsetMs === null ? null : machineMs + clockOffsetMs };
}

/** Within the budget that all our processes share, where there is one. */
function createDoctorsProbe(deps: ExamineDeps, mirror: Mirror | null): Probe {
  const { config, onRequest, onWait, signal } = deps;
  let taken = 0;
  const counted = (budget: Budget): Budget => ({
    ...budget,
    async take(priority, itsSignal) {
      if (++taken > MOST_REQUESTS) {
        const reason = `${MOST_REQUESTS} requests have been spent, and doctor spends no more`;
        throw new DescopeUnavailable('doctor', reason);
      }
      const timer = setTimeout(onWait, LONG_WAIT_MS);
      try {
        return await budget.take(priority, itsSignal);
      } finally {
        clearTimeout(timer);
      }
    },
  });
  const budget = (name: string, perMinute: number) =>
    counted(mirror ? createBudget({ mirror, name, perMinute }) : createLocalBudget());
  return createProbe(
    {
      projectId: config.DESCOPE_PROJECT_ID,
      managementKey: config.DESCOPE_MANAGEMENT_KEY,
      baseUrl: config.DESCOPE_BASE_URL,
      budget: budget('api', config.API_BUDGET_PER_MINUTE),
      auditBudget: budget('audit', config.AUDIT_BUDGET_PER_MINUTE),
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      onRequest,
    },
    { priority: 'pull', signal },
  );
}
