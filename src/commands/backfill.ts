import { Stopping } from '../errors.ts';
import { readWindows } from '../pull/readWindow.ts';
import { advanceSweep, startSweep } from '../pull/sweep.ts';
import { readRun, type RunView } from '../readers/runs.ts';
import { withEngine } from './foreground.ts';
import { createProgressView, throttled, type ProgressView } from './progress.ts';
import { tell } from './table.ts';

import type { Engine } from '../engine.ts';
import type { CommandContext, ExitCode } from './command.ts';

/**
 * `rollcall backfill`: a sweep now, in the foreground. Joins the one under way and goes on from where
 * that stands, so an interrupted backfill is resumed by running it again.
 */
export async function run(context: CommandContext): Promise<ExitCode> {
  const view = createProgressView(context);
  const seen = { show: () => undefined as unknown };
  const onStep = () => {
    seen.show();
  };
  return withEngine(context, { onStep }, async (engine) => {
    const { runId, isNew } = await startSweep(engine.jobs.sweep, 'backfill');
    if (!isNew && !context.json) context.stderr(`going on with sweep ${runId}`);
    seen.show = throttled(async () => {
      view.show(await readRun(engine.mirror, runId));
    });
    try {
      await readAll(engine, runId);
      view.show(await readRun(engine.mirror, runId));
    } catch (error) {
      if (error instanceof Stopping && !context.json) {
        context.stderr('interrupted; run it again to go on from here');
      }
      throw error;
    } finally {
      view.stop();
    }
    return report(context, await readRun(engine.mirror, runId), view);
  });
}

/** Reads window after window until the sweep has ended. */
async function readAll(engine: Engine, runId: number): Promise<void> {
  for (;;) {
    const state = await advanceSweep(engine.jobs.sweep, runId, engine.signal);
    if (state.kind === 'finished') return;
    await readWindows(engine.jobs.sweep, state.windowIds, engine.signal);
  }
}

function report(context: CommandContext, result: RunView, view: ProgressView): ExitCode {
  view.stop();
  if (context.json) {
    context.stdout(JSON.stringify(result));
  } else {
    const { outcome, users, requests, created, updated, deleted, held, reason } = result;
    tell(
      context,
      `sweep ${outcome}: ${users} users read with ${requests} requests; ` +
        `${created} created, ${updated} updated, ${deleted} deleted`,
    );
    if (reason !== null) tell(context, reason);
    if (held > 0) tell(context, `${held} deletions are held: more than the breaker allows at once`);
  }
  return result.outcome === 'complete' && result.held === 0 ? 0 : 3;
}
