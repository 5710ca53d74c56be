import { describeAge } from './age.ts';

import type { Instant } from '../observation.ts';
import type { Explanation, KnownDeletion, ToldEvent, WrittenChange } from './explain.ts';

/** Something that happened to a user, or (`at` null) that is still so. */
export interface StoryLine {
  readonly at: Instant | null;
  readonly about: 'event' | 'change' | 'deletion';
  /** For a person; no personal data. */
  readonly text: string;
}

/** What came, what was written and what was decided, in order of time; what is still so comes last. Pure. */
export function toStory(
  known: Pick<Explanation, 'events' | 'changes' | 'deletions'>,
): readonly StoryLine[] {
  const lines = [
    ...known.events.flatMap(tellEvent),
    ...known.changes.map(tellChange),
    ...known.deletions.flatMap(tellDeletion),
  ];
  // A stable sort: what happened in one and the same moment stays in the order above.
  return lines.sort((a, b) => compare(a.at ?? 'now', b.at ?? 'now'));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

/** Digits enough to tell a user's events apart. */
const shortId = (eventId: string) => eventId.slice(0, 8);

function tellEvent(event: ToldEvent): StoryLine[] {
  const name = `${event.action} (event ${shortId(event.eventId)})`;
  const but = event.perhapsAnothers ? ", perhaps another user's then" : '';
  const named = event.byLoginId ? `, naming a login id only${but}` : '';
  const witnesses = [
    ['webhook', event.webhookAt, ''],
    ['audit', event.auditAt, event.webhookAt === null ? ', no webhook brought it so far' : ''],
    ['archive', event.archiveAt, ''],
  ] as const;
  const lines: StoryLine[] = witnesses.flatMap(([witness, at, alone]) => {
    if (at === null) return [];
    const told = `told by ${witness} ${describeDelay(event.occurredAt, at)}`;
    return [{ at, about: 'event', text: `${name} ${told}${named}${alone}` }];
  });
  const looks = event.looks > 1 ? ` after ${event.looks} looks` : '';
  if (event.appliedAt !== null) {
    const text = `${name} applied${looks}: ${event.outcome ?? 'done'}`;
    lines.push({ at: event.appliedAt, about: 'event', text });
  }
  const now = tellWaiting(event);
  if (now !== null) lines.push({ at: null, about: 'event', text: `${name} ${now}` });
  return lines;
}

/** How long after its moment an event was told of. The two clocks differ: a little before it is at once. */
function describeDelay(occurredAt: Instant, toldAt: Instant): string {
  const seconds = (Date.parse(toldAt) - Date.parse(occurredAt)) / 1000;
  const late = seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : describeAge(seconds);
  return `${late} after ${occurredAt}`;
}

function tellWaiting({ state, attempts, error, outcome, dueAt }: ToldEvent): string | null {
  const tries = attempts === 1 ? '1 attempt' : `${attempts} attempts`;
  if (state === 'parked') return `given up after ${tries}: ${error ?? 'no reason told'}`;
  if (state === 'archived') return 'kept without being acted on';
  if (state !== 'pending') return null;
  const why = error === null ? outcome : `${error}, ${tries}`;
  return `waits to be looked at from ${dueAt}${why === null ? '' : ` (${why})`}`;
}

function tellChange({ kind, changed, observedAt, writtenAt, witness }: WrittenChange): StoryLine {
  const fields = changed.length === 0 ? '' : `: ${changed.join(', ')}`;
  const text = `${kind} by ${witness}, as observed at ${observedAt}${fields}`;
  return { at: writtenAt, about: 'change', text };
}

/** What a decision meant, by the state it led to. */
const DECISIONS: Readonly<Record<string, string>> = {
  tombstoned: 'tombstoned',
  present: 'dropped, the user is there',
  rejected: 'rejected by a person, the user stays',
  superseded: 'superseded by a newer finding',
};

/** Why a deletion is not decided, by the state it is in. */
const WAITS: Readonly<Record<string, string>> = {
  suspected: 'suspected, to be loaded by id',
  verified: 'verified, to be decided when its run ends',
  held: 'held: more at once than the breaker allows; `rollcall deletions` decides',
};

function tellDeletion(deletion: KnownDeletion): StoryLine[] {
  const { state, witness, runId, pull, nominatedAt, verifiedAt, decidedAt, evidence } = deletion;
  const name = `deletion ${deletion.deletionId}`;
  const why = evidence === null ? '' : ` (${evidence})`;
  const told = (at: Instant | null, text: string): StoryLine => ({
    at,
    about: 'deletion',
    text: `${name} ${text}`,
  });
  const found =
    runId === null
      ? `nominated: reported by ${witness}`
      : `nominated: not found by run ${runId}, a ${pull ?? witness}`;
  // What events report is looked at first: the deletion is entered with its proof.
  const isProven = verifiedAt !== null && verifiedAt <= nominatedAt;
  const proof = 'verified: a load by id says gone';
  const lines = [told(nominatedAt, isProven ? `${found}, ${proof} at ${verifiedAt}` : found)];
  if (verifiedAt !== null && !isProven) lines.push(told(verifiedAt, proof));
  if (decidedAt !== null) {
    // Entered and decided in one statement, which tells both moments in no order of its own.
    const at = decidedAt < nominatedAt ? nominatedAt : decidedAt;
    lines.push(told(at, `${DECISIONS[state] ?? state}${why}`));
  }
  if (decidedAt === null) lines.push(told(null, `${WAITS[state] ?? state}${why}`));
  return lines;
}
