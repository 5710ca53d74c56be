import { sql } from 'drizzle-orm';

import { USER_ACTIONS } from '../../src/pull/audit.ts';
import { toAuditRecord } from '../../src/simulator/audit.ts';
import { parseDelivery, parseRecord } from '../../src/inbox/parse.ts';
import { markOf, type Actor } from './convergenceActor.ts';

import type { History } from './convergenceHistory.ts';
import type { Rig } from './convergenceRig.ts';

/*
 * What must hold at any moment, and what must hold at the end. A check returns what is wrong, in
 * words; user ids only.
 */

interface MirroredRow {
  readonly userId: string;
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
  const readTrail = createTrail(history, rig);
  /** Answers of the past lie about whoever came a moment ago, loads by id too; of others they cannot. */
  const mayBeLiedAbout = (userId: string) => !actor.isOld(userId) && rig.troubles.wereLoadsMisled();

  async function look(): Promise<string[]> {
    // Before the rows, so that these are at least as new.
    const watermarks = await readWatermarks(rig, history);
    const events = await readEvents(rig);
    const mirrored = await scene.query<MirroredRow>(
      sql`select user_id as "userId", deleted_at is not null as "isGone",
                 raw ->> 'givenName' as "givenName"
          from ${t.users}`,
    );
    const restored = await scene.query<{ userId: string; witness: string }>(
      sql`select user_id as "userId", witness from ${t.userChanges} where kind = 'restored'`,
    );
    const byId = new Map(mirrored.map((row) => [row.userId, row]));
    return [
      ...(await rig.notes.read()),
      ...mirrored
        .filter(({ userId, isGone }) => isGone && directory.get(userId) !== undefined)
        .filter(({ userId }) => !actor.isBack(userId) && !mayBeLiedAbout(userId))
        .map(({ userId }) => `${userId}: live, yet tombstoned`),
      // Who never came back was wrongly tombstoned or is wrongly revived; this witness is always a page.
      ...restored
        .filter(
          ({ userId, witness }) =>
            witness === 'modified' || !(actor.isBack(userId) || mayBeLiedAbout(userId)),
        )
        .map(({ userId, witness }) => `${userId}: restored by ${witness}`),
      ...holesInRows(actor, byId, watermarks, createMargin(history, rig, 0)),
      ...holesInInbox(
        readTrail(),
        events,
        watermarks,
        createMargin(history, rig, history.behaviour.auditLagMs),
      ),
    ];
  }

  return {
    look,
    async conclude() {
      return [
        ...(await look()),
        ...(await parked(rig)),
        ...(await lostAcknowledged(rig)),
        ...(await feedDiffers(rig)),
        ...overspent(history, rig),
        ...spokeIntoSilence(history, rig),
      ];
    },
  };
}

/** How far behind a watermark something of this moment (epoch ms of Descope's clock) may be missing. */
type Margin = (atMs: number) => number;

/** What the settle time leaves over when the skew, told in whole seconds, is misjudged on a busy machine. */
const CLOCK_ERROR_MS = 300;

/** Lag and answers that mislead are mended by the overlap of the next pull. */
function createMargin({ behaviour, settings }: History, rig: Rig, lagMs: number): Margin {
  const misledUntilMs = rig.troubles.misledUntilMs() + behaviour.clockSkewMs;
  return (atMs) =>
    atMs <= misledUntilMs ? settings.overlapSeconds * 1000 : lagMs + CLOCK_ERROR_MS;
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
  marginOf: Margin,
): string[] {
  return [...actor.moved]
    .filter(([, { modifiedMs }]) => modifiedMs <= modified - marginOf(modifiedMs))
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
  marginOf: Margin,
): string[] {
  return trail
    .filter(({ occurredMs }) => occurredMs > begunMs)
    .filter(({ occurredMs }) => occurredMs <= audit - marginOf(occurredMs))
    .filter(({ eventId }) => !events.has(eventId))
    .map(({ name }) => `${name}: behind the audit watermark, yet not in the inbox`);
}

/** Every event of these histories is one that can be applied. */
async function parked({ scene }: Rig): Promise<string[]> {
  const found = await scene.query<{ action: string; error: string | null }>(
    sql`select action, error from ${scene.database.mirror.t.events} where state = 'parked'`,
  );
  return found.map(({ action, error }) => `${action}: parked (${error ?? 'no reason'})`);
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

/** A process that dies, or cannot reach Postgres, within this time may not get to pass the word on. */
const PASSING_ON_MS = 1_000;

function spokeIntoSilence({ behaviour }: History, rig: Rig): string[] {
  const { scene, liftedAtMs, troubles } = rig;
  const { retryAfterHeader, penaltyMs } = behaviour;
  const silentMs = retryAfterHeader && penaltyMs > 0 ? Math.ceil(penaltyMs / 1000) * 1000 : 50_000;
  const { list } = scene.simulator.requests;
  const bucketOf = (kind: string) => (kind === 'audit' ? 'audit' : 'users');
  for (const { kind, atMs: saidAtMs } of list.filter(({ status }) => status === 429)) {
    if (troubles.hit(['kill', 'cutPostgres'], saidAtMs, saidAtMs + PASSING_ON_MS)) continue;
    const lifted = liftedAtMs.find((atMs) => atMs > saidAtMs) ?? Infinity;
    const untilMs = Math.min(saidAtMs + silentMs, lifted);
    const spoken = list.filter(
      (request) =>
        bucketOf(request.kind) === bucketOf(kind) &&
        request.atMs > saidAtMs + ON_THE_WAY_MS &&
        request.atMs < untilMs,
    );
    if (spoken.length > 0) return [`${spoken.length} requests in the silence after a 429`];
  }
  return [];
}
