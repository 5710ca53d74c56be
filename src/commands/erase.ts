import { eraseUser, undoErasure, type Erased } from '../apply/erase.ts';
import { findCode, hidePersonalData, UsageError } from '../errors.ts';
import { whileLogged } from '../mirror/adminLog.ts';
import { withMirror } from './foreground.ts';
import { tell } from './table.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/**
 * `rollcall erase <userId>`: removes one person's data from every table, for good; `--undo` takes back that
 * the user is kept out.
 */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const { user } = options;
  if (typeof user !== 'string' || user.trim() === '') throw new UsageError('erase: say which user');
  // The proof keeps what is said here for good.
  if (hidePersonalData(user) !== user) {
    throw new UsageError('erase wants a user id: `rollcall explain` tells whose a login id is');
  }
  return options['undo'] === true ? undo(context, user) : erase(context, user, options);
}

async function erase(
  context: CommandContext,
  userId: string,
  options: CommandOptions,
): Promise<ExitCode> {
  const { by, also } = options;
  if (!(await isMeant(context, options))) {
    if (context.json) context.stdout(JSON.stringify({ erased: false, reason: 'not confirmed' }));
    else context.stdout('nothing was done');
    return 3;
  }
  return withMirror<ExitCode>(context, async (mirror) => {
    const request = {
      userId,
      // It may be the person who asked.
      by: hidePersonalData(typeof by === 'string' && by.trim() !== '' ? by : 'command'),
      also: Array.isArray(also) ? (also as readonly string[]) : [],
      unknownToo: options['evenUnknown'] === true,
    };
    // Not which user: the proof says so, and that is all there is to be.
    const done = await whileLogged(
      mirror,
      { actor: 'command', action: 'erase', detail: { by: request.by } },
      () => eraseUser(mirror, request, context.signal).catch(explainRefusal),
      (erased) => (erased === null ? { known: false } : { ...erased.counts }),
    );
    if (done === null) return tellUnknown(context);
    if (context.json) context.stdout(JSON.stringify({ erased: true, ...done }));
    else for (const line of toLines(done)) tell(context, line);
    return 0;
  });
}

/** Where somebody has taken our role's rights on what a rebuild has left. */
function explainRefusal(error: unknown): never {
  if (findCode(error) !== '42501') throw error;
  throw new UsageError(
    'the user of DATABASE_URL may not read and write all tables of the mirror, and the person is still there: run ' +
      'it as the owner of the tables, or first let `rollcall rebuild --drop-previous` run as the owner',
  );
}

/** Whether somebody said yes. @throws UsageError where nobody can be asked */
async function isMeant(context: CommandContext, options: CommandOptions): Promise<boolean> {
  if (options['yes'] === true) return true;
  if (context.confirm === null) {
    throw new UsageError('erase: nobody is here to be asked; say --yes if it is meant');
  }
  const question =
    'Remove everything the mirror holds of this user, for good, and never mirror them again?';
  return context.confirm(question);
}

function tellUnknown(context: CommandContext): ExitCode {
  const reason =
    'nothing is known of this user: no row, no event, no change, no deletion ' +
    '(--even-unknown erases them all the same, and keeps them out from now on)';
  if (context.json) context.stdout(JSON.stringify({ erased: false, reason }));
  else tell(context, reason);
  return 3;
}

/** Pure. */
function toLines({ userId, erasedAt, again, counts }: Erased): string[] {
  const rows = Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([table, count]) => `${table.replace('_', ' ')} ${count}`);
  const removed = rows.length === 0 ? 'nothing was left of them' : `removed: ${rows.join(', ')}`;
  const first = again ? `${userId} had been erased at ${erasedAt}` : `${userId} is erased`;
  return [
    `${first}; ${removed}`,
    'They are not mirrored again, also where Descope still has them (`--undo` takes that back).',
  ];
}

async function undo(context: CommandContext, userId: string): Promise<ExitCode> {
  return withMirror<ExitCode>(context, async (mirror) => {
    const undone = await whileLogged(
      mirror,
      { actor: 'command', action: 'erase undo', detail: { userId } },
      () => undoErasure(mirror, userId),
      (done) => ({ undone: done }),
    );
    if (context.json) context.stdout(JSON.stringify({ undone }));
    else {
      tell(
        context,
        undone
          ? `${userId} may be mirrored again: the next sweep does, or \`rollcall verify --repair\``
          : `${userId} was not erased`,
      );
    }
    return undone ? 0 : 3;
  });
}
