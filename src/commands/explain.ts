import { UsageError } from '../errors.ts';
import { readExplain, type Explanation, type PresentState } from '../readers/explain.ts';
import { withMirror } from './foreground.ts';
import { PIPE, type Screen } from './screen.ts';
import { layOut, tell } from './table.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** `rollcall explain <user>`: everything known about one user. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const { user } = options;
  if (typeof user !== 'string' || user === '') throw new UsageError('explain: say which user');
  return withMirror(context, async (mirror) => {
    const explanation = await readExplain(mirror, user);
    if (explanation === null) {
      // What was asked for is not repeated: it may be a mail address.
      const reason = 'nothing is known of this user: no row, no event, no change, no deletion';
      if (context.json) context.stdout(JSON.stringify({ known: false, reason }));
      else tell(context, reason);
      return 3;
    }
    if (context.json) context.stdout(JSON.stringify({ known: true, ...explanation }));
    else for (const line of toLines(explanation, context.screen)) tell(context, line);
    return 0;
  });
}

/** Pure. */
export function toLines(explanation: Explanation, screen: Screen = PIPE): string[] {
  const { userId, others, present, erased, story, windows, truncated } = explanation;
  // What was asked for is not repeated: it may be a mail address.
  const who = userId ?? 'a login id that no user in the mirror has or had';
  const lines = [userId === null ? who : `${who}: ${describePresent(present)}`];
  if (erased !== null) {
    lines.push(
      `erased at ${erased.erasedAt} (${erased.erasedBy}): nothing of it is kept or mirrored`,
    );
  }
  if (others.length > 0) lines.push(`this login id was also that of ${others.join(', ')}`);
  lines.push('');
  if (truncated) lines.push('… and older ones, in the tables events, user_changes and deletions');
  const { paint } = screen;
  const rows = story.map(({ at, about, text }) => [paint.dim(at ?? 'now'), about, text]);
  const none = ['no event, change or deletion is recorded'];
  lines.push(...(rows.length > 0 ? layOut(rows, screen) : none));
  if (erased !== null) return lines;
  lines.push('', ...windows.map(describeWindow));
  if (windows.length === 0) lines.push('no pull has read the time of its creation or last change');
  return lines;
}

function describePresent(present: PresentState | null): string {
  if (present === null) return 'not in the mirror';
  const { state, deletedAt, observedAt, witness, createdTime, test } = present;
  const since = state === 'live' ? 'live' : `tombstone since ${deletedAt ?? 'unknown'}`;
  const created = createdTime === null ? '' : `; created ${createdTime}`;
  return `${since}, last written by ${witness}, observed at ${observedAt}${created}${test ? '; a test user' : ''}`;
}

function describeWindow(window: Explanation['windows'][number]): string {
  const { pull, runId, windowId, state, provenAt, outcome, error } = window;
  const proven = provenAt === null ? state : `proven at ${provenAt}`;
  const reason = error === null ? '' : ` (${error})`;
  // A run of the modified pull is one window, and no better or worse than that.
  const run = pull === 'sweep' ? `sweep ${runId} (${outcome ?? 'under way'})` : `modified ${runId}`;
  const what = pull === 'sweep' ? 'creation' : 'last change';
  return `${run}: its ${what} lies in window ${windowId}, ${proven}${reason}`;
}
