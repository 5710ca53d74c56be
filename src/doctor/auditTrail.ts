import { DescopeRejected, DescopeUnauthorised } from '../errors.ts';
import { findOccurredMs, toFields } from '../inbox/fields.ts';
import { USER_ACTIONS } from '../pull/audit.ts';
import { AUDIT_RETENTION_MS } from '../pull/ledger.ts';
import { bad, ok, warning, type Check } from './check.ts';

import type { FoundAudit, Probe } from '../descope/probe.ts';

/* May we search the audit trail, and how far back? It tells of deletions that no webhook brought. */

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A webhook may come late; what is younger is not missed yet. */
const LATE_MS = 600_000;

export interface AuditFindings {
  readonly check: Check;
  /** Events about users in the last day, but for the last minutes; null where it was not told. */
  readonly lastDay: number | null;
}

/** @param nowMs by Descope's clock */
export async function checkAuditTrail(probe: Probe, nowMs: number): Promise<AuditFindings> {
  const name = 'audit trail';
  try {
    // An hour short of the limit: which of two clocks ran ahead must not decide.
    const fromMs = nowMs - AUDIT_RETENTION_MS + HOUR_MS;
    const all = await probe.searchAudit({ fromMs, toMs: nowMs, actions: [] });
    const lastDay = await probe.searchAudit({
      ...{ fromMs: nowMs - DAY_MS, toMs: nowMs - LATE_MS },
      actions: USER_ACTIONS,
    });
    return { check: ok(name, describe(all, nowMs)), lastDay: lastDay.total };
  } catch (error) {
    return { check: explain(name, error), lastDay: null };
  }
}

function describe({ total, records }: FoundAudit, nowMs: number): string {
  const searched = 'may be searched 30 days back';
  const oldestMs = findOccurredMs(toFields(records[0]));
  if (oldestMs === null) return `${searched}, and is empty`;
  const days = ((nowMs - oldestMs) / DAY_MS).toFixed(1);
  return `${searched}: ${total} events, the oldest ${days} days old`;
}

function explain(name: string, error: unknown): Check {
  if (error instanceof DescopeUnauthorised) {
    return bad(
      name,
      `the management key may not search the audit trail (HTTP ${error.status})`,
      'give it a role that may read audit (Company → Management Keys in the Descope console): ' +
        'without it, events that webhooks lose are found by sweeps only',
    );
  }
  if (error instanceof DescopeRejected) {
    return warning(
      name,
      `a search from 30 days ago is refused (HTTP ${error.status})`,
      'does the plan keep less? A downtime longer than it keeps costs a sweep; nothing is lost',
    );
  }
  throw error;
}
