import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';

import { createRandom } from '../../src/simulator/random.ts';

import type { FaultKind } from '../../src/simulator/faults.ts';
import type { Forwarder } from './convergenceForwarder.ts';
import type { Disturbance } from './convergenceHistory.ts';
import type { HistoryRedis } from './convergenceRedis.ts';
import type { Proxy } from './proxy.ts';
import type { Supervisor } from './supervisor.ts';
import type { Scene } from './world.ts';

/** What can break, and who mends it. */
export interface Breakable {
  readonly scene: Scene;
  /** Between the service and Descope. */
  readonly descope: Proxy;
  readonly forwarder: Forwarder;
  readonly redis: HistoryRedis | null;
  /** Every process of the service: any of them may be killed. */
  readonly processes: readonly Pick<Supervisor, 'start' | 'kill'>[];
}

/** What breaks for a while around the service, and when: a check excuses nothing beyond that. */
export interface Troubles {
  /** Lets something break for a while, and returns at once. */
  begin(disturbance: Disturbance, seed: number): void;
  /** Resolves when nothing is broken any more. */
  ended(): Promise<void>;
  /**
   * Until when (epoch ms) answers showed the past or nobody at all, over and over; Infinity while they
   * do, -Infinity where they never did.
   */
  misledUntilMs(): number;
  /** Whether loads by id were among these answers. */
  wereLoadsMisled(): boolean;
  /** Whether one of these was broken at some moment of this range (epoch ms). */
  hit(kinds: readonly Disturbance['kind'][], fromMs: number, toMs: number): boolean;
}

interface Spell {
  readonly disturbance: Disturbance;
  readonly fromMs: number;
  toMs: number;
}

/** Some take a second each; more of them prove nothing more. */
const MOST_OF_A_KIND = 2;

export function createTroubles(parts: Breakable): Troubles {
  const spells: Spell[] = [];
  const failures: unknown[] = [];
  /** Of each kind one at a time, the others in turn. */
  const underWay = new Map<string, { last: Promise<void>; count: number }>();

  async function livedThrough(disturbance: Disturbance, seed: number): Promise<void> {
    const spell = { disturbance, fromMs: Date.now(), toMs: Infinity };
    spells.push(spell);
    await happen(parts, disturbance, seed).catch((error: unknown) => failures.push(error));
    spell.toMs = Date.now();
  }

  return {
    begin(disturbance, seed) {
      // A Redis that is away cannot be flushed.
      const kind = disturbance.kind === 'flushRedis' ? 'stopRedis' : disturbance.kind;
      const { last, count } = underWay.get(kind) ?? { last: Promise.resolve(), count: 0 };
      if (count >= MOST_OF_A_KIND) return;
      underWay.set(kind, {
        last: last.then(() => livedThrough(disturbance, seed)),
        count: count + 1,
      });
    },
    async ended() {
      await Promise.all([...underWay.values()].map(({ last }) => last));
      if (failures.length > 0) throw new AggregateError(failures, 'what broke cannot be mended');
    },
    misledUntilMs: () =>
      Math.max(
        -Infinity,
        ...spells.filter(({ disturbance }) => misleads(disturbance)).map(({ toMs }) => toMs),
      ),
    wereLoadsMisled: () =>
      spells.some(({ disturbance }) => misleads(disturbance) && disturbance.kind === 'faults'),
    hit: (kinds, fromMs, toMs) =>
      spells.some(
        (spell) =>
          kinds.includes(spell.disturbance.kind) && spell.fromMs <= toMs && spell.toMs >= fromMs,
      ),
  };
}

/** Whether an answer may show the past, or nobody twice running: then only overlapping reads mend. */
function misleads(disturbance: Disturbance): boolean {
  if (disturbance.kind === 'stalePages') return true;
  if (disturbance.kind !== 'faults') return false;
  return disturbance.kinds.some((kind) => kind === 'stale' || kind === 'zeroTotal');
}

type Happening = (parts: Breakable, forMs: number, seed: number) => Promise<void>;

/** One thing that breaks, until it is whole again. */
function happen(parts: Breakable, disturbance: Disturbance, seed: number): Promise<void> {
  const { kind, forMs } = disturbance;
  if (kind === 'faults') return fail(disturbance.rate, disturbance.kinds)(parts, forMs, seed);
  if (kind === 'blackout') {
    // Nobody at all may be believed when it is said twice, so it is said once.
    parts.scene.simulator.faults.next(disturbance.answer, {
      path: 'search',
      times: disturbance.answer === 'zeroTotal' ? 1 : 3,
    });
    return HAPPENINGS.cutDescope(parts, forMs, seed);
  }
  return HAPPENINGS[kind](parts, forMs, seed);
}

const fail =
  (rate: number, kinds: readonly FaultKind[]): Happening =>
  async ({ scene }, forMs, seed) => {
    const { faults } = scene.simulator;
    faults.random(rate, kinds, createRandom(seed));
    await delay(forMs);
    faults.clear();
  };

const cut =
  (connection: (parts: Breakable) => Proxy): Happening =>
  async (parts, forMs) => {
    connection(parts).cut();
    await delay(forMs);
    connection(parts).restore();
  };

const HAPPENINGS: Record<Exclude<Disturbance['kind'], 'faults' | 'blackout'>, Happening> = {
  late: fail(0.5, ['slow']),
  stalePages: spoilSearches('stale'),
  noSearch: spoilSearches('status403'),
  cutPostgres: cut(({ scene }) => scene.proxy),
  cutDescope: cut(({ descope }) => descope),
  async throttle({ scene }, forMs) {
    const { behaviour, limits } = scene.simulator;
    Object.assign(behaviour.limits, { users: 0, audit: 0 });
    await delay(forMs);
    Object.assign(behaviour.limits, { users: null, audit: null });
    limits.reset();
  },
  async kill({ scene, processes }, forMs, seed) {
    const killed = processes[seed % processes.length];
    await killed?.kill();
    await endLeases(scene);
    await delay(forMs);
    await killed?.start();
  },
  async noEndpoint({ forwarder }, forMs) {
    forwarder.isAway = true;
    await delay(forMs);
    forwarder.isAway = false;
  },
  async flushRedis({ redis }) {
    await redis?.flush();
  },
  async stopRedis({ redis }, forMs) {
    const startAgain = await redis?.kill();
    await delay(forMs);
    await startAgain?.();
  },
};

/** More than there are in any spell. */
const EVERY_SEARCH = 10_000;

function spoilSearches(kind: FaultKind): Happening {
  return async ({ scene }, forMs) => {
    const order = { path: 'search', times: EVERY_SEARCH } as const;
    const callOff = scene.simulator.faults.next(kind, order);
    await delay(forMs);
    callOff();
  };
}

/** As after the minute or two for which a killed process keeps others from pulling. */
export async function endLeases(scene: Scene): Promise<void> {
  const { watermarks } = scene.database.mirror.t;
  await scene.query(sql`update ${watermarks} set busy_until = null`);
}
