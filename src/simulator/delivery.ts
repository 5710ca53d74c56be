import { z } from 'zod';

import { capacityOf, ENVELOPES, envelopeOf, signatureOf, toBody } from './envelopes.ts';
import { createPoster } from './post.ts';
import { hash } from './random.ts';

import type { AuditEvent } from './audit.ts';
import type { Behaviour } from './behaviour.ts';

const rate = z.number().min(0).max(1);

/** How unreliable the streaming is; nothing of it is documented, so all of it can be played. */
const policy = z.strictObject({
  dropRate: rate,
  doubleRate: rate,
  /** Of events that let a later one pass. */
  reorderRate: rate,
  /** Each event waits at least and at most this long. */
  delayMs: z.tuple([z.number().min(0), z.number().min(0)]),
  /** Events beyond this many in a minute are dropped. */
  throttlePerMinute: z.number().min(0).nullable(),
  /** How often a delivery that was not answered 2xx is sent again. */
  retries: z.int().min(0),
});
const policyChange = policy.partial();
export type DeliveryPolicy = z.output<typeof policy>;

const pair = z.strictObject({ name: z.string(), value: z.string() });

/** Where and how webhooks are delivered; a policy left out stays as it is. */
export const deliveryTarget = z.strictObject({
  url: z.url({ protocol: /^https?$/ }),
  hmacSecret: z.string().optional(),
  signOver: z.enum(['raw', 'stringified']).default('raw'),
  bearer: z.string().optional(),
  /** User name and password. */
  basic: pair.optional(),
  /** Header name and value. */
  apiKey: pair.optional(),
  headers: z.record(z.string(), z.string()).default({}),
  envelope: z.enum(ENVELOPES).default('array'),
  batchMax: z.int().min(1).max(100).default(100),
  /** How long events wait for company. */
  flushMs: z.number().min(0).default(10),
  policy: policyChange.optional(),
});
export type DeliveryTarget = z.input<typeof deliveryTarget>;
type Target = z.output<typeof deliveryTarget>;

export interface DeliveryCounters {
  /** Events that happened while there was somewhere to deliver them. */
  offered: number;
  dropped: number;
  doubled: number;
  reordered: number;
  /** Requests sent, repeated ones included. */
  posts: number;
  /** Events in those requests. */
  sent: number;
  /** Events in requests answered 2xx. */
  acked: number;
  /** Events in requests given up. */
  refused: number;
  retried: number;
}

const NO_COUNTS: DeliveryCounters = {
  offered: 0,
  dropped: 0,
  doubled: 0,
  reordered: 0,
  posts: 0,
  sent: 0,
  acked: 0,
  refused: 0,
  retried: 0,
};

/** As many requests at once as a streaming service plausibly makes. */
const MOST_IN_FLIGHT = 8;
const MINUTE_MS = 60_000;

/**
 * The audit webhook connector. What is dropped, doubled, delayed or reordered is decided by the seed
 * and the event's number alone, so the same changes lose the same events on every run.
 */
export class Delivery {
  readonly policy: DeliveryPolicy = {
    dropRate: 0,
    doubleRate: 0,
    reorderRate: 0,
    delayMs: [0, 0],
    throttlePerMinute: null,
    retries: 0,
  };
  readonly counters: DeliveryCounters = { ...NO_COUNTS };
  private readonly seed: number;
  private readonly now: () => number;
  private readonly behaviour: Pick<Behaviour, 'pluralIds'>;
  private readonly poster = createPoster();
  private stopped = false;
  private readonly timers = new Set<NodeJS.Timeout>();
  private target: Target | undefined;
  private queue: AuditEvent[] = [];
  /** An event that waits for a later one to pass. */
  private held: AuditEvent | undefined;
  private flushTimer: NodeJS.Timeout | undefined;
  private delayed = 0;
  private inFlight = 0;
  private paused = false;
  private bodies = 0;
  private minute = { startedMs: 0, events: 0 };
  private waiting: (() => void)[] = [];

  constructor(options: {
    readonly seed: number;
    readonly now: () => number;
    readonly behaviour: Pick<Behaviour, 'pluralIds'>;
  }) {
    this.seed = options.seed;
    this.now = options.now;
    this.behaviour = options.behaviour;
  }

  /**
   * Delivers what happens from now on to `target`; undefined ends it.
   * @throws ZodError where the target is malformed
   */
  configure(target: DeliveryTarget | undefined): void {
    this.target = target && deliveryTarget.parse(target);
    if (this.target?.policy) this.setPolicy(this.target.policy);
    if (!this.target) this.forget();
  }

  /** Changes some of the policy. */
  setPolicy(change: z.input<typeof policyChange>): void {
    const given = Object.entries(policyChange.parse(change));
    Object.assign(
      this.policy,
      Object.fromEntries(given.filter(([, value]) => value !== undefined)),
    );
  }

  /** How many events are on their way. */
  get pending(): number {
    return this.queue.length + this.delayed + this.inFlight + (this.held ? 1 : 0);
  }

  /** Takes an event, once; called for everything that happens. */
  offer(event: AuditEvent): void {
    if (!this.target || this.stopped) return;
    this.counters.offered++;
    const chance = (purpose: number): number => hash(this.seed, event.serial, purpose) / 2 ** 32;
    if (this.isThrottled() || chance(1) < this.policy.dropRate) {
      this.counters.dropped++;
      return;
    }
    const [leastMs, mostMs] = this.policy.delayMs;
    const delayMs = (part: number): number => leastMs + chance(part) * (mostMs - leastMs);
    this.later(delayMs(2), () => {
      this.enqueue(event, chance(3) < this.policy.reorderRate);
    });
    if (chance(4) < this.policy.doubleRate) {
      this.counters.doubled++;
      this.later(delayMs(5), () => {
        this.enqueue(event, false);
      });
    }
  }

  /** Nothing is sent until `resume`; what happens meanwhile is kept. */
  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.pump();
  }

  /** Resolves when nothing is on its way; while paused, that takes a `resume`. */
  idle(): Promise<void> {
    if (this.pending === 0) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Ends at once; what is on its way is lost. */
  stop(): void {
    this.stopped = true;
    this.poster.stop();
    this.forget();
  }

  private forget(): void {
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
    clearTimeout(this.flushTimer);
    this.flushTimer = undefined;
    this.queue = [];
    this.held = undefined;
    this.delayed = 0;
    this.settle();
  }

  private isThrottled(): boolean {
    const most = this.policy.throttlePerMinute;
    if (most === null) return false;
    const nowMs = this.now();
    if (nowMs >= this.minute.startedMs + MINUTE_MS) this.minute = { startedMs: nowMs, events: 0 };
    this.minute.events++;
    return this.minute.events > most;
  }

  private later(delayMs: number, then: () => void): void {
    if (delayMs <= 0) {
      then();
      return;
    }
    this.delayed++;
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.delayed--;
      then();
    }, delayMs);
    this.timers.add(timer);
  }

  private enqueue(event: AuditEvent, letPass: boolean): void {
    if (letPass && !this.held) {
      this.counters.reordered++;
      this.held = event;
    } else {
      this.queue.push(event);
      if (this.held) this.queue.push(this.held);
      this.held = undefined;
    }
    if (this.target && this.queue.length >= this.target.batchMax) this.pump();
    else
      this.flushTimer ??= setTimeout(() => {
        this.flushTimer = undefined;
        this.pump();
      }, this.target?.flushMs ?? 0);
  }

  /** Sends everything that waits, as far as requests may be in flight. */
  private pump(): void {
    // Nothing came to pass it, so the held event goes now.
    if (this.held && this.queue.length === 0) {
      this.queue.push(this.held);
      this.held = undefined;
    }
    while (!this.paused && this.target && this.queue.length > 0 && this.inFlight < MOST_IN_FLIGHT) {
      const envelope = envelopeOf(this.target.envelope, this.bodies++);
      const events = this.queue.splice(0, capacityOf(envelope, this.target.batchMax));
      const body = toBody(events, envelope, this.behaviour.pluralIds);
      this.inFlight++;
      // `send` never rejects: what fails is counted.
      void this.send(this.target, body, events.length).finally(() => {
        this.inFlight--;
        this.pump();
        this.settle();
      });
    }
  }

  private async send(target: Target, plain: string, events: number): Promise<void> {
    // Go's encoder ends with a line feed; with it, the two ways of signing always differ.
    const body = target.signOver === 'stringified' ? `${plain}\n` : plain;
    for (let attempt = 0; ; attempt++) {
      this.counters.posts++;
      this.counters.sent += events;
      const status = await this.poster.post(target.url, body, headersOf(target, body));
      if (status >= 200 && status < 300) {
        this.counters.acked += events;
        return;
      }
      if (attempt >= this.policy.retries || this.stopped) break;
      this.counters.retried++;
    }
    this.counters.refused += events;
  }

  private settle(): void {
    if (this.pending > 0) return;
    const waiting = this.waiting;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}

function headersOf(target: Target, body: string): Record<string, string> {
  const { hmacSecret, signOver, bearer, basic, apiKey, headers } = target;
  return {
    ...headers,
    'content-type': 'application/json',
    ...(hmacSecret === undefined
      ? {}
      : { 'x-descope-webhook-s256': signatureOf(body, hmacSecret, signOver) }),
    ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
    ...(basic && {
      authorization: `Basic ${Buffer.from(`${basic.name}:${basic.value}`).toString('base64')}`,
    }),
    ...(apiKey && { [apiKey.name.toLowerCase()]: apiKey.value }),
  };
}
