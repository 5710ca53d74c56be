import { Stopping, UsageError } from '../errors.ts';
import { whileLogged } from '../mirror/adminLog.ts';
import { totalOf } from '../pull/drift.ts';
import { assertStillExcluded, stripEveryone } from '../pull/exclusion.ts';
import { hasCompletedSweep } from '../pull/ledger.ts';
import { readRun } from '../readers/runs.ts';
import { readSubscribed } from '../rebuild/belongings.ts';
import { beginRebuild, discardNext, type Begun } from '../rebuild/fill.ts';
import { whileAlone } from '../rebuild/lease.ts';
import { dropPrevious, rollBack } from '../rebuild/previous.ts';
import { rebuild, type Rebuilt, type RebuildOptions } from '../rebuild/rebuild.ts';
import { withEngine, withMirror } from './foreground.ts';
import { createProgressView, throttled } from './progress.ts';
import { countOf, tell } from './table.ts';
import { listDrift } from './verify.ts';

import type { Engine } from '../engine.ts';
import type { Mirror } from '../mirror/database.ts';
import type { Comparison } from '../rebuild/compare.ts';
import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** How long readers that hold the tables, and transactions older than the fill, are waited for. */
const PATIENCE_MS = 300_000;

const ACTIONS = { rollback: goBack, dropPrevious: drop, discard } as const;
const MODES = ['dryRun', 'approve', 'rollback', 'dropPrevious', 'discard'] as const;

/** `rollcall rebuild`: everyone read into other tables, compared, swapped; exit 3 where it stops before that. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const [mode, other] = MODES.filter((name) => options[name] === true);
  if (other !== undefined) throw new UsageError('rebuild: give one option at a time');
  if (mode === 'dryRun' || mode === 'approve' || mode === undefined) return fill(context, mode);
  return withMirror(context, (mirror) =>
    alone(mirror, context, () => ACTIONS[mode](context, mirror)),
  );
}

/** @throws where another rebuild is under way */
async function alone<T>(
  mirror: Mirror,
  { signal }: CommandContext,
  work: () => Promise<T>,
): Promise<T> {
  const done = await whileAlone(mirror, work, signal);
  if (done !== 'busy') return done;
  throw new Error('another rebuild is under way: wait until it has ended, or stop it');
}

async function fill(
  context: CommandContext,
  mode: 'dryRun' | 'approve' | undefined,
): Promise<ExitCode> {
  const view = createProgressView(context);
  const seen = { show: () => undefined as unknown };
  const onStep = () => {
    seen.show();
  };
  return withEngine<ExitCode>(context, { onStep }, async (engine) => {
    const { mirror } = engine;
    const exclusion = context.config.MIRROR_EXCLUDE;
    if (!(await hasCompletedSweep(mirror.db, mirror))) {
      const reason = 'no sweep has completed yet: run `rollcall backfill` first';
      return refuse(context, { outcome: 'notBegun', reason });
    }
    const work = () =>
      alone(mirror, context, async () => {
        const begun = await beginRebuild(mirror);
        // It may have been begun while less was left out.
        if (begun.how === 'resumed') await stripEveryone(mirror, exclusion);
        if (!context.json) for (const line of await toNotes(mirror, begun)) context.stderr(line);
        seen.show = throttled(async () => {
          view.show(await readRun(mirror, begun.runId));
        });
        const options: RebuildOptions = {
          ...{ dryRun: mode === 'dryRun', approves: mode === 'approve', patienceMs: PATIENCE_MS },
          assertCurrent: (tx) => assertStillExcluded(tx, mirror, exclusion),
          onStage: (stage) => {
            if (stage === 'filling') return;
            view.stop();
            if (context.isTerminal && !context.json) context.stderr(`${stage} …`);
          },
        };
        const rebuilt = await rebuild(engine.jobs.sweep, begun.runId, options, engine.signal);
        return { runId: begun.runId, rebuilt };
      });
    try {
      const { runId, rebuilt } = await (mode === 'dryRun' ? work() : logged(mirror, mode, work));
      view.stop();
      return await report(context, engine, runId, rebuilt);
    } catch (error) {
      view.stop();
      if (error instanceof Stopping && !context.json) {
        context.stderr('interrupted; run it again to go on from here');
      }
      throw error;
    }
  });
}

function logged(
  mirror: Mirror,
  mode: 'approve' | undefined,
  work: () => Promise<{ runId: number; rebuilt: Rebuilt }>,
): Promise<{ runId: number; rebuilt: Rebuilt }> {
  const action = mode === undefined ? 'rebuild' : 'rebuild --approve';
  return whileLogged(
    mirror,
    { actor: 'command', action, detail: {} },
    work,
    ({ runId, rebuilt }) => ({
      runId,
      outcome: rebuilt.outcome,
      ...('comparison' in rebuilt ? rebuilt.comparison.counts : {}),
    }),
  );
}

/** What an operator is to know before it begins. */
async function toNotes(mirror: Mirror, { runId, how }: Begun): Promise<string[]> {
  const subscribed = await readSubscribed(mirror);
  return [
    ...(how === 'resumed' ? [`going on with rebuild ${runId}`] : []),
    ...(how === 'anew'
      ? ['the tables have changed since the last rebuild began: it begins anew']
      : []),
    ...subscribed.map(
      (name) =>
        `publication ${name} goes over to the new tables; its subscribers are not told what the swap ` +
        'changes: let them copy the tables again',
    ),
  ];
}

async function report(
  context: CommandContext,
  { mirror }: Engine,
  runId: number,
  rebuilt: Rebuilt,
): Promise<ExitCode> {
  const { outcome } = rebuilt;
  const { users, requests } = await readRun(mirror, runId);
  if (outcome === 'blocked') {
    const remedy = 'nothing was swapped: run it again, or `rollcall rebuild --discard` gives it up';
    return refuse(context, { outcome, reason: `${rebuilt.reason}; ${remedy}` });
  }
  const { comparison, deleted, held, loads } = rebuilt;
  const sum = { runId, users, requests: requests + loads, deleted, held };
  if (context.json) {
    context.stdout(JSON.stringify({ outcome, ...sum, ...answerOf(comparison) }));
  } else {
    tell(context, `${countOf(users, 'user')} read with ${countOf(sum.requests, 'request')}`);
    for (const line of toLines(comparison)) tell(context, line);
    if (deleted > 0) tell(context, `${countOf(deleted, 'user')} found gone, and tombstoned`);
    for (const line of REMEDIES[outcome](held)) tell(context, line);
  }
  if (outcome === 'swapped') return 0;
  return held === 0 && totalOf(comparison.counts) === 0 ? 0 : 3;
}

const REMEDIES: Readonly<Record<'swapped' | 'compared' | 'held', (held: number) => string[]>> = {
  swapped: () => ['swapped; `rollcall rebuild --rollback` goes back'],
  compared: () => [
    'nothing was swapped: `rollcall rebuild` goes on from here, `rollcall rebuild --discard` gives it up',
  ],
  held: (held) => [
    `nothing was swapped: ${countOf(held, 'user')} would vanish, more than the breaker allows, or a ` +
      'person was asked before. See `rollcall deletions list`; decide with `rollcall deletions` and run ' +
      '`rollcall rebuild` again, or `rollcall rebuild --approve`',
  ],
};

/** What is where, for a person: the other tables against those that are read. Pure. */
export function toLines({ compared, counts, drift }: Comparison): string[] {
  const { missing, extra, different } = counts;
  return [
    `${countOf(compared, 'user')} compared: ${missing} missing in the mirror, ${extra} only there, ` +
      `${different} different`,
    ...listDrift(drift, counts),
  ];
}

function answerOf({ compared, counts, drift }: Comparison): Record<string, unknown> {
  return { compared, counts, drift };
}

function refuse(context: CommandContext, answer: { outcome: string; reason: string }): ExitCode {
  if (context.json) context.stdout(JSON.stringify(answer));
  else tell(context, answer.reason);
  return 3;
}

async function goBack(context: CommandContext, mirror: Mirror): Promise<ExitCode> {
  const action = { actor: 'command', action: 'rebuild --rollback', detail: {} } as const;
  const back = await whileLogged(
    mirror,
    action,
    () => rollBack(mirror, { signal: context.signal, patienceMs: PATIENCE_MS }),
    (done) => ({ outcome: done === null ? 'none' : 'rolledBack' }),
  );
  if (back === null) {
    const reason =
      'there is nothing to go back to: no rebuild has replaced anything that is still kept';
    return refuse(context, { outcome: 'none', reason });
  }
  if (context.json) {
    context.stdout(JSON.stringify({ outcome: 'rolledBack', ...answerOf(back.comparison) }));
  } else {
    for (const line of toLines(back.comparison)) tell(context, line);
    tell(context, 'swapped back, with what was seen since; the same again swaps forward');
  }
  return 0;
}

async function drop(context: CommandContext, mirror: Mirror): Promise<ExitCode> {
  const dropped = await dropPrevious(mirror);
  return say(
    context,
    { dropped },
    dropped ? 'users_previous dropped' : 'there is no users_previous',
  );
}

async function discard(context: CommandContext, mirror: Mirror): Promise<ExitCode> {
  const discarded = await discardNext(mirror, 'given up by `rollcall rebuild --discard`');
  const line = discarded
    ? 'the rebuild is given up, its tables are dropped'
    : 'no rebuild was begun';
  return say(context, { discarded }, line);
}

function say(
  context: CommandContext,
  answer: Record<string, boolean>,
  line: string,
): Promise<ExitCode> {
  if (context.json) context.stdout(JSON.stringify(answer));
  else tell(context, line);
  return Promise.resolve(0);
}
