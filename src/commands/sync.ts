import { pause } from '../abort.ts';
import { bringBackNameless } from '../apply/nameless.ts';
import { WindowUnproven } from '../errors.ts';
import { countPending } from '../inbox/pending.ts';
import { pullAudit } from '../pull/audit.ts';
import { openSweep } from '../pull/ledger.ts';
import { pullModified } from '../pull/modified.ts';
import { applyPending } from './applyPending.ts';
import { withEngine } from './foreground.ts';
import { tell } from './table.ts';

import type { Engine } from '../engine.ts';
import type { CommandContext, ExitCode } from './command.ts';

/** A replica that is pulling right now is waited for this often, half a second each. */
const PATIENCE = 240;

/** `rollcall sync`: pullModified and pullAudit now, then applies what they found. */
export async function run(context: CommandContext): Promise<ExitCode> {
  return withEngine(context, {}, async (engine) => {
    const { signal } = engine;
    const gaps: string[] = [];
    const modified = await unlessUnproven(gaps, () =>
      whenFree(engine, () => pullModified(engine.jobs.modified, signal)),
    );
    if (modified === 'notBegun') {
      const reason =
        'nothing to go on from yet: run `rollcall backfill` (or `rollcall start`) first';
      if (context.json) context.stdout(JSON.stringify({ outcome: 'notBegun', reason }));
      else tell(context, reason);
      return 3;
    }
    const audit = await unlessUnproven(gaps, () =>
      whenFree(engine, () => pullAudit(engine.jobs.audit, signal)),
    );
    let applied = await applyPending(engine);
    if ((await countPending(engine.mirror)) > 0) {
      // Events that name nobody wait for a pull that begins after they came, or opened windows, or a sweep.
      await unlessUnproven(gaps, () =>
        whenFree(engine, () => pullModified(engine.jobs.modified, signal, 'now')),
      );
      await bringBackNameless(engine.mirror.db, engine.mirror);
      applied += await applyPending(engine);
    }
    const left = await countPending(engine.mirror);
    const isSweepDue = (await openSweep(engine.mirror.db, engine.mirror)) !== undefined;
    const isPartial = left > 0 || gaps.length > 0;
    const outcome = isSweepDue ? 'sweep' : isPartial ? 'partial' : 'complete';
    if (context.json) {
      const counts = { eventsApplied: applied, eventsPending: left };
      context.stdout(JSON.stringify({ outcome, ...counts, ...(gaps.length > 0 ? { gaps } : {}) }));
    } else {
      tell(context, `synced: ${applied} events applied, ${left} still pending`);
      for (const gap of gaps) tell(context, `a window is left as a gap, to be read again: ${gap}`);
      if (audit === 'sweep') {
        tell(context, 'the audit trail (30 days) no longer reaches back to the last pull');
      }
      if (isSweepDue) tell(context, 'a sweep is due: run `rollcall backfill`, or let the service');
    }
    return outcome === 'complete' ? 0 : 3;
  });
}

/** A window that cannot be proven is left as a gap in the ledger, and keeps nothing else from being done. */
async function unlessUnproven<T>(gaps: string[], pull: () => Promise<T>): Promise<T | undefined> {
  try {
    return await pull();
  } catch (error) {
    if (!(error instanceof WindowUnproven)) throw error;
    gaps.push(error.message);
    return undefined;
  }
}

async function whenFree<T>(engine: Engine, pull: () => Promise<T | 'busy'>): Promise<T> {
  for (let attempt = 0; attempt < PATIENCE; attempt++) {
    const result = await pull();
    if (result !== 'busy') return result;
    await pause(500, engine.signal);
  }
  throw new Error('another process has been pulling for two minutes; try again later');
}
