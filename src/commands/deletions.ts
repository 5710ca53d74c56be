import { approveHeld, rejectHeld } from '../apply/held.ts';
import { hidePersonalData, UsageError } from '../errors.ts';
import { detailOfUsers, whileLogged, type AdminAction } from '../mirror/adminLog.ts';
import { listHeld, listNotHeld, type HeldDeletion } from '../readers/deletions.ts';
import { withEngine, withMirror } from './foreground.ts';
import { countOf, layOut } from './table.ts';

import type { Mirror } from '../mirror/database.ts';
import type { CommandContext, CommandOptions, ExitCode } from './command.ts';
import type { Screen } from './screen.ts';

const ACTIONS = { list, approve, reject } as const;

/** So many are listed; the table `deletions` holds them all. */
const LISTED = 1_000;
/** So many unknown ids are named. */
const NAMED = 5;

/** `rollcall deletions list|approve|reject [ids…]`: the breaker's held deletions. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const { action, ids } = options;
  const userIds = Array.isArray(ids) ? [...new Set<string>(ids as readonly string[])] : [];
  if (action !== 'list' && action !== 'approve' && action !== 'reject') {
    throw new UsageError(`deletions: say one of ${Object.keys(ACTIONS).join(', ')}`);
  }
  return ACTIONS[action](context, userIds);
}

async function list(context: CommandContext, userIds: readonly string[]): Promise<ExitCode> {
  return withMirror<ExitCode>(context, async (mirror) => {
    await assertHeld(mirror, userIds);
    const found = await listHeld(mirror, userIds, LISTED);
    const { held, deletions } = found;
    if (context.json) context.stdout(JSON.stringify(found));
    else if (held === 0) context.stdout('no deletions are held');
    else {
      for (const line of layOut(toRows(deletions, context.screen), context.screen)) {
        context.stdout(line);
      }
      if (held > deletions.length) {
        context.stdout(`… and ${held - deletions.length} more, in the table deletions`);
      }
      const them = held === 1 ? 'it' : 'them';
      context.stderr(
        `${countOf(held, 'deletion')} held: \`rollcall deletions approve\` carries ${them} out, ` +
          `\`reject\` drops ${them}`,
      );
    }
    return held === 0 ? 0 : 3;
  });
}

const HEADINGS = ['user', 'nominated', 'verified', 'witness', 'evidence'];

function toRows(deletions: readonly HeldDeletion[], { columns, paint }: Screen): string[][] {
  // Exact in a pipe; for eyes to the second, and in two words, so that a narrow column can hold them.
  const told = (instant: string) =>
    columns === null ? instant : `${instant.slice(0, 19).replace('T', ' ')}Z`;
  return [
    HEADINGS.map(paint.bold),
    ...deletions.map(({ userId, nominatedAt, verifiedAt, witness, evidence }) => [
      ...[userId, told(nominatedAt), verifiedAt === null ? '–' : told(verifiedAt)],
      ...[witness, evidence ?? '–'],
    ]),
  ];
}

async function approve(context: CommandContext, userIds: readonly string[]): Promise<ExitCode> {
  return withEngine<ExitCode>(context, {}, async ({ mirror, jobs, signal }) => {
    await assertHeld(mirror, userIds);
    const { client } = jobs.sweep;
    const { tombstoned, present } = await whileLogged(
      mirror,
      toAction('deletions approve', userIds),
      () => approveHeld({ mirror, client }, userIds, signal),
      (approved) => ({ ...approved }),
    );
    if (context.json) context.stdout(JSON.stringify({ approved: { tombstoned, present } }));
    else {
      context.stdout(
        `${countOf(tombstoned, 'user')} tombstoned, ${present} present after all and kept`,
      );
    }
    return 0;
  });
}

async function reject(context: CommandContext, userIds: readonly string[]): Promise<ExitCode> {
  return withMirror<ExitCode>(context, async (mirror) => {
    await assertHeld(mirror, userIds);
    const rejected = await whileLogged(
      mirror,
      toAction('deletions reject', userIds),
      () => rejectHeld(mirror, userIds, context.signal),
      (decided) => ({ decided }),
    );
    if (context.json) context.stdout(JSON.stringify({ rejected }));
    else {
      context.stdout(
        `${countOf(rejected, 'deletion')} rejected: the users stay until something else is found`,
      );
    }
    return 0;
  });
}

/** For the admin log: all of them where none is named. */
function toAction(action: string, userIds: readonly string[]): AdminAction {
  const detail = userIds.length === 0 ? { all: true } : detailOfUsers(userIds);
  return { actor: 'command', action, detail };
}

/** @throws UsageError where a deletion of one of these users is not held */
async function assertHeld(mirror: Mirror, userIds: readonly string[]): Promise<void> {
  const unknown = await listNotHeld(mirror, userIds);
  if (unknown.length === 0) return;
  // What was typed in place of an id may be a mail address.
  const named = unknown.slice(0, NAMED).map(hidePersonalData).join(', ');
  const more = unknown.length > NAMED ? ` and ${unknown.length - NAMED} more` : '';
  throw new UsageError(
    `no deletion is held of ${named}${more} (\`rollcall deletions list\` shows which are)`,
  );
}
