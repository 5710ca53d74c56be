import { startSimulator, type Simulator } from '../src/simulator/server.ts';
import { serve } from './programs.ts';

import type { BehaviourPatch } from '../src/simulator/behaviour.ts';
import type { LoggedRequest } from '../src/simulator/requestLog.ts';

/*
 * The simulated Descope in a process of its own, without limits unless they are asked for.
 */

const SEED = 7;
/** Often enough that a thousand changes a second come one after the other and not in heaps. */
const TICK_MS = 4;

let simulator: Simulator | undefined;

function started(): Simulator {
  if (!simulator) throw new Error('start comes first');
  return simulator;
}

const functions = {
  async start(asked: { readonly users: number; readonly behaviour?: BehaviourPatch }) {
    const { users, behaviour = {} } = asked;
    simulator = await startSimulator({
      users,
      seed: SEED,
      behaviour: { ...behaviour, limits: { users: null, audit: null, ...behaviour.limits } },
    });
    const { url, projectId, managementKey } = simulator;
    return { url, projectId, managementKey };
  },
  behave(patch: BehaviourPatch) {
    const { behaviour } = started();
    const { limits, ...rest } = patch;
    Object.assign(behaviour, rest);
    Object.assign(behaviour.limits, limits);
  },
  /** How many requests of each kind have been answered with each status. */
  requests: () => started().requests.summary(),
  /** The latest 20,000 requests, oldest first. */
  requestList: (): readonly LoggedRequest[] => started().requests.list,
  forgetRequests() {
    started().requests.reset();
  },
  /** Changes so many users without an event: only a pull can find them. Returns who. */
  changeSilently(asked: { readonly count: number; readonly turn: number }) {
    const { directory } = started();
    const userIds = someUsers(asked.count, asked.turn);
    for (const userId of userIds) {
      directory.modifyUser(userId, { name: `Changed in turn ${asked.turn}` }, { event: false });
    }
    return userIds;
  },
  /** Changes users at an even rate, each with its event delivered to `url`; resolves when all are. */
  async live(asked: {
    readonly perSecond: number;
    readonly seconds: number;
    readonly url: string;
    readonly hmacSecret: string;
  }) {
    const { delivery } = started();
    const before = { ...delivery.counters };
    delivery.configure({ url: asked.url, hmacSecret: asked.hmacSecret });
    await changeSteadily(asked.perSecond, asked.seconds);
    await delivery.idle();
    const { offered, acked, posts } = delivery.counters;
    return {
      events: offered - before.offered,
      acked: acked - before.acked,
      posts: posts - before.posts,
    };
  },
};
export type SimulatorApi = typeof functions;

/** Nobody comes or leaves here, so the list is made once. */
let everyone: readonly string[] = [];

function allUserIds(): readonly string[] {
  if (everyone.length === 0) {
    everyone = [...started().directory.timeline.everyone()].map((user) => user.userId);
  }
  return everyone;
}

/** So many users, evenly spread over the directory; others in another turn. */
function someUsers(count: number, turn: number): string[] {
  const all = allUserIds();
  const step = Math.floor(all.length / count);
  return Array.from({ length: count }, (_, at) => all[at * step + (turn % step)] ?? '');
}

function changeSteadily(perSecond: number, seconds: number): Promise<void> {
  const { directory } = started();
  const all = allUserIds();
  const startedMs = performance.now();
  let done = 0;
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      const elapsed = Math.min(seconds, (performance.now() - startedMs) / 1000);
      for (; done < Math.floor(elapsed * perSecond); done++) {
        // In turn: two changes of a user in one millisecond would be one event.
        const userId = all[done % all.length] ?? '';
        directory.modifyUser(userId, { name: `Change ${done} of ${perSecond}` });
      }
      if (elapsed < seconds) return;
      clearInterval(timer);
      resolve();
    }, TICK_MS);
  });
}

serve(functions);
