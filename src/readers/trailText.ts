import { stringify } from 'csv-stringify/sync';

import type { TrailEvent } from './trail.ts';

/*
 * In: pages of the audit trail. Out: the same as text, a page at a time, for a file or a pipe.
 */

/** csv: RFC 4180 with a heading, for spreadsheets; jsonl: one event a line, as the API answers it. */
export const TRAIL_FORMATS = ['csv', 'jsonl'] as const;
export type TrailFormat = (typeof TRAIL_FORMATS)[number];

/** Columns of the CSV, in their order; who did what to whom comes first. */
const COLUMNS = [
  ...['occurredAt', 'action', 'actorId', 'userIds', 'loginIds', 'tenantIds', 'changed', 'change'],
  ...['state', 'outcome', 'firstWitness', 'receivedAt', 'eventId'],
] as const;

/** One text a page that holds anything; holds no more than that. */
export async function* toTexts(
  pages: AsyncIterable<readonly TrailEvent[]>,
  format: TrailFormat,
): AsyncGenerator<string, void> {
  let isFirst = true;
  for await (const events of pages) {
    const text = format === 'csv' ? toCsv(events, isFirst) : toJsonLines(events);
    isFirst = false;
    if (text !== '') yield text;
  }
}

function toJsonLines(events: readonly TrailEvent[]): string {
  return events.map((event) => `${JSON.stringify(event)}\n`).join('');
}

/** What a spreadsheet would take for a formula gets an apostrophe: anyone may choose a name such as `=1+1`. */
function toCsv(events: readonly TrailEvent[], header: boolean): string {
  return stringify(events.map(toCells), { header, columns: COLUMNS, escape_formulas: true });
}

function toCells(event: TrailEvent): Record<string, string | null> {
  const { userIds, loginIds, tenantIds, changed, change } = event;
  return {
    ...event,
    userIds: userIds.join(' '),
    loginIds: loginIds.join(' '),
    tenantIds: tenantIds.join(' '),
    changed: changed.join(' '),
    change: change === null ? null : JSON.stringify(change),
  };
}
