import { UsageError } from '../errors.ts';
import { parseAskedChange } from '../inbox/changed.ts';
import {
  MOST_EVENTS,
  readPages,
  searchEvents,
  type TrailEvent,
  type TrailPage,
} from '../readers/trail.ts';
import { isAction, type TrailFilter } from '../readers/trailFilter.ts';
import { toTexts, TRAIL_FORMATS } from '../readers/trailText.ts';
import { parseInstant, parseWholeNumber } from './command.ts';
import { withMirror } from './foreground.ts';
import { layOut } from './table.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';
import type { Screen } from './screen.ts';

const FORMATS = ['table', ...TRAIL_FORMATS] as const;

/**
 * How it is told. lines: an event a line, its parts with tabs between, for other programs where no format
 * is asked for. json: a page in one line.
 */
type Format = (typeof FORMATS)[number] | 'lines' | 'json';

/** `rollcall events`: searches the audit trail, and exports it. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const filter = parseFilter(options);
  const isAll = options['all'] === true;
  const format = chooseFormat(context, options);
  if (isAll && filter.limit !== undefined) throw new UsageError('give --all or --limit, not both');
  return withMirror<ExitCode>(context, async (mirror) => {
    const search = (one: TrailFilter) => searchEvents(mirror, one, { signal: context.signal });
    if (format === 'json') context.stdout(JSON.stringify(await search(filter)));
    else if (isAll) await tell(context, readPages(search, filter), format);
    else {
      const page = await search(filter);
      await tell(context, only(page), format);
      if (format === 'table') tellRest(context, page);
    }
    return 0;
  });
}

/** @throws UsageError */
function parseFilter(options: CommandOptions): TrailFilter {
  const filter = {
    user: parseText(options, 'user'),
    actor: parseText(options, 'actor'),
    action: parseText(options, 'action'),
    tenant: parseText(options, 'tenant'),
    changed: parseText(options, 'changed'),
    since: parseInstant(options, 'since'),
    until: parseInstant(options, 'until'),
    limit: parseWholeNumber(options, 'limit', [1, MOST_EVENTS]),
  };
  if (filter.action !== undefined && !isAction(filter.action)) {
    throw new UsageError("--action must be a name, or its beginning and then *: 'User*'");
  }
  if (filter.changed !== undefined && parseAskedChange(filter.changed) === null) {
    throw new UsageError('--changed must be a field, or a field with a value: roleNames=admin');
  }
  return filter;
}

/** @throws UsageError where it is empty: that would leave the filter out */
function parseText(options: CommandOptions, name: string): string | undefined {
  const text = options[name];
  if (typeof text !== 'string') return undefined;
  if (text.trim() === '') throw new UsageError(`--${name} must not be empty`);
  return text.trim();
}

/** @throws UsageError */
function chooseFormat(context: CommandContext, { format, all }: CommandOptions): Format {
  if (context.json) {
    if (all === true || format !== undefined) {
      throw new UsageError('--json answers with one page in one line: take --format jsonl instead');
    }
    return 'json';
  }
  if (format === undefined) return context.screen.columns === null ? 'lines' : 'table';
  const known = FORMATS.find((one) => one === format);
  if (known === undefined) throw new UsageError(`--format must be one of ${FORMATS.join(', ')}`);
  return known;
}

async function* only({ events }: TrailPage): AsyncGenerator<readonly TrailEvent[], void> {
  yield await Promise.resolve(events);
}

/** Page by page, as fast as it is taken, and no further than it is read. */
async function tell(
  context: CommandContext,
  pages: AsyncIterable<readonly TrailEvent[]>,
  format: Exclude<Format, 'json'>,
): Promise<void> {
  const texts =
    format === 'table' || format === 'lines'
      ? toLines(context.screen, pages, format)
      : toTexts(pages, format);
  for await (const text of texts) if (!(await context.print(text))) return;
}

function tellRest(context: CommandContext, { events, next }: TrailPage): void {
  if (events.length === 0) context.stderr('no event matches');
  if (next !== null) context.stderr('there are older ones: --limit shows more of them, --all all');
}

const HEADINGS = ['occurred', 'action', 'actor', 'about', 'tenants', 'changed', 'state'];
/** Three ids and a moment side by side are as wide; on a narrower terminal they would be cut in the middle. */
const TABLE_COLUMNS = 140;

async function* toLines(
  screen: Screen,
  pages: AsyncIterable<readonly TrailEvent[]>,
  format: 'table' | 'lines',
): AsyncGenerator<string, void> {
  let isFirst = true;
  const isNarrow = screen.columns !== null && screen.columns < TABLE_COLUMNS;
  for await (const events of pages) {
    const cells = events.map((event) => toCells(event, format === 'table' ? LISTED : Infinity));
    // A table's columns are as wide as a page needs; a heading without anything below it says nothing.
    const lines =
      format === 'lines'
        ? cells.map((row) => row.join('\t'))
        : isNarrow
          ? cells.flatMap((row) => toBlock(row, screen))
          : layOut(isFirst && cells.length > 0 ? [HEADINGS, ...cells] : cells, screen);
    isFirst = false;
    yield lines.map((line) => `${line}\n`).join('');
  }
}

/** An event as a line of its own, and below it what else is known of it. */
function toBlock(cells: readonly string[], screen: Screen): string[] {
  const [occurred = '', action = '', ...others] = cells;
  const rest = others
    .map((cell, at) => ['', HEADINGS[at + 2] ?? '', cell])
    .filter(([, , cell]) => cell !== '–');
  return [`${occurred}  ${screen.paint.bold(action)}`, ...layOut(rest, screen)];
}

function toCells(event: TrailEvent, most: number): string[] {
  const { occurredAt, action, actorId, userIds, loginIds, tenantIds, changed, state } = event;
  const whom = userIds.length > 0 ? userIds : loginIds;
  return [
    occurredAt.replace(/\d{3}Z$/, 'Z'),
    action,
    actorId ?? '–',
    toList(whom, most),
    toList(tenantIds, most),
    toList(changed, most),
    state,
  ].map(toPlain);
}

/** Of the hundreds that a batch event names, a person is told the first. */
const LISTED = 3;

function toList(names: readonly string[], most: number): string {
  if (names.length === 0) return '–';
  const more = names.length > most ? [`and ${names.length - most} more`] : [];
  return [...names.slice(0, most), ...more].join(' ');
}

/** What somebody else wrote must not move the cursor, or pass for a column of its own. */
function toPlain(cell: string): string {
  return cell.replaceAll(/\p{C}/gu, '�');
}
