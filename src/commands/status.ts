import { listParkedReasons, type ParkedReason } from '../readers/parked.ts';
import { readStatus } from '../readers/status.ts';
import { withMirror } from './foreground.ts';
import { countOf, toTable } from './table.ts';

import type { StatusView } from '../readers/statusView.ts';
import type { CommandContext, ExitCode } from './command.ts';

/** Different reasons shown; a single cause has one or a few. */
const REASONS = 10;

/** What the answer holds: the queue is left out, it would need a connection of its own. */
export type Status = Omit<StatusView, 'queues'> & { readonly parked: readonly ParkedReason[] };

/** `rollcall status`: how complete the mirror is; exit 3 where that is not "complete" without a "but". */
export async function run(context: CommandContext): Promise<ExitCode> {
  return withMirror(context, async (mirror) => {
    const view = await readStatus(mirror, () => Promise.resolve([]));
    const status: Status = { ...view, parked: await listParkedReasons(mirror, REASONS) };
    if (context.json) context.stdout(JSON.stringify({ ...status, queues: undefined }));
    else for (const line of toLines(status)) context.stdout(line);
    return isFine(status) ? 0 : 3;
  });
}

/** Complete, without a gap, and nothing waits for a person. */
function isFine({ state, gaps, events, heldDeletions }: Status): boolean {
  return state === 'complete' && gaps === 0 && events.parked === 0 && heldDeletions === 0;
}

/** The sentence, then a table. Pure. */
export function toLines(status: Status): string[] {
  const { sentence, users, gaps, heldDeletions, lastError, driftPpm, lastProof } = status;
  const rows = [
    ['users', `${users.live} live, ${countOf(users.tombstones, 'tombstone')}`],
    ...section('watermarks', status.watermarks.map(describeWatermark), 'none: nothing pulled yet'),
    ['gaps', gaps === 0 ? 'none' : `${countOf(gaps, 'window')} not proven, to be read again`],
    ['sweep', describeSweep(status)],
    ['last sweep', describeLastSweep(status)],
    ['last proof', describeProof(lastProof, driftPpm)],
    ['events', describeEvents(status)],
    ...section('parked', status.parked.map(describeParked), 'none'),
    ['webhooks', describeLoss(status.events.lossRate)],
    ['held', describeHeld(heldDeletions)],
    ...section('budget', status.budget.map(describeBudget), 'no request sent yet'),
    ...(lastError ? [['last error', `${lastError.message} (${lastError.at})`]] : []),
  ];
  return [`${sentence}.`, ...toTable(rows)];
}

/** Several lines under one heading. */
function section(heading: string, lines: readonly string[], none: string): string[][] {
  const [first = none, ...others] = lines;
  return [[heading, first], ...others.map((line) => ['', line])];
}

function describeWatermark(watermark: Status['watermarks'][number]): string {
  const { pull, completeTo, lagSeconds } = watermark;
  const name = pull.padEnd('modified'.length);
  if (completeTo === null || lagSeconds === null) return `${name}  not begun`;
  return `${name}  ${completeTo}  ${describeAge(lagSeconds)} behind`;
}

function describeSweep({ sweep }: Status): string {
  if (!sweep) return 'none under way';
  const { runId, rowsRead, total, windowsProven, windowsOpen, requests } = sweep;
  const of = total === null ? '' : ` of ${total}`;
  const windows = `${windowsProven} of ${countOf(windowsProven + windowsOpen, 'window')}`;
  return `run ${runId}: ${rowsRead}${of} users, ${windows}, ${countOf(requests, 'request')}`;
}

function describeLastSweep({ lastSweep }: Status): string {
  if (!lastSweep) return 'none yet';
  const { runId, outcome, finishedAt, rowsRead, requests } = lastSweep;
  const read = `${countOf(rowsRead, 'user')} with ${countOf(requests, 'request')}`;
  return `run ${runId}: ${outcome} at ${finishedAt}, ${read}`;
}

function describeProof(lastProof: string | null, driftPpm: number | null): string {
  const drift = driftPpm === null ? 'drift not measured yet' : `drift ${driftPpm.toFixed(1)} ppm`;
  return `${lastProof ?? 'none yet'}, ${drift}`;
}

function describeEvents({ events }: Status): string {
  const { pending, parked, receivedLastHour, appliedLastHour } = events;
  return (
    `${pending} pending, ${parked} parked; ` +
    `in the last hour ${receivedLastHour} received, ${appliedLastHour} applied`
  );
}

function describeParked({ events, reason }: ParkedReason): string {
  return `${events} × ${reason} (\`rollcall replay --failed\` tries again)`;
}

function describeLoss(lossRate: number | null): string {
  return lossRate === null
    ? 'loss not known: the audit trail told of no event in the last hour'
    : `${(lossRate * 100).toFixed(1)} % lost in the last hour`;
}

function describeHeld(held: number): string {
  return held === 0 ? 'none' : `${countOf(held, 'deletion')} (\`rollcall deletions list\`)`;
}

function describeBudget(budget: Status['budget'][number]): string {
  const { name, granted, throttled, silentUntil } = budget;
  const silent = silentUntil === null ? '' : `, silent until ${silentUntil}`;
  return `${name.padEnd('audit'.length)}  ${granted} sent, ${throttled} throttled${silent}`;
}

/** Coarser the older: seconds below two minutes, then minutes, hours, days. */
function describeAge(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7_200) return `${Math.round(whole / 60)} min`;
  return whole < 172_800 ? `${Math.round(whole / 3_600)} h` : `${Math.round(whole / 86_400)} days`;
}
