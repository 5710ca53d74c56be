import { stripVTControlCharacters } from 'node:util';

import Table from 'cli-table3';

import type { CommandContext } from './command.ts';
import type { Screen } from './screen.ts';

type Rows = readonly (readonly string[])[];

const GAP = '  ';

/** Columns are told apart by blanks alone: the same on every terminal, and in what is copied out of it. */
const NO_BORDERS = {
  ...{ top: '', 'top-mid': '', 'top-left': '', 'top-right': '' },
  ...{ bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '' },
  ...{ left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '', 'right-mid': '', middle: GAP },
};

/**
 * Rows of cells as lines: on a terminal wrapped within their columns to its width, in a pipe a line a row.
 * No word is cut; where words alone are wider than the terminal, so are the lines.
 */
export function layOut(rows: Rows, { columns }: Pick<Screen, 'columns'>): string[] {
  if (columns === null) return toTable(rows);
  if (rows.length === 0) return [];
  // A width of 0 would be none at all to the library.
  const colWidths = fit(rows, columns).map((width) => Math.max(1, width));
  const table = new Table({
    ...{ chars: NO_BORDERS, colWidths, wordWrap: true },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  });
  table.push(...rows.map((row) => colWidths.map((_, at) => row[at] ?? '')));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd());
}

/** Says one line, on a terminal wrapped between words. */
export function tell(context: Pick<CommandContext, 'stdout' | 'screen'>, line: string): void {
  for (const part of layOut([[line]], context.screen)) context.stdout(part);
}

/** Rows of cells as lines of aligned columns, without trailing blanks. Pure. */
export function toTable(rows: Rows): string[] {
  const widths = widthsOf(rows, widthOf);
  return rows.map((row) =>
    row
      .map((cell, at) => cell + ' '.repeat((widths[at] ?? 0) - widthOf(cell)))
      .join(GAP)
      .trimEnd(),
  );
}

/** As wide as the cells are, or the widest made narrower until all fit; none narrower than its longest word. */
function fit(rows: Rows, columns: number): number[] {
  const widths = widthsOf(rows, widthOf);
  const least = widthsOf(rows, longestWord);
  let over = sum(widths) + GAP.length * (widths.length - 1) - columns;
  while (over > 0) {
    const shrinkable = widths.filter((width, at) => width > (least[at] ?? 0));
    if (shrinkable.length === 0) break;
    const widest = Math.max(...shrinkable);
    const at = widths.findIndex((width, nth) => width === widest && width > (least[nth] ?? 0));
    widths[at] = widest - 1;
    over--;
  }
  return widths;
}

/** Of each column. */
function widthsOf(rows: Rows, measure: (cell: string) => number): number[] {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [at, cell] of row.entries()) {
      widths[at] = Math.max(widths[at] ?? 0, measure(cell));
    }
  }
  return widths;
}

function widthOf(cell: string): number {
  return stripVTControlCharacters(cell).length;
}

function longestWord(cell: string): number {
  return Math.max(1, ...cell.split(/\s+/).map(widthOf));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}

/** `1 event`, `2 events`. */
export function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
