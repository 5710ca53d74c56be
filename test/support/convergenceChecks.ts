import { sql } from 'drizzle-orm';

import { asInstant } from '../../src/mirror/database.ts';
import { USER_ACTIONS } from '../../src/pull/audit.ts';
import { toAuditRecord } from '../../src/simulator/audit.ts';
import { parseDelivery, parseRecord } from '../../src/inbox/parse.ts';
import { markOf, type Actor } from './convergenceActor.ts';
import { canMislead, type History } from './convergenceHistory.ts';

import type { Rig } from './convergenceRig.ts';

/*
 * What must hold at any moment, and what must hold at the end. A check returns what is wrong, in
 * words; user ids only.
 */

interface MirroredRow {
  readonly userId: string;
  readonly observedAt: string;
  readonly isGone: boolean;
  readonly givenName: string | null;
}

export interface Checks {
  /** Looks once; call it over and over. */
  look(): Promise<readonly string[]>;
  /** Everything that only the end can tell. */
  conclude(): Promise<readonly string[]>;
}

export function createChecks(history: History, rig: Rig, actor: Actor): Checks {
  const { scene } = rig;
  const { directory } = scene.simulator;
  const { t } = scene.database.mirror;
  const lastObservedAt = new Map<string, string>();
  const isStale = canMislead(history, 'stale');
  const readTrail = createTrail(history, rig);

  function lookAtRow(row: MirroredRow): string[] {
    const problems: string[] = [];
    const isThere = directory.get(row.userId) !== undefined;
    // Ids are never given again, so whoever is there now always was. A stale answer may lie.
    if (row.isGone && isThere && !isStale) problems.push(`${row.userId}: live, yet tombstoned`);
    const before = lastObservedAt.get(row.userId);
    if (before !== undefined && row.observedAt < before) {
      problems.push(`${row.userId}: observed_at went back from ${before} to ${row.observedAt}`);
    }
    lastObservedAt.set(row.userId, row.observedAt);
    return problems;
  }

  async function look(): Promise<string[]> {
    // Before the rows, so that these are at least as new.
    const watermarks = await readWatermarks(rig, history);
    const events = await readEvents(rig);
    const mirrored = await scene.query<MirroredRow>(
      sql`select user_id as "userId", ${asInstant(sql`observed_at`)} as "observedAt",
                 deleted_at is not null as "isGone", raw ->> 'givenName' as "givenName"
          from ${t.users}`,
    );
    const restored = await scene.query<{ userId: string; witness: string }>(
      sql`select user_id as "userId", witness from ${t.userChanges} where kind = 'restored'`,
    );
    const byId = new Map(mirrored.map((row) => [row.userId, row]));
    const slackMs = toSlackMs(history);
    return [
      ...mirrored.flatMap(lookAtRow),
      // Nobody comes back to this directory, so a restored user was a false tombstone or a false revival.
      // A load that shows the past may do that; the witness "modified" is always a page.
      ...restored
        .filter(({ witness }) => !isStale || witness === 'modified')
        .map(({ userId, witness }) => `${userId}: restored by ${witness}`),
      ...holesInRows(actor, byId, watermarks, slackMs),
      ...holesInInbox(readTrail(), events, watermarks, slackMs),
    ];
  }

  return {
    look,
    async conclude() {
      return [
        ...(await look()),
        ...(await lostAcknowledged(rig)),
        ...(await feedDiffers(rig)),
        ...overspent(history, rig),
        ...spokeIntoSilence(history, rig),
      ];
    },
  };
}

/** `Date` tells whole seconds, and on a busy machine an answer takes its time. */
const CLOCK_ERROR_MS = 1_500;

/**
 * How far behind a watermark something may still be missing. Lag and an answer that misleads are
 * mended by the overlap of the next pull.
 */
function toSlackMs(history: History): number {
  const { behaviour, settings } = history;
  if (canMislead(history, 'stale') || canMislead(history, 'zeroTotal')) {
    return settings.overlapSeconds * 1000;
  }
  return Math.max(behaviour.readLagMs, behaviour.auditLagMs) + CLOCK_ERROR_MS;
}

interface Watermarks {
  readonly modified: number;
  readonly audit: number;
  /** Where both began: what happened before it is the first sweep's to find. */
  readonly begunMs: number;
  readonly isFilled: boolean;
}

async function readWatermarks({ scene }: Rig, { settings }: History): Promise<Watermarks> {
  const { t } = scene.database.mirror;
  const found = await scene.query<{ pull: string; ms: number | null }>(
    sql`select pull, (extract(epoch from complete_to) * 1000)::float8 as ms from ${t.watermarks}`,
  );
  const of = (pull: string) => found.find((row) => row.pull === pull)?.ms ?? -Infinity;
  const [first] = await scene.query<{ coversToMs: number | null; outcome: string | null }>(
    sql`select (extract(epoch from covers_to) * 1000)::float8 as "coversToMs", outcome
        from ${t.syncRuns} where pull = 'sweep' order by run_id limit 1`,
  );
  return {
    modified: of('modified'),
    audit: of('audit'),
    begunMs: (first?.coversToMs ?? Infinity) - settings.overlapSeconds * 1000,
    isFilled: first?.outcome === 'complete',
  };
}

async function readEvents({ scene }: Rig): Promise<ReadonlySet<string>> {
  const found = await scene.query<{ eventId: string }>(
    sql`select event_id as "eventId" from ${scene.database.mirror.t.events}`,
  );
  return new Set(found.map((row) => row.eventId));
}

function holesInRows(
  actor: Actor,
  byId: ReadonlyMap<string, MirroredRow>,
  { modified, begunMs, isFilled }: Watermarks,
  slackMs: number,
): string[] {
  return [...actor.moved]
    .filter(([, { modifiedMs }]) => modifiedMs <= modified - slackMs)
    .filter(([, { modifiedMs }]) => isFilled || modifiedMs > begunMs)
    .filter(([userId, moved]) => markOf(byId.get(userId)?.givenName ?? null) < moved.mark)
    .map(([userId]) => `${userId}: its change is behind the modified watermark, yet not mirrored`);
}

interface Told {
  readonly name: string;
  readonly occurredMs: number;
  readonly eventId: string;
}

/** Every event of the audit trail that is about users, with the id the inbox gives it. */
function createTrail({ behaviour }: History, { scene }: Rig): () => readonly Told[] {
  const { directory, projectId } = scene.simulator;
  const told: Told[] = [];
  let read = 0;
  return () => {
    const all = directory.audit.all();
    for (const event of all.slice(read)) {
      const record = parseRecord(toAuditRecord(event, behaviour.pluralIds), 0, projectId);
      if (!record || !USER_ACTIONS.includes(event.action)) continue;
      const name = `${event.action} ${event.serial}`;
      told.push({ name, occurredMs: event.occurredMs, eventId: record.eventId });
    }
    read = all.length;
    return told;
  };
}

function holesInInbox(
  trail: readonly Told[],
  events: ReadonlySet<string>,
  { audit, begunMs }: Watermarks,
  slackMs: number,
): string[] {
  return trail
    .filter(({ occurredMs }) => occurredMs > begunMs && occurredMs <= audit - slackMs)
    .filter(({ eventId }) => !events.has(eventId))
    .map(({ name }) => `${name}: behind the audit watermark, yet not in the inbox`);
}

/** Guarantee G1; the audit pull may have found the same event, so it must be the webhook's own doing. */
async function lostAcknowledged({ scene, forwarder }: Rig): Promise<string[]> {
  const found = await scene.query<{ eventId: string }>(
    sql`select event_id as "eventId" from ${scene.database.mirror.t.events}
        where webhook_at is not null`,
  );
  const kept = new Set(found.map((row) => row.eventId));
  const { projectId } = scene.simulator;
  return forwarder.acknowledged
    .flatMap((body) => parseDelivery(body, 0, projectId).events)
    .filter((event) => event.kind !== 'other' && !kept.has(event.eventId))
    .map((event) => `${event.action}: its delivery was answered 2xx, yet it is not in the inbox`);
}

/** The feed from its beginning must lead to the live users. */
async function feedDiffers({ scene }: Rig): Promise<string[]> {
  const { users, userChanges } = scene.database.mirror.t;
  const found = await scene.query<{ userId: string }>(
    sql`with last as (
          select distinct on (user_id) user_id, kind from ${userChanges}
          order by user_id, transaction_id desc, seq desc
        ), replayed as (select user_id from last where kind <> 'deleted'),
        live as (select user_id from ${users} where deleted_at is null)
        select coalesce(r.user_id, l.user_id) as "userId"
        from replayed r full join live l on l.user_id = r.user_id
        where r.user_id is null or l.user_id is null`,
  );
  return found.map(({ userId }) => `${userId}: the feed leads elsewhere than the mirror`);
}

const AUDIT_PER_MINUTE = 600;
/** The budget's own burst, and how much later than it was granted a request may arrive on a busy machine. */
const BURST_MS = 2_000 + 1_500;

/** Guarantee G6, over every stretch of time. */
function overspent({ settings }: History, { scene }: Rig): string[] {
  const { list } = scene.simulator.requests;
  const spent = (perMinute: number, isOurs: (kind: string) => boolean): string[] => {
    const times = list.filter(({ kind }) => isOurs(kind)).map(({ atMs }) => atMs);
    const perMs = perMinute / 60_000;
    // The most requests above the steady rate since any earlier one: a running maximum.
    let least = Infinity;
    let worst = 0;
    for (const [index, atMs] of times.entries()) {
      const level = index - atMs * perMs;
      least = Math.min(least, level);
      worst = Math.max(worst, level - least + 1);
    }
    const allowed = BURST_MS * perMs + 1;
    return worst > allowed
      ? [`${Math.round(worst)} requests in a burst where ${perMinute} a minute are allowed`]
      : [];
  };
  return [
    ...spent(settings.budget, (kind) => kind !== 'audit'),
    ...spent(AUDIT_PER_MINUTE, (kind) => kind === 'audit'),
  ];
}

/** Requests that were on their way already when the 429 came. */
const ON_THE_WAY_MS = 1_500;

function spokeIntoSilence({ behaviour, steps }: History, { scene, liftedAtMs }: Rig): string[] {
  // A process that dies, or cannot reach Postgres, may not get to pass the word on.
  if (steps.some(({ act }) => act.kind === 'kill' || act.kind === 'cutPostgres')) return [];
  const { retryAfterHeader, penaltyMs } = behaviour;
  const silentMs = retryAfterHeader && penaltyMs > 0 ? Math.ceil(penaltyMs / 1000) * 1000 : 50_000;
  const { list } = scene.simulator.requests;
  const bucketOf = (kind: string) => (kind === 'audit' ? 'audit' : 'users');
  const problems: string[] = [];
  for (const throttled of list.filter(({ status }) => status === 429)) {
    const lifted = liftedAtMs.find((atMs) => atMs > throttled.atMs) ?? Infinity;
    const untilMs = Math.min(throttled.atMs + silentMs, lifted);
    const spoken = list.filter(
      ({ kind, atMs }) =>
        bucketOf(kind) === bucketOf(throttled.kind) &&
        atMs > throttled.atMs + ON_THE_WAY_MS &&
        atMs < untilMs,
    );
    if (spoken.length > 0) {
      problems.push(`${spoken.length} requests in the silence after a 429`);
      break;
    }
  }
  return problems;
}
