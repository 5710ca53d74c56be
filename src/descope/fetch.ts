import { AsyncLocalStorage } from 'node:async_hooks';

import { onAbort, orStop } from '../abort.ts';
import { DescopeUnavailable, findCode, Stopping } from '../errors.ts';
import { createClockComparison, type ClockComparison } from './clock.ts';
import { receive, type Received } from './receive.ts';
import { toRetryAfterMs } from './retryAfter.ts';

import type { Instant } from '../observation.ts';
import type { Budget } from './budget.ts';
import type { Call } from './types.ts';

/*
 * The fetch handed to the SDK. The SDK knows how to ask (URL, headers, credentials, licence tier, retries
 * of 503 and 52x); what was answered is read here, because the SDK throws on bodies that are not JSON,
 * throws on audit answers without `audits`, and rounds integers past 2^53. So it is handed an empty
 * answer in place of the real one, which goes to our caller through the context of the call.
 */

export type Fetch = typeof globalThis.fetch;

/** What is asked, in words for errors and metrics. */
export type Resource =
  | 'user search'
  | 'users load'
  | 'user load'
  | 'audit search'
  | 'license'
  | 'connector'
  | 'project keys';

/** One attempt on the wire; `status` is 'error' where no complete answer came. */
export interface RequestReport {
  readonly resource: Resource;
  readonly status: number | 'error';
  readonly ms: number;
}

/** What came back, read completely, whatever its status. */
export interface Answer {
  readonly status: number;
  readonly text: string;
  /** How long to be silent; 0 unless throttled. */
  readonly retryAfterMs: number;
  /** By the mirror database's clock, just before the request was sent. */
  readonly observedAt: Instant;
}

export interface TransportDeps {
  readonly requestTimeoutMs: number;
  readonly onRequest: (report: RequestReport) => void;
  /** For what the SDK asks on its own. */
  readonly ownBudget: Budget;
}

export interface Transport {
  /** For the SDK's configuration. */
  readonly fetch: Fetch;
  /**
   * Lets the SDK ask, and returns the last answer it got, of any status.
   * @throws Stopping on abort, at once whatever the SDK is waiting for
   * @throws DescopeUnavailable when no complete answer came; the mirror's own errors as they are
   */
  ask(
    resource: Resource,
    budget: Budget,
    call: Call,
    send: () => Promise<unknown>,
  ): Promise<Answer>;
  /** Descope's clock minus the mirror database's, in ms; 0 before any answer. */
  readonly clockOffsetMs: () => number;
}

/** One call of ours on its way through the SDK. */
interface Context {
  readonly resource: Resource;
  readonly budget: Budget;
  readonly call: Call;
  answer?: Answer;
  failure?: unknown;
}

type Ask = readonly [input: Parameters<Fetch>[0], init: RequestInit, context: Context];
type Attempt = (...ask: Ask) => Promise<Answer>;
type Send = (...ask: Ask) => Promise<Received>;

/**
 * Which call of ours the SDK is asking for. One for all clients: once used, every promise that the process
 * makes carries an entry for it, and would for each client that there ever was.
 */
const contexts = new AsyncLocalStorage<Context>();

export function createTransport(deps: TransportDeps): Transport {
  const clock = createClockComparison();
  // From the outside in: a slot of the budget, the count, the deadline.
  const attempt = withBudget(
    clock,
    withReport(deps.onRequest, withDeadline(deps.requestTimeoutMs)),
  );

  return {
    async fetch(input, init = {}) {
      const context = contexts.getStore();
      if (!context) return askForSdk(attempt, deps, input, init);
      delete context.answer;
      try {
        context.answer = await attempt(input, init, context);
      } catch (error) {
        context.failure = error;
        throw error;
      }
      return standIn(context.answer);
    },

    async ask(resource, budget, call, send) {
      const context: Context = { resource, budget, call };
      try {
        // The SDK waits up to 5 s before it repeats a request, and nothing can wake it.
        await orStop(contexts.run(context, send), call.signal);
      } catch (error) {
        if (error instanceof Stopping || error === context.failure) throw error;
        // The SDK's own: it may quote a header, so it is not passed on even as a cause.
        if (!context.answer) throw new DescopeUnavailable(resource, 'the SDK could not ask');
      }
      if (!context.answer) throw new DescopeUnavailable(resource, 'the SDK did not ask');
      return context.answer;
    },

    clockOffsetMs: clock.offsetMs,
  };
}

/** All the SDK looks for in an answer, empty; the status for its retries, which are all above 500. */
const EMPTY = JSON.stringify({ user: {}, users: [], audits: [], total: 0 });

function standIn(answer: Answer): Response {
  const status = answer.status >= 500 && answer.status <= 599 ? answer.status : 200;
  return new Response(EMPTY, { status });
}

/** The SDK asks for the project's licence tier when it is made, and lives without an answer. */
async function askForSdk(
  attempt: Attempt,
  deps: TransportDeps,
  input: Parameters<Fetch>[0],
  init: RequestInit,
): Promise<Response> {
  const call: Call = { priority: 'event', signal: AbortSignal.timeout(2 * deps.requestTimeoutMs) };
  const context: Context = { resource: 'license', budget: deps.ownBudget, call };
  const { text, status } = await attempt(input, init, context);
  // Never a status the SDK would retry: the tier is only nice to have.
  return new Response(text, { status: status === 200 ? 200 : 400 });
}

/**
 * Waits for a slot, and stamps the answer with the moment it was granted: what the answer shows is at
 * least as new. Tells all processes to be silent when Descope says so.
 */
function withBudget(clock: ClockComparison, next: Send): Attempt {
  return async (input, init, context) => {
    const { budget, call } = context;
    const observedAt = await budget.take(call.priority, call.signal);
    const sentMs = performance.now();
    const { status, date, retryAfter, text } = await next(input, init, context);
    // Error pages are often some proxy's, and so is their date.
    if (status === 200) clock.note(observedAt, performance.now() - sentMs, date);
    const retryAfterMs = status === 429 ? toRetryAfterMs(retryAfter, date, Date.now()) : 0;
    if (status === 429) await budget.silence(retryAfterMs);
    return { status, text, retryAfterMs, observedAt };
  };
}

/** Counts every attempt, answered or not. */
function withReport(onRequest: (report: RequestReport) => void, next: Send): Send {
  return async (input, init, context) => {
    const sentMs = performance.now();
    let status: number | 'error' = 'error';
    try {
      const received = await next(input, init, context);
      status = received.status;
      return received;
    } finally {
      onRequest({ resource: context.resource, status, ms: performance.now() - sentMs });
    }
  };
}

/** Sends and reads to the last byte, within the deadline; names what went wrong on the way. */
function withDeadline(timeoutMs: number): Send {
  return async (input, init, { call, resource }) => {
    // A controller of its own for each attempt: a signal combined from the call's would live as long
    // as the call's, and that one lives as long as the process.
    const controller = new AbortController();
    const abort = () => {
      controller.abort();
    };
    const ignore = onAbort(call.signal, abort);
    const deadline = setTimeout(abort, timeoutMs);
    try {
      return await receive(input, init, controller.signal);
    } catch (error) {
      if (call.signal.aborted) throw new Stopping();
      const reason = controller.signal.aborted
        ? `no complete answer within ${timeoutMs / 1000} s`
        : networkReason(error);
      throw new DescopeUnavailable(resource, reason);
    } finally {
      clearTimeout(deadline);
      ignore();
    }
  };
}

/**
 * What the network said, by its code: a message might quote the address, and an address may hold a
 * login id.
 */
function networkReason(error: unknown): string {
  const code = findCode(error);
  return code === undefined ? 'the network failed' : `the network failed (${code})`;
}
