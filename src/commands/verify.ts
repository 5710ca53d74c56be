import { hasCompletedSweep } from '../pull/ledger.ts';
import {
  countDrift,
  totalOf,
  type Drift,
  type DriftCounts,
  type Verification,
} from '../pull/drift.ts';
import { verifyMirror } from '../pull/verify.ts';
import { whileLogged } from '../mirror/adminLog.ts';
import { readLastProof } from '../readers/runs.ts';
import { withEngine } from './foreground.ts';
import { createProgressView } from './progress.ts';
import { countOf, tell } from './table.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** Of each kind of difference, so many are listed for a person; `--json` lists all. */
const LISTED = 10;

/** What `--json` answers. */
interface Answer extends Verification {
  readonly outcome: 'equal' | 'drift';
  /** When everyone was last found equal, or made equal; null where that never was. */
  readonly lastProof: string | null;
}

/** For the admin log; a verification that only looks leaves nothing there. */
const REPAIR = { actor: 'command', action: 'verify --repair', detail: {} } as const;

/** `rollcall verify [--repair]`: drift report; exit 3 if drift remains. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const repair = options['repair'] === true;
  const view = createProgressView(context, 'comparing');
  return withEngine(context, {}, async ({ mirror, jobs, signal }) => {
    if (!(await hasCompletedSweep(mirror.db, mirror))) {
      const reason = 'no sweep has completed yet: run `rollcall backfill` first';
      if (context.json) context.stdout(JSON.stringify({ outcome: 'notBegun', reason }));
      else tell(context, reason);
      return 3;
    }
    try {
      const work = () =>
        verifyMirror(jobs.verify, repair, signal, (progress) => {
          view.show(progress);
        });
      const found = await (repair
        ? whileLogged(mirror, REPAIR, work, ({ repaired, held }) => ({ repaired, held }))
        : work());
      view.stop();
      const left = repair ? found.held : totalOf(countDrift(found.drift));
      const outcome = left === 0 ? 'equal' : 'drift';
      const answer: Answer = { outcome, ...found, lastProof: await readLastProof(mirror) };
      if (context.json) context.stdout(JSON.stringify(answer));
      else for (const line of toLines(answer, repair)) tell(context, line);
      return left === 0 ? 0 : 3;
    } finally {
      view.stop();
    }
  });
}

/** The report for a person: counts, then who differs and in what, then what to do. Pure. */
export function toLines(answer: Answer, repair: boolean): string[] {
  const { compared, requests, drift, driftPpm, lastProof } = answer;
  const counts = countDrift(drift);
  const { missing, extra, different } = counts;
  return [
    `${countOf(compared, 'user')} compared with ${countOf(requests, 'request')}: ` +
      `${missing} missing, ${extra} extra, ${different} different ` +
      `(drift ${driftPpm.toFixed(1)} ppm)`,
    ...listDrift(drift, counts),
    ...remedy(answer, repair),
    `last proof ${lastProof === null ? 'none yet' : toMoment(lastProof)}`,
  ];
}

/** To the second. */
function toMoment(instant: string): string {
  return `${instant.slice(0, 19).replace('T', ' ')} UTC`;
}

/** Who differs and in what, the first of each kind. Pure. */
export function listDrift({ missing, extra, different }: Drift, counts: DriftCounts): string[] {
  const fieldsOf = ({ userId, fields }: Drift['different'][number]) =>
    `${userId}: ${fields.join(', ')}`;
  return [
    ...list('missing', missing, counts.missing),
    ...list('extra', extra, counts.extra),
    ...list('different', different.map(fieldsOf), counts.different),
  ];
}

function list(what: string, users: readonly string[], count: number): string[] {
  const lines = users.slice(0, LISTED).map((user) => `  ${what} ${user}`);
  const others = count - lines.length;
  return others > 0 ? [...lines, `  … and ${others} more ${what}`] : lines;
}

function remedy({ drift, repaired, held }: Answer, repair: boolean): string[] {
  const differing = totalOf(countDrift(drift));
  if (differing === 0) return [];
  if (!repair) return ['mend it with `rollcall verify --repair`'];
  const waiting = `${countOf(held, 'deletion')} held: decide with \`rollcall deletions\``;
  return [`${repaired} repaired`, ...(held > 0 ? [waiting] : [])];
}
