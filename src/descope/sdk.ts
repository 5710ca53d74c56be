import createSdk from '@descope/node-sdk';

import {
  createTransport,
  type Answer,
  type Fetch,
  type RequestReport,
  type Resource,
} from './fetch.ts';

import type { Budget } from './budget.ts';
import type { Call } from './types.ts';

/** The part of the SDK that we ask. */
export type Management = ReturnType<typeof createSdk>['management'];

/**
 * Sends one request through the SDK and returns its answer, of any status, unread.
 * @throws Stopping, DescopeUnavailable, and the mirror database's own errors
 */
export type Ask = (
  resource: Resource,
  call: Call,
  send: (management: Management) => Promise<unknown>,
) => Promise<Answer>;

export interface SdkDeps {
  readonly projectId: string;
  readonly managementKey: string;
  /** From the project id where absent. */
  readonly baseUrl?: string | undefined;
  readonly budget: Budget;
  /** The audit search has a limit of its own, ten a minute. */
  readonly auditBudget: Budget;
  /** Told of every attempt on the wire, the SDK's own retries included. */
  readonly onRequest?: (report: RequestReport) => void;
  /** For one attempt, to the last byte of its body. */
  readonly requestTimeoutMs?: number;
}

const REQUEST_TIMEOUT_MS = 30_000;

/** The SDK would log requests with their credentials, and answers with their users. */
const SILENT = { log: ignore, debug: ignore, warn: ignore, error: ignore };
function ignore(): void {
  // What matters of it reaches us as answers and errors.
}

/** Asks through `@descope/node-sdk` with our own fetch. Sends nothing before it is first asked. */
export function createAsk(deps: SdkDeps): {
  readonly ask: Ask;
  /** For what the SDK has no method for; to be called from a `send` of `ask`. */
  readonly fetch: Fetch;
  readonly clockOffsetMs: () => number;
} {
  const transport = createTransport({
    requestTimeoutMs: deps.requestTimeoutMs ?? REQUEST_TIMEOUT_MS,
    onRequest: deps.onRequest ?? ignore,
    ownBudget: deps.budget,
  });
  let management: Management | undefined;
  return {
    ask(resource, call, send) {
      // Made at the first request: the SDK asks for the licence tier the moment it exists.
      const sdk = (management ??= createSdk({
        projectId: deps.projectId,
        managementKey: deps.managementKey,
        ...(deps.baseUrl === undefined ? {} : { baseUrl: deps.baseUrl }),
        fetch: transport.fetch,
        logger: SILENT,
      }).management);
      const budget = resource === 'audit search' ? deps.auditBudget : deps.budget;
      return transport.ask(resource, budget, call, () => send(sdk));
    },
    fetch: transport.fetch,
    clockOffsetMs: transport.clockOffsetMs,
  };
}
