import { below } from './random.ts';

import type { Random } from './random.ts';
import type { RequestKind } from './requestLog.ts';

export const FAULT_KINDS = [
  /** 500 with a JSON error body. */
  'status500',
  /** 502 with a web page for a body, as a proxy sends it. */
  'status502html',
  'status503',
  'status403',
  /** 200 with `{}`. */
  'emptyObject',
  /** No rows, and the true total. */
  'emptyPage',
  /** No rows, and a total of 0. */
  'zeroTotal',
  /** Some rows are missing, and the true total. */
  'partialPage',
  /** No answer, ever. */
  'hang',
  /** The connection is cut. */
  'reset',
  /** The answer as of now, much later. */
  'slow',
  /** The first half of the answer's body, and the end of the connection. */
  'truncated',
  /** The answer as of `behaviour.staleMs` ago. */
  'stale',
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

export const FAULT_PATHS = ['search', 'load', 'user', 'audit'] as const;
export type FaultPath = (typeof FAULT_PATHS)[number];

export interface Fault {
  readonly kind: FaultKind;
  /** How long `slow` takes. */
  readonly delayMs: number;
}

export interface FaultOrder {
  /** Any of the four where absent. */
  readonly path?: FaultPath | undefined;
  /** How many requests it befalls; 1 where absent. */
  readonly times?: number | undefined;
  /** How long `slow` takes; 1000 where absent. */
  readonly delayMs?: number | undefined;
}

const PATHS: Partial<Record<RequestKind, FaultPath>> = {
  userSearch: 'search',
  userLoad: 'load',
  userGet: 'user',
  audit: 'audit',
};

/** What goes wrong next: on command, or by chance. */
export class Faults {
  private readonly orders: { fault: Fault; path: FaultPath | undefined; left: number }[] = [];
  private chance: { rate: number; kinds: readonly FaultKind[]; random: Random } | undefined;
  private happened = 0;

  /** How many requests a fault has befallen. */
  get count(): number {
    return this.happened;
  }

  /**
   * The next `times` requests (to `path`) fail like this. Orders are carried out in turn. Returns how
   * to call off what is left of it.
   */
  next(kind: FaultKind, { path, times = 1, delayMs = 1000 }: FaultOrder = {}): () => void {
    const order = { fault: { kind, delayMs }, path, left: times };
    this.orders.push(order);
    return () => {
      const index = this.orders.indexOf(order);
      if (index >= 0) this.orders.splice(index, 1);
    };
  }

  /** From now on each request fails with probability `rate`, in one of these ways; 0 ends it. */
  random(rate: number, kinds: readonly FaultKind[], random: Random): void {
    this.chance = rate > 0 && kinds.length > 0 ? { rate, kinds, random } : undefined;
  }

  /** Nothing goes wrong any more. */
  clear(): void {
    this.orders.length = 0;
    this.chance = undefined;
  }

  /** The fault that befalls a request that just arrived. */
  take(kind: RequestKind): Fault | undefined {
    const path = PATHS[kind];
    if (!path) return undefined;
    const fault = this.takeOrder(path) ?? this.takeChance();
    if (fault) this.happened++;
    return fault;
  }

  private takeOrder(path: FaultPath): Fault | undefined {
    const index = this.orders.findIndex((order) => order.path === undefined || order.path === path);
    const order = this.orders[index];
    if (!order) return undefined;
    order.left--;
    if (order.left <= 0) this.orders.splice(index, 1);
    return order.fault;
  }

  private takeChance(): Fault | undefined {
    if (!this.chance || this.chance.random() >= this.chance.rate) return undefined;
    const kind = this.chance.kinds[below(this.chance.random, this.chance.kinds.length)];
    return kind && { kind, delayMs: 1000 };
  }
}
