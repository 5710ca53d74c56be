import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';

import { createActor, type Actor } from './convergenceActor.ts';
import { createChecks, type Checks } from './convergenceChecks.ts';
import { isOperation, type History, type Operation } from './convergenceHistory.ts';
import { startRig, type Rig } from './convergenceRig.ts';

/** Far longer than pulls and inbox take, also where others keep the machine busy. */
const LIMIT_MS = 180_000;
const LOOK_EVERY_MS = 250;

/**
 * Lives through one history and checks all along, and at its end, what must hold.
 * @throws Error that says what did not
 */
export async function liveThrough(history: History, seed: number): Promise<void> {
  const rig = await startRig(history, seed);
  try {
    const actor = createActor(rig.scene.simulator.directory, history);
    const checks = createChecks(history, rig, actor);
    const watch = startWatch(checks, rig);
    try {
      if (history.settings.fillFirst) await rig.scene.untilFilled(LIMIT_MS);
      for (const [at, { pauseMs, act }] of history.steps.entries()) {
        await delay(pauseMs);
        watch.assertSound();
        if (!isOperation(act)) rig.troubles.begin(act, seed + at);
        else await perform(actor, act);
      }
      await rig.heal();
      const quietMs = Date.now() + history.behaviour.clockSkewMs;
      // A job of the first sweep that a flushed queue lost is missed after a minute and a half, or at a start.
      if (!history.settings.fillFirst) await rig.restart();
      // A sweep of answers of the past finds nobody gone, and only the next one mends that.
      const wasMisled = rig.troubles.misledUntilMs() > 0;
      const isForNextSweep = (userId: string) =>
        actor.isSilent(userId) || (wasMisled && actor.isNameless(userId));
      await untilConverged(rig, watch, quietMs, isForNextSweep);
      await rig.kill();
    } finally {
      await watch.stop();
    }
    watch.assertSound();
    assertNone(await checks.conclude());
    await sweepUntilEqual(rig);
    await sweepBlindly(rig);
    assertNone(await checks.conclude());
  } finally {
    await rig.stop();
  }
}

/** Long enough for an event to be looked into, shorter than a late answer takes. */
const FLICKER_MS = 200;

async function perform(actor: Actor, operation: Operation): Promise<void> {
  actor.perform(operation);
  if (operation.kind !== 'flicker') return;
  await delay(FLICKER_MS);
  actor.perform({ ...operation, kind: 'comeBack', event: true });
}

interface Watch {
  /** @throws Error with the first problems seen */
  assertSound(): void;
  stop(): Promise<void>;
}

function startWatch(checks: Checks, rig: Rig): Watch {
  const stopping = new AbortController();
  let problems: readonly string[] = [];
  const watching = (async () => {
    while (!stopping.signal.aborted && problems.length === 0) {
      problems = await checks.look();
      await delay(LOOK_EVERY_MS);
    }
  })();
  watching.catch((error: unknown) => {
    problems = [`the watch failed: ${String(error)}`];
  });
  return {
    assertSound() {
      const failure = rig.failure();
      assertNone(failure === undefined ? problems : [failure, ...problems]);
    },
    async stop() {
      stopping.abort();
      await watching.catch(() => undefined);
    },
  };
}

function assertNone(problems: readonly string[]): void {
  if (problems.length > 0) throw new Error(problems.slice(0, 5).join('\n'));
}

/**
 * Equal, but for what only a sweep can find, when both pulls have passed `quietMs` (Descope's clock) and
 * what they found is applied: then nothing is left that could mend a difference.
 */
async function untilConverged(
  rig: Rig,
  watch: Watch,
  quietMs: number,
  isSilent: (userId: string) => boolean,
): Promise<void> {
  const giveUpMs = Date.now() + LIMIT_MS;
  for (;;) {
    watch.assertSound();
    const isDone = await isAllDone(rig, quietMs);
    try {
      await rig.scene.assertEqual(isSilent);
      await assertNothingIsOverdue(rig);
      return;
    } catch (error) {
      if (isDone || Date.now() > giveUpMs) {
        const when = isDone ? 'when all was done' : `${LIMIT_MS / 1000} s after all was quiet`;
        throw new Error(`not equal ${when}: ${await describe(rig, error)}`, { cause: error });
      }
    }
    await delay(LOOK_EVERY_MS);
  }
}

/**
 * An event looked at so often in vain may wait half a minute more; no replica lags by then. One that names
 * nobody is another matter: it waits for what will still be read.
 */
const LAST_LOOK = 4;

async function isAllDone({ scene }: Rig, quietMs: number): Promise<boolean> {
  const { events, syncRuns, syncWindows, watermarks } = scene.database.mirror.t;
  const [found] = await scene.query<{ isDone: boolean }>(
    sql`select
          (select min(complete_to) from ${watermarks} where pull in ('modified', 'audit'))
            > to_timestamp(${quietMs / 1000}::float8)
          and not exists (select 1 from ${events} where state = 'pending'
            and (looks < ${LAST_LOOK} or due_at < clock_timestamp()
                 or (user_ids = '{}' and login_ids = '{}')))
          and not exists (select 1 from ${syncWindows} where state <> 'proven')
          and not exists (select 1 from ${syncRuns} where pull = 'sweep' and outcome is null)
          and exists (select 1 from ${syncRuns} where pull = 'sweep' and outcome = 'complete')
          as "isDone"`,
  );
  return found?.isDone ?? false;
}

/** A queue that lost its jobs is told of them again (guarantee G7). */
async function assertNothingIsOverdue({ scene }: Rig): Promise<void> {
  const overdue = await scene.query<{ action: string }>(
    sql`select action from ${scene.database.mirror.t.events}
        where state = 'pending' and due_at < clock_timestamp() - interval '2 seconds'`,
  );
  if (overdue.length > 0) {
    throw new Error(`events in the inbox are overdue: ${overdue.map((e) => e.action).join(', ')}`);
  }
}

/** What is left to do, for whoever reads the failure. */
async function describe({ scene }: Rig, error: unknown): Promise<string> {
  const { t } = scene.database.mirror;
  const left = {
    now: await scene.query(sql`select clock_timestamp() as now`),
    budgets: await scene.query(sql`select * from ${t.budgets}`),
    events: await scene.query(
      sql`select action, user_ids, state, looks, outcome, error, due_at from ${t.events}
          where state <> 'applied' limit 5`,
    ),
    windows: await scene.query(
      sql`select pull, state, error from ${t.syncWindows} where state <> 'proven' limit 5`,
    ),
    watermarks: await scene.query(sql`select * from ${t.watermarks}`),
    sweeps: await scene.query(
      sql`select run_id, reason, outcome, error from ${t.syncRuns} where pull = 'sweep'`,
    ),
  };
  return `${error instanceof Error ? error.message : String(error)}\n${JSON.stringify(left, null, 1)}`;
}

/**
 * A sweep finds everything. While every other answer holds nobody it may fail, but where it says that it
 * is complete, it is.
 */
async function sweepUntilEqual(rig: Rig): Promise<void> {
  const { faults } = rig.scene.simulator;
  // What was begun before may have passed what was silent.
  if (await isSweeping(rig)) await rig.sweep();
  faults.random(0.5, ['zeroTotal'], everyOther());
  const isComplete = await rig.sweep();
  faults.clear();
  if (!isComplete && !(await rig.sweep())) throw new Error('a sweep without faults fails');
  await rig.scene.assertEqual();
}

async function isSweeping({ scene }: Rig): Promise<boolean> {
  const open = await scene.query(
    sql`select 1 from ${scene.database.mirror.t.syncRuns} where pull = 'sweep' and outcome is null`,
  );
  return open.length > 0;
}

/** For faults: one happens, the next does not. (Where one does, a second number picks its kind.) */
function everyOther(): () => number {
  let turn = 0;
  return () => (turn++ % 3 === 2 ? 1 : 0);
}

/** More requests than one sweep makes. */
const EVERY_SEARCH = 1_000;

/**
 * A sweep that is told, from its plan on, that nobody is there, and by loads by id only a part of them:
 * whatever it makes of that, it removes nobody who is (guarantee G4).
 */
async function sweepBlindly(rig: Rig): Promise<void> {
  const { faults } = rig.scene.simulator;
  faults.next('slow', { path: 'search', delayMs: 0 });
  faults.next('zeroTotal', { path: 'search', times: EVERY_SEARCH });
  faults.next('partialPage', { path: 'load' });
  await rig.sweep();
  faults.clear();
}
