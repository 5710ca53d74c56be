import { sql } from 'drizzle-orm';
import { createHash, randomUUID } from 'node:crypto';

import { listPending } from '../src/inbox/pending.ts';
import { rows, type Mirror } from '../src/mirror/database.ts';
import { hasCompletedSweep, openSweep } from '../src/pull/ledger.ts';
import { applyEvents, toJobs } from './applyEvents.ts';
import { pullModified } from './pullModified.ts';
import { onceAtATime, sweep, sweepWindow } from './sweep.ts';
import { startTicks, type Ticks } from './ticks.ts';

import type { EnqueueOptions, Queues } from './queues.ts';

/*
 * What Postgres knows is still to do goes back to the queue: at the start, since the last process may
 * have been killed, and on a tick, since the queue may have been flushed (guarantee G7). Jobs that are
 * queued already are harmless beside these; ids keep their number small.
 */

export interface RecoverySettings {
  readonly mirror: Mirror;
  readonly queues: Queues;
  readonly onError: (error: unknown) => void;
  readonly tickMs?: number;
}

/** Shorter than anyone would wait for a lost event, longer than a healthy queue takes. */
const TICK_MS = 5_000;
const GRACE_SECONDS = 3;
/** Events put back a tick: bounded, whatever has piled up (guarantee G8). */
const EVENTS_A_TICK = 2_000;
/** A window whose cursor has not moved for this long is nobody's. */
const ABANDONED_SECONDS = 90;

/** What a process remembers of its recoveries. */
interface Life {
  /** Ids of an earlier life of this process must not hold back this one's first recovery. */
  readonly id: string;
  isFirst: boolean;
  /** Jobs put back by the first recovery, under an id of this life. */
  readonly taken: Set<string>;
}

/** Recovers at once, then on every tick. The first recovery takes over what a killed process left. */
export function startRecovery(settings: RecoverySettings): Ticks {
  const { onError, tickMs = TICK_MS } = settings;
  return startTicks({ work: createRecovery(settings), everyMs: tickMs, onError });
}

/** One recovery a call; the first that succeeds takes over what a killed process left. */
export function createRecovery(
  settings: Pick<RecoverySettings, 'mirror' | 'queues'>,
): () => Promise<void> {
  const life: Life = { id: randomUUID(), isFirst: true, taken: new Set() };
  return async () => {
    await recover(settings, life);
    life.isFirst = false;
  };
}

type Deps = Pick<RecoverySettings, 'mirror' | 'queues'>;

async function recover(deps: Deps, life: Life): Promise<void> {
  const { mirror, queues } = deps;
  await recoverEvents(deps, life);
  const abandoned = life.isFirst ? 0 : ABANDONED_SECONDS;
  if (await isSweepDue(mirror)) {
    // A run of the ledger, begun by the job; many replicas asking join the same one.
    const payload = { reason: 'first fill', begin: true };
    await queues.enqueue(sweep, payload, { dedupeId: `first-${life.id}` });
  } else {
    await recoverSweep(deps, life, abandoned);
  }
  const windows = await abandonedWindows(mirror, 'modified', abandoned);
  if (windows.length > 0) {
    await queues.enqueue(pullModified, { gapsOnly: true }, onceInThis(life, 'gaps'));
  }
}

/**
 * A job that waits in a silence, or behind events for an hour, is not joined by a second one. The first
 * recovery does not believe in the jobs it finds: whoever had them may have been killed.
 */
function onceInThis(life: Life, name: string): EnqueueOptions {
  if (life.isFirst) life.taken.add(name);
  return onceAtATime(life.taken.has(name) ? `${name}-${life.id}` : name);
}

/** Until one sweep has completed the mirror is filling; one that failed is begun again after a minute. */
async function isSweepDue(mirror: Mirror): Promise<boolean> {
  if (await hasCompletedSweep(mirror.db, mirror)) return false;
  if (await openSweep(mirror.db, mirror)) return false;
  const recent = await rows(
    mirror.db,
    sql`select 1 from ${mirror.t.syncRuns}
        where pull = 'sweep' and finished_at > clock_timestamp() - interval '1 minute' limit 1`,
  );
  return recent.length === 0;
}

async function recoverSweep(deps: Deps, life: Life, abandonedSeconds: number): Promise<void> {
  const { mirror, queues } = deps;
  if (!(await openSweep(mirror.db, mirror))) return;
  const windows = await abandonedWindows(mirror, 'sweep', abandonedSeconds);
  for (const { windowId, hours } of windows) {
    // An evicting Redis may lose a job and keep its id: after an hour another one is tried.
    const name = `window-${windowId}${hours > 0 ? `-${hours}` : ''}`;
    await queues.enqueue(sweepWindow, { windowId }, onceInThis(life, name));
  }
  const [unproven] = await abandonedWindows(mirror, 'sweep', 0);
  if (windows.length > 0 || unproven !== undefined) return;
  // Nothing left to read: it has to be planned or ended, and the job that should have is gone.
  await queues.enqueue(sweep, { reason: 'recovery' }, onceInThis(life, 'sweep'));
}

/** Windows that nobody has moved for so long, and for how many whole hours. */
async function abandonedWindows(
  mirror: Mirror,
  pull: 'modified' | 'sweep',
  seconds: number,
): Promise<{ windowId: number; hours: number }[]> {
  return rows<{ windowId: number; hours: number }>(
    mirror.db,
    sql`select window_id::float8 as "windowId",
               floor(extract(epoch from clock_timestamp() - updated_at) / 3600)::int as hours
        from ${mirror.t.syncWindows}
        where state <> 'proven' and pull = ${pull}
          and updated_at <= clock_timestamp() - make_interval(secs => ${seconds})
        order by from_time limit 100`,
  );
}

async function recoverEvents({ mirror, queues }: Deps, life: Life): Promise<void> {
  const seconds = life.isFirst ? 0 : -GRACE_SECONDS;
  const due = await listPending(mirror, { seconds, most: EVENTS_A_TICK });
  for (const { eventIds } of toJobs(due.map((row) => row.eventId))) {
    const hash = createHash('sha256').update(eventIds.join()).digest('hex').slice(0, 32);
    const dedupeId = life.isFirst ? `${hash}-${life.id}` : hash;
    await queues.enqueue(applyEvents, { eventIds }, { dedupeId });
  }
}
