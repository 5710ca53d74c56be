import pc from 'picocolors';

type Colours = ReturnType<typeof pc.createColors>;

/** What an answer is written on. */
export interface Screen {
  /** Characters in a line; null: not a terminal but a pipe or a file, whose reader wants one row a line. */
  readonly columns: number | null;
  /** Adds colour, or nothing where none is wanted. */
  readonly paint: Colours;
}

/** What of a stream and of the environment decides how it is written on. */
export interface Stream {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

const DEFAULT_COLUMNS = 80;
/** Narrower, a table would be one word a line. */
const LEAST_COLUMNS = 40;

export const PIPE: Screen = { columns: null, paint: pc.createColors(false) };

/**
 * A terminal is as wide as it says, and coloured unless `NO_COLOR` is set or `TERM` is `dumb`. `FORCE_COLOR`
 * colours a pipe too; anything but 0 counts.
 */
export function createScreen(
  { isTTY = false, columns = DEFAULT_COLUMNS }: Stream,
  env: Readonly<Record<string, string | undefined>>,
): Screen {
  return {
    columns: isTTY ? Math.max(LEAST_COLUMNS, columns) : null,
    paint: pc.createColors(wantsColour(isTTY, env)),
  };
}

function wantsColour(isTTY: boolean, env: Readonly<Record<string, string | undefined>>): boolean {
  const { NO_COLOR = '', FORCE_COLOR = '', TERM } = env;
  if (NO_COLOR !== '') return false;
  if (FORCE_COLOR !== '') return !['0', 'false'].includes(FORCE_COLOR);
  return isTTY && TERM !== 'dumb';
}
