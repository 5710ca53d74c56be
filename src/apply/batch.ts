import { sql } from 'drizzle-orm';

import { parseJson, toCanonicalJson } from '../json.ts';
import { decide, type Decision, type StoredUser } from './ordering.ts';

import type { Executor } from '../mirror/database.ts';
import type { MirrorTables } from '../mirror/schema.ts';
import type { Instant, Observation, Witness } from '../observation.ts';

/** What a batch did: the log line, the metric and the test's assertion at once. Lists hold user ids. */
export interface ApplySummary {
  readonly created: string[];
  readonly updated: string[];
  readonly restored: string[];
  readonly deleted: string[];
  /** Newer pages that show tombstoned users: load these by id to learn which of the two is right. */
  readonly refused: string[];
  /** Seen older than what the mirror has, and so not written. */
  readonly stale: string[];
  /** Erased by a person, and so never written. */
  readonly erased: string[];
  unchanged: number;
}

/** Who is created is told of by the statement that inserts them. */
type ChangeKind = 'updated' | 'restored' | 'deleted';

interface Change {
  readonly userId: string;
  readonly kind: ChangeKind;
  readonly changed: readonly string[];
  readonly observedAt: Instant;
}

/** Everything the steps below share. */
export interface Batch {
  readonly tx: Executor;
  readonly t: MirrorTables;
  readonly witness: Witness;
  readonly summary: ApplySummary;
  readonly changes: Change[];
}

export function emptySummary(): ApplySummary {
  return {
    created: [],
    updated: [],
    restored: [],
    deleted: [],
    refused: [],
    stale: [],
    erased: [],
    unchanged: 0,
  };
}

export interface Decided {
  readonly observation: Observation;
  readonly decision: Decision;
  readonly isNew: boolean;
}

export function decideAll(
  observations: readonly Observation[],
  stored: ReadonlyMap<string, StoredUser>,
): Decided[] {
  return observations.map((observation) => {
    const known = stored.get(observation.userId);
    return { observation, decision: decide(observation, known), isNew: known === undefined };
  });
}

export function tally(summary: ApplySummary, decided: readonly Decided[]): void {
  for (const { decision, observation } of decided) {
    if (decision === 'unchanged' || decision === 'touch') summary.unchanged++;
    if (decision === 'stale') summary.stale.push(observation.userId);
    if (decision === 'refused') summary.refused.push(observation.userId);
  }
}

export function note(
  { summary, changes }: Batch,
  observation: Observation,
  kind: ChangeKind,
  changed: readonly string[],
): void {
  const { userId, observedAt } = observation;
  summary[kind].push(userId);
  changes.push({ userId, kind, changed, observedAt });
}

/** Whether these are the tables that applications read, and the feed tells of. */
export function isRead({ generation }: MirrorTables): boolean {
  return generation === '';
}

/** Writes what was noted to the feed: the last statement of a batch, after the locks of its users. */
export async function insertChanges({ tx, t, changes, witness }: Batch): Promise<void> {
  if (changes.length === 0 || !isRead(t)) return;
  const records = JSON.stringify(
    changes.map(({ userId, kind, changed, observedAt }) => {
      return { user_id: userId, kind, changed, observed_at: observedAt };
    }),
  );
  // The feed is read in the order of transactions, and one that began first may change a user last: such
  // a row takes the place of the user's row before it. Theirs is committed, or we would wait for its lock.
  await tx.execute(sql`
    insert into ${t.userChanges} (user_id, kind, changed, observed_at, witness, transaction_id)
    select r.user_id, r.kind, r.changed, r.observed_at, ${witness},
           greatest(pg_current_xact_id(), (select before.transaction_id
                                           from ${t.userChanges} as before
                                           where before.user_id = r.user_id
                                           order by before.seq desc limit 1))
    from jsonb_to_recordset(${records}::jsonb)
      as r(user_id text, kind text, changed text[], observed_at timestamptz)`);
}

/** Names of the top-level fields of the API's answer that differ, of two answers as JSON text; no values. */
export function changedFields(before: string, after: string): string[] {
  const old = toTexts(before);
  const now = toTexts(after);
  const names = new Set([...old.keys(), ...now.keys()]);
  return [...names].filter((name) => old.get(name) !== now.get(name)).sort();
}

/** Each field as text: equal for equal values, whatever the order of keys, past 2^53 too. */
function toTexts(json: string): Map<string, string> {
  const fields = parseJson(json) as Record<string, unknown>;
  return new Map(Object.entries(fields).map(([name, value]) => [name, toCanonicalJson(value)]));
}
