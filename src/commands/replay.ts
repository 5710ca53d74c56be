import { UsageError } from '../errors.ts';
import { countPending } from '../inbox/pending.ts';
import { putBackEvents, type ReplaySelection } from '../inbox/replay.ts';
import { whileLogged } from '../mirror/adminLog.ts';
import { openSweep, unprovenWindows } from '../pull/ledger.ts';
import { applyPending } from './applyPending.ts';
import { parseInstant } from './command.ts';
import { withEngine } from './foreground.ts';
import { countOf, tell } from './table.ts';

import type { Engine } from '../engine.ts';
import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** `rollcall replay [--since T] [--user U] [--failed]`: applies events of the inbox again. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const selection = parseSelection(options);
  return withEngine(context, {}, async (engine) => {
    const before = new Set(await listOpen(engine));
    const putBack = await whileLogged(
      engine.mirror,
      { actor: 'command', action: 'replay', detail: { ...selection } },
      () => putBackEvents(engine.mirror, selection, engine.signal),
      (events) => ({ events }),
    );
    if (!context.json) context.stdout(`${countOf(putBack, 'event')} put back`);
    // Whatever else is due is applied with them, as `sync` does.
    const applied = putBack === 0 ? 0 : await applyPending(engine);
    const pending = await countPending(engine.mirror);
    const opened = (await listOpen(engine)).some((work) => !before.has(work));
    if (context.json) context.stdout(JSON.stringify({ putBack, applied, pending, opened }));
    else if (putBack > 0) {
      context.stdout(`${countOf(applied, 'event')} applied, ${pending} still pending`);
      if (opened) {
        tell(
          context,
          'a window or a sweep waits to be read: `rollcall start` does that by itself, ' +
            '`rollcall sync` reads windows, `rollcall backfill` sweeps',
        );
      }
    }
    return putBack > 0 && pending > 0 ? 3 : 0;
  });
}

/** Windows and sweeps that wait to be read: events that name nobody open such, and nobody reads them here. */
async function listOpen({ mirror }: Engine): Promise<string[]> {
  const windows = await unprovenWindows(mirror.db, mirror, { pull: 'modified' });
  const sweep = await openSweep(mirror.db, mirror);
  return [
    ...windows.map((windowId) => `window ${windowId}`),
    ...(sweep ? [`sweep ${sweep.runId}`] : []),
  ];
}

/** @throws UsageError where nothing is selected, or `--since` is no instant */
function parseSelection(options: CommandOptions): ReplaySelection {
  const { user, failed } = options;
  const selection = {
    since: parseInstant(options, 'since') ?? null,
    userId: typeof user === 'string' && user !== '' ? user : null,
    failedOnly: failed === true,
  };
  if (selection.since === null && selection.userId === null && !selection.failedOnly) {
    throw new UsageError(
      'replay: say which events: --since <instant>, --user <id>, --failed, or several of these ' +
        'for events that all of them hold of',
    );
  }
  return selection;
}
