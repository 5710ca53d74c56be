import { sql } from 'drizzle-orm';
import { setTimeout as delay } from 'node:timers/promises';

import { parseDelivery } from '../../src/inbox/parse.ts';
import { textArray } from '../../src/mirror/database.ts';
import { toBody } from '../../src/simulator/envelopes.ts';
import { createRandom } from '../../src/simulator/random.ts';
import { actOnce, DEFAULT_MIX, type TrafficMix } from '../../src/simulator/traffic.ts';
import { eventually } from './eventually.ts';
import { postTo, type Scene } from './world.ts';

import type { AuditEvent } from '../../src/simulator/audit.ts';

export interface Answer {
  /** 0: there was none. */
  readonly status: number;
  readonly retryAfter: string | null;
  /** When the delivery was sent and when answered, epoch ms. */
  readonly sentMs: number;
  readonly answeredMs: number;
}

/** Tells a service of all that happens in a directory, each event until it is answered 2xx. */
export interface Sender {
  /** Where the service listens; undefined while none does: what happens meanwhile waits. */
  port: number | undefined;
  readonly answers: readonly Answer[];
  /** Events answered 2xx. */
  readonly acknowledged: number;
  /** Events that are not yet. */
  readonly pending: number;
  /** Resolves when nothing is left to send. */
  untilIdle(timeoutMs: number): Promise<void>;
  /** Fails with the number of events that were answered 2xx and are not in the inbox (guarantee G1). */
  assertKept(): Promise<void>;
  stop(): Promise<void>;
}

/** As many deliveries at once as a streaming service plausibly makes. */
const SIDE_BY_SIDE = 8;
/** Impatient on purpose, whatever Retry-After says: the more is sent, the more could be lost. */
const PAUSE_MS = 100;

/** Begins to tell of what happens from now on. */
export function startSender(scene: Scene): Sender {
  const { simulator, database } = scene;
  const queue: AuditEvent[] = [];
  const answers: Answer[] = [];
  const bodies: string[] = [];
  let sending = 0;
  let stopped = false;

  async function post(port: number, body: string): Promise<Answer> {
    const sentMs = Date.now();
    const { status, headers } = await postTo(port, body).catch(() => ({
      status: 0,
      headers: null,
    }));
    const retryAfter = headers?.get('retry-after') ?? null;
    return { status, retryAfter, sentMs, answeredMs: Date.now() };
  }

  /** Sends the oldest event; false where there is none, or it was not taken and is the oldest again. */
  async function sendOne(port: number): Promise<boolean> {
    const event = queue.shift();
    if (!event) return false;
    sending++;
    const body = toBody([event], 'array', simulator.behaviour.pluralIds);
    const answer = await post(port, body);
    sending--;
    answers.push(answer);
    const isTaken = answer.status >= 200 && answer.status < 300;
    if (isTaken) bodies.push(body);
    else queue.unshift(event);
    return isTaken;
  }

  async function work(): Promise<void> {
    while (!stopped) {
      const isTaken = sender.port !== undefined && (await sendOne(sender.port));
      if (!isTaken) await delay(PAUSE_MS);
    }
  }

  const stopListening = simulator.directory.onEvent((event) => queue.push(event));
  const sender: Sender = {
    port: undefined,
    answers,
    get acknowledged() {
      return bodies.length;
    },
    get pending() {
      return queue.length + sending;
    },
    async untilIdle(timeoutMs) {
      await eventually(
        () => {
          const { pending } = sender;
          if (pending > 0) throw new Error(`${pending} events have not been taken`);
        },
        { timeoutMs },
      );
    },
    async assertKept() {
      const eventIds = bodies
        .flatMap((body) => parseDelivery(Buffer.from(body), 0, simulator.projectId).events)
        .filter((event) => event.kind !== 'other')
        .map((event) => event.eventId);
      const { t } = database.mirror;
      const lost = await scene.query(
        sql`select 1 from unnest(${textArray(eventIds)}) as told (event_id)
            where not exists (select 1 from ${t.events} e
                              where e.event_id = told.event_id and e.webhook_at is not null)`,
      );
      if (lost.length > 0)
        throw new Error(`${lost.length} events answered 2xx are not in the inbox`);
    },
    async stop() {
      stopped = true;
      stopListening();
      await Promise.all(working);
    },
  };
  const working = Array.from({ length: SIDE_BY_SIDE }, work);
  return sender;
}

const TICK_MS = 30;
const MOST_PENDING = 30;

/** Lets a directory live, no faster than its events are taken: a slow machine gets less to do, not more. */
export function startPacedTraffic(
  { simulator }: Scene,
  sender: Sender,
  mix: Partial<TrafficMix>,
): { stop(): void } {
  const random = createRandom(1);
  const timer = setInterval(() => {
    if (sender.pending < MOST_PENDING) {
      actOnce(simulator.directory, { ...DEFAULT_MIX, ...mix }, random);
    }
  }, TICK_MS);
  return {
    stop() {
      clearInterval(timer);
    },
  };
}
