import { once } from 'node:events';
import { z } from 'zod';

import { applyBehaviour, behaviourPatch } from './behaviour.ts';
import { deliveryTarget } from './delivery.ts';
import { FAULT_KINDS, FAULT_PATHS } from './faults.ts';
import { BadRequest, describeIssues, readJson, sendJson } from './http.ts';
import { createRandom } from './random.ts';
import { startTraffic } from './traffic.ts';

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Simulator } from './server.ts';
import type { Traffic } from './traffic.ts';

/*
 * What a test does by calling, a person does over HTTP: endpoints under /simulator/ that look into
 * the simulated Descope and change it. They are no part of Descope's API and count in no limit.
 */

const usersOrder = z.strictObject({
  count: z.int().min(1).max(1_000_000),
  sameInstant: z.boolean().default(false),
  /** One call and one `UsersCreated`, instead of one `UserCreated` each. */
  batch: z.boolean().default(false),
  /** False: no event at all. */
  event: z.boolean().default(true),
});

const faultOrder = z.union([
  z.strictObject({
    kind: z.enum(FAULT_KINDS),
    path: z.enum(FAULT_PATHS).optional(),
    times: z.int().min(1).default(1),
    delayMs: z.number().min(0).optional(),
  }),
  z.strictObject({ rate: z.number().min(0).max(1), kinds: z.array(z.enum(FAULT_KINDS)) }),
]);

const weight = z.number().min(0);
const trafficOrder = z.strictObject({
  /** 0 ends it. */
  perSecond: z.number().min(0).max(10_000),
  mix: z
    .strictObject({
      signUp: weight,
      change: weight,
      delete: weight,
      batchCreate: weight,
      batchChange: weight,
      batchDelete: weight,
      login: weight,
    })
    .partial()
    .default({}),
});

export interface Control {
  handle(
    request: IncomingMessage,
    response: ServerResponse,
    asked: { readonly url: URL; readonly mayControl: boolean },
  ): Promise<void>;
  /** Ends the traffic that was asked for. */
  stop(): void;
}

type Action = (body: unknown) => unknown;

/** The traffic that was asked for over HTTP; one at a time. */
function createTrafficHolder(simulator: Simulator) {
  let traffic: Traffic | undefined;
  return {
    get count(): number {
      return traffic?.count ?? 0;
    },
    set({ perSecond, mix }: z.output<typeof trafficOrder>): void {
      traffic?.stop();
      const given = Object.entries(mix).filter(([, value]) => value !== undefined);
      const rng = createRandom(simulator.seed);
      traffic =
        perSecond > 0
          ? startTraffic(simulator, { perSecond, mix: Object.fromEntries(given), rng })
          : undefined;
    },
    stop(): void {
      traffic?.stop();
    },
  };
}

function createActions(
  simulator: Simulator,
  traffic: ReturnType<typeof createTrafficHolder>,
): Readonly<Record<string, Action>> {
  const { directory, behaviour, faults, delivery, requests, seed } = simulator;
  return {
    'GET /simulator/state': () => ({
      projectId: simulator.projectId,
      users: directory.size,
      usersWithoutTestUsers: directory.realSize,
      auditRecords: directory.audit.size,
      clock: new Date(directory.clockMs()).toISOString(),
      behaviour,
      requests: requests.summary(),
      faults: faults.count,
      delivery: { ...delivery.counters, pending: delivery.pending, policy: delivery.policy },
      traffic: traffic.count,
    }),
    'PATCH /simulator/behaviour': (body) => {
      applyBehaviour(behaviour, behaviourPatch.parse(body));
      return behaviour;
    },
    'POST /simulator/faults': (body) => {
      const order = faultOrder.parse(body);
      if ('kind' in order) faults.next(order.kind, order);
      else faults.random(order.rate, order.kinds, createRandom(seed));
      return order;
    },
    'DELETE /simulator/faults': () => {
      faults.clear();
      return {};
    },
    'POST /simulator/webhook': (body) => {
      const target = deliveryTarget.parse(body);
      delivery.configure(target);
      return { url: target.url, envelope: target.envelope, policy: delivery.policy };
    },
    'POST /simulator/users': (body) => {
      const { count, batch, sameInstant, event } = usersOrder.parse(body);
      const options = { sameInstant, event };
      if (batch) directory.createBatch(count, options);
      else directory.createMany(count, options);
      return { users: directory.size };
    },
    'POST /simulator/traffic': (body) => {
      const order = trafficOrder.parse(body);
      traffic.set(order);
      return order;
    },
  };
}

/** The endpoints of one simulator. */
export function createControl(simulator: Simulator): Control {
  const traffic = createTrafficHolder(simulator);
  const actions = createActions(simulator, traffic);
  return {
    async handle(request, response, { url, mayControl }) {
      if (!mayControl) {
        sendJson(response, 401, { error: 'send the management key as a bearer token' });
        return;
      }
      // A web page that somebody has open may reach local ports; browsers say so.
      if (request.headers.origin !== undefined) {
        sendJson(response, 403, { error: 'not for web pages' });
        return;
      }
      const route = `${request.method ?? 'GET'} ${url.pathname}`;
      if (route === 'GET /simulator/users') {
        await streamUsers(simulator, response);
        return;
      }
      const action = actions[route];
      if (!action) {
        const known = [...Object.keys(actions), 'GET /simulator/users'].join(', ');
        sendJson(response, 404, { error: `no such endpoint; there are ${known}` });
        return;
      }
      try {
        sendJson(response, 200, action(await readJson(request)));
      } catch (error) {
        if (error instanceof z.ZodError) sendJson(response, 400, { error: describeIssues(error) });
        else if (error instanceof BadRequest) sendJson(response, 400, { error: error.message });
        else throw error;
      }
    },
    stop: () => {
      traffic.stop();
    },
  };
}

/** One line of JSON a user, no faster than the reader reads. */
async function streamUsers({ directory }: Simulator, response: ServerResponse): Promise<void> {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  for (const user of directory.users()) {
    if (response.destroyed) return;
    if (!response.write(`${JSON.stringify(user)}\n`)) {
      await Promise.race([once(response, 'drain'), once(response, 'close')]);
    }
  }
  response.end();
}
