import { createServer } from 'node:http';
import { z } from 'zod';

import { createReleaseStack } from '../release.ts';
import { answer, kindOf, toError } from './api.ts';
import { applyBehaviour, defaultBehaviour } from './behaviour.ts';
import { createControl } from './control.ts';
import { Delivery } from './delivery.ts';
import { Directory } from './directory.ts';
import { Faults } from './faults.ts';
import { BadRequest, describeIssues, readJson } from './http.ts';
import { RateLimits } from './limits.ts';
import { idOf } from './random.ts';
import { RequestLog } from './requestLog.ts';
import { spoil, toReply } from './spoil.ts';

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { ApiAnswer, ApiRequest } from './api.ts';
import type { Behaviour, BehaviourPatch } from './behaviour.ts';
import type { Reply } from './spoil.ts';

export interface SimulatorOptions {
  /** 0, the default, takes any free one. */
  readonly port?: number;
  /** 127.0.0.1 unless told otherwise; on any other the control endpoints want the management key. */
  readonly host?: string;
  /** How many users there are to begin with; 0 where absent. */
  readonly users?: number;
  /** How many of those share one creation instant. */
  readonly sameInstant?: number;
  /** The same seed gives the same users, ids and lost webhooks; 1 where absent. */
  readonly seed?: number;
  readonly projectId?: string;
  readonly managementKey?: string;
  readonly behaviour?: BehaviourPatch;
  /** The clock, epoch ms; the machine's where absent. */
  readonly now?: () => number;
}

/** A Descope to run against. */
export interface Simulator {
  /** What `DESCOPE_BASE_URL` is set to. */
  readonly url: string;
  readonly projectId: string;
  readonly managementKey: string;
  readonly seed: number;
  readonly directory: Directory;
  /** Change it at any time; it takes effect at once. */
  readonly behaviour: Behaviour;
  readonly faults: Faults;
  readonly limits: RateLimits;
  readonly delivery: Delivery;
  readonly requests: RequestLog;
  /** Cuts every connection. Safe to call twice. */
  stop(): Promise<void>;
}

/** Starts a Descope that keeps its users in memory. @throws Error where the port is taken */
export async function startSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const { port = 0, host = '127.0.0.1', users = 0, sameInstant = 1, seed = 1 } = options;
  const { now = Date.now, projectId = idOf('P', seed, 0) } = options;
  const { managementKey = idOf('K', seed, 0) } = options;
  const behaviour = defaultBehaviour();
  applyBehaviour(behaviour, options.behaviour ?? {});
  const directory = new Directory({ users, seed, projectId, sameInstant, now, behaviour });
  const delivery = new Delivery({ seed, now, behaviour });
  directory.onEvent((event) => {
    delivery.offer(event);
  });

  const stack = createReleaseStack();
  stack.push('webhooks', () => {
    delivery.stop();
  });
  const server = createServer();
  // Longer than clients keep a connection, so that none sends into one that is just closing.
  server.keepAliveTimeout = 65_000;
  const address = await listen(server, port, host);
  stack.push('connections', () => close(server));

  const simulator: Simulator = {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${address}`,
    projectId,
    managementKey,
    seed,
    directory,
    behaviour,
    faults: new Faults(),
    limits: new RateLimits(behaviour),
    delivery,
    requests: new RequestLog(),
    stop: () => stack.release(),
  };
  const control = createControl(simulator);
  stack.push('traffic', () => {
    control.stop();
  });
  const isOpen = ['127.0.0.1', 'localhost', '::1'].includes(host);
  let turn = 0;
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://simulator');
    if (url.pathname.startsWith('/simulator/')) {
      await control.handle(request, response, {
        url,
        mayControl: isOpen || knowsKey(simulator, request),
      });
    } else await handleApi(simulator, request, response, { url, turn: ++turn, nowMs: now });
  };
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    // A client that went away is no concern of ours; without a listener it would end the process.
    response.on('error', () => undefined);
    handle(request, response).catch(() => response.destroy());
  });
  return simulator;
}

function knowsKey({ projectId, managementKey }: Simulator, request: IncomingMessage): boolean {
  return request.headers.authorization === `Bearer ${projectId}:${managementKey}`;
}

interface Arrival {
  readonly url: URL;
  readonly turn: number;
  readonly nowMs: () => number;
}

/** In this order: who is it, how often, what goes wrong, and only then the answer. */
async function handleApi(
  simulator: Simulator,
  request: IncomingMessage,
  response: ServerResponse,
  arrival: Arrival,
): Promise<void> {
  const { directory, behaviour, requests } = simulator;
  const kind = kindOf(request.method ?? 'GET', arrival.url.pathname);
  let body: unknown;
  let broken: string | undefined;
  try {
    body = await readJson(request);
  } catch (error) {
    if (!(error instanceof BadRequest)) throw error;
    broken = error.message;
  }
  const atMs = arrival.nowMs();
  const toAnswer = (asOfMs: number): ApiAnswer =>
    broken === undefined
      ? tryAnswer(simulator, {
          kind,
          path: arrival.url.pathname,
          query: arrival.url.searchParams,
          body,
          asOfMs,
          turn: arrival.turn,
        })
      : toError(400, 'E011001', broken);
  const mayAsk = kind === 'keys' || knowsKey(simulator, request);
  const reply = mayAsk
    ? replyTo(simulator, { kind, turn: arrival.turn, atMs }, toAnswer)
    : toReply(toError(401, 'E011401', 'Invalid management key or project id'));
  requests.add({ kind, status: reply.status, atMs });

  const waitMs = behaviour.latencyMs + reply.afterMs;
  // Set by hand because Node would send the machine's clock.
  response.setHeader('date', new Date(directory.clockMs()).toUTCString());
  if (waitMs === 0) send(response, reply);
  else {
    const timer = setTimeout(() => {
      send(response, reply);
    }, waitMs);
    response.on('close', () => {
      clearTimeout(timer);
    });
  }
}

function replyTo(
  { behaviour, faults, limits }: Simulator,
  { kind, turn, atMs }: Pick<ApiRequest, 'kind' | 'turn'> & { readonly atMs: number },
  toAnswer: (asOfMs: number) => ApiAnswer,
): Reply {
  const blockedMs = limits.take(kind, atMs);
  if (blockedMs > 0) {
    const seconds = String(Math.ceil(blockedMs / 1000));
    return toReply(TOO_MANY, behaviour.retryAfterHeader ? { 'retry-after': seconds } : {});
  }
  const fault = faults.take(kind);
  const lagMs = fault?.kind === 'stale' ? behaviour.staleMs : behaviour.readLagMs;
  // Without a lag, even a clock that was set back hides nothing.
  const answered = toAnswer(lagMs === 0 ? Infinity : atMs - lagMs);
  return fault ? spoil(answered, fault, turn) : toReply(answered);
}

/** As recorded in the Python SDK's tests. */
const TOO_MANY: ApiAnswer = {
  status: 429,
  body: {
    errorCode: 'E130429',
    errorDescription: 'https://docs.descope.com/rate-limit',
    errorMessage: 'API rate limit exceeded.',
  },
};

function tryAnswer(simulator: Simulator, request: ApiRequest): ApiAnswer {
  try {
    return answer(simulator, request);
  } catch (error) {
    if (error instanceof z.ZodError) return toError(400, 'E011002', describeIssues(error));
    throw error;
  }
}

function send(response: ServerResponse, reply: Reply): void {
  if (reply.how === 'never') return;
  if (reply.how === 'cut') {
    response.socket?.resetAndDestroy();
    return;
  }
  const bytes = Buffer.from(reply.text);
  response.writeHead(reply.status, {
    ...reply.headers,
    'content-type': reply.contentType,
    'content-length': bytes.length,
  });
  if (reply.how === 'whole') response.end(bytes);
  else {
    response.write(bytes.subarray(0, Math.floor(bytes.length / 2)), () => response.destroy());
  }
}

function listen(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      const address = server.address();
      resolve(typeof address === 'object' && address ? address.port : port);
    });
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => {
      resolve();
    });
    server.closeAllConnections();
  });
}
