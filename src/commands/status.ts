import { readGenerations, type OtherGenerations } from '../mirror/generations.ts';
import { describeAge } from '../readers/age.ts';
import { COUNTED } from '../readers/consumers.ts';
import { listParkedReasons, type ParkedReason } from '../readers/parked.ts';
import { readQueueCounts } from '../queueCounts.ts';
import { createStatusReader } from '../readers/status.ts';
import { withMirror } from './foreground.ts';
import { PIPE, type Screen } from './screen.ts';
import { countOf, layOut } from './table.ts';

import type { StatusView } from '../readers/statusView.ts';
import type { CommandContext, ExitCode } from './command.ts';

/** Different reasons shown; a single cause has one or a few. */
const REASONS = 10;
/** Gaps shown for a person; `--json` and `sync_status` hold some more. */
const GAPS = 5;

export type Status = StatusView & {
  readonly parked: readonly ParkedReason[];
  readonly generations: OtherGenerations;
};

/** `rollcall status`: how complete the mirror is; exit 3 where that is not "complete" without a "but". */
export async function run(context: CommandContext): Promise<ExitCode> {
  return withMirror(context, async (mirror, databaseUrl) => {
    const { config } = context;
    const queues = () => readQueueCounts({ config, databaseUrl, mirror });
    const view = await createStatusReader(mirror)(queues);
    const status: Status = {
      ...view,
      parked: await listParkedReasons(mirror, REASONS),
      generations: await readGenerations(mirror.db, mirror, config.TOMBSTONE_RETENTION_DAYS),
    };
    if (context.json) context.stdout(JSON.stringify(status));
    else for (const line of toLines(status, context.screen)) context.stdout(line);
    return isFine(status) ? 0 : 3;
  });
}

/** Complete, without a gap or drift, and nothing waits for a person. */
function isFine(status: Status): boolean {
  const { state, gaps, events, heldDeletions, driftRemains, endpoints, consumers } = status;
  return (
    state === 'complete' &&
    gaps + events.parked + heldDeletions === 0 &&
    !driftRemains &&
    endpoints.every((one) => one.state === 'active' && one.parked === 0) &&
    !consumers.some((one) => one.isCutOff)
  );
}

const COLOURS = { complete: 'green', filling: 'cyan', behind: 'yellow', blocked: 'red' } as const;

/** The sentence, then a table. Pure. */
export function toLines(status: Status, screen: Screen = PIPE): string[] {
  const { sentence, state, users, heldDeletions, lastError } = status;
  const { paint } = screen;
  const rows = [
    ['users', `${users.live} live, ${countOf(users.tombstones, 'tombstone')}`],
    ...section('watermarks', status.watermarks.map(describeWatermark), 'none: nothing pulled yet'),
    ...section('gaps', describeGaps(status), 'none'),
    ...section('last runs', status.lastRuns.map(describeLastRun), 'none yet'),
    ['sweep', describeSweep(status)],
    ['last sweep', describeLastSweep(status)],
    ['last proof', describeProof(status)],
    ['events', describeEvents(status)],
    ...section('parked', status.parked.map(describeParked), 'none'),
    ...section('queue', describeQueues(status), ''),
    ...section('webhooks', describeWebhooks(status.events), ''),
    ['held', describeHeld(heldDeletions)],
    ...describeGenerations(status.generations),
    ...section('budget', status.budget.map(describeBudget), 'no request sent yet'),
    ...(status.consumers.length > 0
      ? section('consumers', status.consumers.map(describeConsumer), '')
      : []),
    ...(status.endpoints.length > 0
      ? section('deliveries', status.endpoints.map(describeEndpoint), '')
      : []),
    ...(lastError ? [['last error', `${lastError.message} (${toMoment(lastError.at)})`]] : []),
  ];
  const table = rows.map(([heading = '', ...cells]) => [paint.dim(heading), ...cells]);
  return [paint[COLOURS[state]](paint.bold(`${sentence}.`)), ...layOut(table, screen)];
}

/** Several lines under one heading. */
function section(heading: string, lines: readonly string[], none: string): string[][] {
  const [first = none, ...others] = lines;
  return [[heading, first], ...others.map((line) => ['', line])];
}

function describeWatermark(watermark: Status['watermarks'][number]): string {
  const { pull, completeTo, lagSeconds } = watermark;
  const name = toPullName(pull);
  if (completeTo === null || lagSeconds === null) return `${name}  not begun`;
  return `${name}  ${toMoment(completeTo)}  ${describeAge(lagSeconds)} behind`;
}

function describeGaps({ gaps, gapWindows, gapsRefilledLastDay }: Status): string[] {
  const refilled =
    gapsRefilledLastDay === 0 ? '' : `; ${gapsRefilledLastDay} refilled in the last day`;
  if (gaps === 0) return [`none${refilled}`];
  const others = gaps - Math.min(gapWindows.length, GAPS);
  return [
    `${countOf(gaps, 'window')} not proven, to be read again${refilled}`,
    ...gapWindows.slice(0, GAPS).map(({ pull, from, to, since, reason }) => {
      const until = to === null ? 'now' : toMoment(to);
      const why = reason ?? 'no reason told';
      return `${toPullName(pull)}  ${toMoment(from)} to ${until}, a gap since ${toMoment(since)}: ${why}`;
    }),
    ...(others > 0 ? [`and ${others} more, in the table sync_windows`] : []),
  ];
}

function describeLastRun({ pull, outcome, at, reason }: Status['lastRuns'][number]): string {
  const why = reason === null ? '' : `: ${reason}`;
  return `${toPullName(pull)}  ${outcome} at ${toMoment(at)}${why}`;
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
  return `run ${runId}: ${outcome} at ${toMoment(finishedAt)}, ${read}`;
}

function describeProof(status: Status): string {
  const { lastProof, lastProofAgeSeconds, driftPpm, driftSample, driftRemains } = status;
  const remedy = driftRemains ? ' (`rollcall verify --repair` mends it)' : '';
  const measured = driftPpm === null ? 'not measured yet' : `${driftPpm.toFixed(1)} ppm`;
  const how = driftSample === null ? '' : `, estimated from counts and a sample of ${driftSample}`;
  const drift = `drift ${measured}${how}${remedy}`;
  if (lastProof === null) return `none yet, ${drift}`;
  return `${toMoment(lastProof)}, ${describeAge(lastProofAgeSeconds ?? 0)} ago, ${drift}`;
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

function describeQueues({ queues, queueProblem }: Status): string[] {
  if (queueProblem !== null) return [`cannot be asked: ${queueProblem}`];
  return queues.map(({ name, waiting, active, delayed, failed }) => {
    const counts = `${waiting} waiting, ${active} active, ${delayed} delayed, ${failed} failed`;
    return `${name.padEnd('events'.length)}  ${counts}`;
  });
}

function describeWebhooks(events: Status['events']): string[] {
  return [
    describeArrival('last hour', events.lossRate, events.webhookDelaySeconds),
    describeArrival('last day ', events.lossRateDay, events.webhookDelayDaySeconds),
  ];
}

function describeArrival(span: string, lossRate: number | null, delay: number | null): string {
  const loss =
    lossRate === null
      ? 'loss not known: the audit trail told of no event'
      : `${(lossRate * 100).toFixed(1)} % lost`;
  const late = delay === null ? 'no webhook came' : `median delay ${delay.toFixed(1)} s`;
  return `${span}  ${loss}, ${late}`;
}

function describeHeld(held: number): string {
  return held === 0 ? 'none' : `${countOf(held, 'deletion')} (\`rollcall deletions list\`)`;
}

/** Only where there is anything beside the tables that are read. */
function describeGenerations({ hasNext, previous }: OtherGenerations): string[][] {
  const next = 'not ended (`rollcall rebuild` goes on, `--discard` gives it up)';
  const back = (until: string) =>
    `users_previous is kept until ${toMoment(until)} (\`rollcall rebuild --rollback\` goes back)`;
  const lines = [
    ...(hasNext ? [next] : []),
    ...(previous === null ? [] : [back(previous.keptUntil)]),
  ];
  return lines.length === 0 ? [] : section('rebuild', lines, '');
}

function describeBudget(budget: Status['budget'][number]): string {
  const { name, granted, throttled, silentUntil } = budget;
  const silent = silentUntil === null ? '' : `, silent until ${toMoment(silentUntil)}`;
  return `${name.padEnd('audit'.length)}  ${granted} sent, ${throttled} throttled${silent}`;
}

/** Told of in time: from when on half of what a consumer may be behind is used up. */
const WARNED_RATIO = 0.5;

function describeConsumer(consumer: Status['consumers'][number]): string {
  const { name, changes, lagSeconds, leftSeconds, usedRatio, isCutOff } = consumer;
  if (isCutOff) return `${name}  cut off: it has to take a snapshot and begin from feed_head()`;
  if (changes === 0) return `${name}  has read everything`;
  const behind = `${name}  ${countOf(changes, 'change')}${changes >= COUNTED ? ' or more' : ''} behind, the first ${describeAge(lagSeconds)} old`;
  if (leftSeconds === null || (usedRatio ?? 0) < WARNED_RATIO) return behind;
  return `${behind}: will be cut off in ${describeAge(leftSeconds)}`;
}

function describeEndpoint(endpoint: Status['endpoints'][number]): string {
  const { host, endpointId, state, reason, waiting, parked, oldestSeconds } = endpoint;
  const age = oldestSeconds === null ? '' : `, the oldest ${describeAge(oldestSeconds)} old`;
  const why = state === 'active' ? '' : `: ${reason ?? 'no reason told'}`;
  const remedy =
    state === 'active' && parked === 0 ? '' : ' (`rollcall deliveries list` tells what to do)';
  return `${host}  ${endpointId}  ${state}${why}; ${waiting} waiting, ${parked} parked${age}${remedy}`;
}

/** Names of pulls in a column. */
function toPullName(pull: string): string {
  return pull.padEnd('modified'.length);
}

/** An instant to the second, in the zone it is told in, whichever of Postgres's two spellings it has. */
function toMoment(instant: string): string {
  return instant
    .replace('T', ' ')
    .replace(/\.\d+/, '')
    .replace(/([+-]\d\d):00$/, '$1');
}
