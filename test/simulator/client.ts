import { createServer } from 'node:http';

import { startSimulator } from '../../src/simulator/server.ts';
import { listenLocally } from '../support/listenLocally.ts';

import type { UserAnswer } from '../../src/simulator/generate.ts';
import type { Simulator, SimulatorOptions } from '../../src/simulator/server.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

/** A simulator without limits, and how to ask it. */
export interface Asked {
  readonly simulator: Simulator;
  readonly post: (path: string, body: unknown) => Promise<Answer>;
  readonly get: (path: string) => Promise<Answer>;
  readonly search: (body: object) => Promise<{ users: UserAnswer[]; total: number }>;
}

export const NO_LIMITS = {
  users: null,
  userSearch: null,
  userLoad: null,
  userGet: null,
  audit: null,
  other: null,
} as const;

export async function startAsked(options: SimulatorOptions = {}): Promise<Asked> {
  const simulator = await startSimulator({
    ...options,
    behaviour: { limits: NO_LIMITS, ...options.behaviour },
  });
  const authorization = `Bearer ${simulator.projectId}:${simulator.managementKey}`;
  const ask = async (path: string, init: RequestInit): Promise<Answer> => {
    const response = await fetch(simulator.url + path, { ...init, headers: { authorization } });
    return {
      status: response.status,
      headers: response.headers,
      body: (await response.json()) as Record<string, unknown>,
    };
  };
  const post: Asked['post'] = (path, body) =>
    ask(path, { method: 'POST', body: JSON.stringify(body) });
  return {
    simulator,
    post,
    get: (path) => ask(path, {}),
    search: async (body) => {
      const { body: found } = await post('/v2/mgmt/user/search', body);
      return found as unknown as { users: UserAnswer[]; total: number };
    },
  };
}

export interface Delivered {
  readonly body: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** A webhook receiver that keeps what it gets and answers what it is told to. */
export async function startReceiver(statusOf: (turn: number) => number = () => 202): Promise<{
  readonly url: string;
  readonly delivered: Delivered[];
  stop(): Promise<void>;
}> {
  const delivered: Delivered[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      delivered.push({ body: Buffer.concat(chunks).toString(), headers: request.headers });
      response.writeHead(statusOf(delivered.length));
      response.end();
    });
  });
  const listening = await listenLocally(server);
  return { ...listening, url: `${listening.url}/hook`, delivered };
}
