import { hasCompletedSweep } from '../pull/ledger.ts';
import { verifyMirror, type Verification } from '../pull/verify.ts';
import { withEngine } from './foreground.ts';
import { createProgressView } from './progress.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** Of each kind of difference, so many are listed for a person; `--json` lists all. */
const LISTED = 10;

/** `rollcall verify [--repair]`: drift report; exit 3 if drift remains. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const repair = options['repair'] === true;
  const view = createProgressView(context);
  return withEngine(context, {}, async (engine) => {
    if (!(await hasCompletedSweep(engine.mirror.db, engine.mirror))) {
      const reason = 'no sweep has completed yet: run `rollcall backfill` first';
      context.stdout(context.json ? JSON.stringify({ outcome: 'notBegun', reason }) : reason);
      return 3;
    }
    let requests = 0;
    const onRead = (users: number) => {
      view.show({ users, total: null, requests: ++requests });
    };
    try {
      const found = await verifyMirror({ ...engine.jobs.verify, onRead }, repair, engine.signal);
      view.stop();
      return report(context, found, repair);
    } finally {
      view.stop();
    }
  });
}

function report(context: CommandContext, found: Verification, repair: boolean): ExitCode {
  const { missing, extra, different } = found.drift;
  const differing = missing.length + extra.length + different.length;
  const remains = repair ? found.held : differing;
  if (context.json) {
    context.stdout(JSON.stringify({ outcome: remains === 0 ? 'equal' : 'drift', ...found }));
    return remains === 0 ? 0 : 3;
  }
  context.stdout(
    `${found.compared} users compared: ${missing.length} missing, ${extra.length} extra, ` +
      `${different.length} different (drift ${found.driftPpm.toFixed(1)} ppm)`,
  );
  const list = (what: string, users: readonly string[]) => {
    for (const user of users.slice(0, LISTED)) context.stdout(`  ${what} ${user}`);
    if (users.length > LISTED) context.stdout(`  … and ${users.length - LISTED} more ${what}`);
  };
  list('missing', missing);
  list('extra', extra);
  list(
    'different',
    different.map(({ userId, fields }) => `${userId}: ${fields.join(', ')}`),
  );
  if (repair) context.stdout(`${found.repaired} repaired, ${found.held} deletions held`);
  else if (differing > 0) context.stdout('mend it with `rollcall verify --repair`');
  return remains === 0 ? 0 : 3;
}
