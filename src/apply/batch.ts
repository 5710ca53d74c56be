import { sql } from 'drizzle-orm';

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
  unchanged: number;
  stale: number;
}

export type Present = Extract<Observation, { kind: 'present' }>;
type ChangeKind = 'created' | 'updated' | 'restored' | 'deleted';

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
    unchanged: 0,
    stale: 0,
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
    if (decision === 'stale') summary.stale++;
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

export async function insertChanges({ tx, t, changes, witness }: Batch): Promise<void> {
  if (changes.length === 0) return;
  const records = JSON.stringify(
    changes.map(({ userId, kind, changed, observedAt }) => {
      return { user_id: userId, kind, changed, observed_at: observedAt };
    }),
  );
  await tx.execute(sql`
    insert into ${t.userChanges} (user_id, kind, changed, observed_at, witness)
    select user_id, kind, changed, observed_at, ${witness}
    from jsonb_to_recordset(${records}::jsonb)
      as r(user_id text, kind text, changed text[], observed_at timestamptz)`);
}

/** Names of the top-level fields of the API's answer that differ; no values. */
export function changedFields(before: Record<string, unknown>, after: unknown): string[] {
  const now = after as Record<string, unknown>;
  const names = new Set([...Object.keys(before), ...Object.keys(now)]);
  return [...names].filter((name) => canonical(before[name]) !== canonical(now[name])).sort();
}

/** Equal texts for equal values, whatever the order of keys; an absent field has a text of its own. */
function canonical(value: unknown): string {
  if (value === undefined) return '';
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (inner === null || typeof inner !== 'object' || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
