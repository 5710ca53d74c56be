import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';

import { createRandom } from '../../src/simulator/random.ts';
import { createActor } from './convergenceActor.ts';
import { createChecks, type Checks } from './convergenceChecks.ts';
import { isOperation, type History } from './convergenceHistory.ts';
import { startRig, type Rig } from './convergenceRig.ts';
import { eventually } from './eventually.ts';

/** Once everything is quiet, the pulls have this long. */
const CONVERGE_MS = 45_000;
const LOOK_EVERY_MS = 200;

/**
 * Lives through one history and checks all along, and at its end, what must hold.
 * @throws Error that says what did not
 */
export async function liveThrough(history: History, seed: number): Promise<void> {
  const rig = await startRig(history, seed);
  try {
    const actor = createActor(rig.scene.simulator.directory, history.behaviour.pluralIds);
    const checks = createChecks(history, rig, actor);
    const watch = startWatch(checks, rig);
    try {
      if (history.settings.fillFirst) await rig.scene.untilFilled(CONVERGE_MS);
      for (const [at, { pauseMs, act }] of history.steps.entries()) {
        await delay(pauseMs);
        watch.assertSound();
        if (isOperation(act)) actor.perform(act);
        else rig.disturb(act, seed + at);
      }
      await rig.heal();
      // A job of the first sweep that a flushed queue lost is missed after a minute and a half, or at a start.
      if (!history.settings.fillFirst) await rig.restart();
      await untilConverged(rig, watch, (userId) => actor.isSilent(userId));
    } finally {
      await watch.stop();
    }
    watch.assertSound();
    assertNone(await checks.conclude());
    await sweepUntilEqual(rig, seed);
    assertNone(await checks.conclude());
  } finally {
    await rig.stop();
  }
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

/** Equal but for what only a sweep can find. */
async function untilConverged(
  rig: Rig,
  watch: Watch,
  isSilent: (userId: string) => boolean,
): Promise<void> {
  const giveUpMs = Date.now() + CONVERGE_MS;
  for (;;) {
    watch.assertSound();
    try {
      await rig.scene.assertEqual(isSilent);
      return;
    } catch (error) {
      if (Date.now() > giveUpMs) {
        const seconds = CONVERGE_MS / 1000;
        throw new Error(
          `not equal ${seconds} s after all was quiet: ${await describe(rig, error)}`,
          { cause: error },
        );
      }
    }
    await delay(LOOK_EVERY_MS);
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
 * A sweep finds everything, and removes nobody who is there, though the first one meets answers that
 * hold nobody. One under way may have passed what was silent: then the next one.
 */
async function sweepUntilEqual(rig: Rig, seed: number): Promise<void> {
  const { faults } = rig.scene.simulator;
  faults.random(0.5, ['zeroTotal'], createRandom(seed));
  const healing = delay(2_500).then(() => {
    faults.clear();
  });
  await eventually(
    async () => {
      await rig.run(['backfill', '--json']);
      faults.clear();
      await rig.scene.assertEqual();
    },
    { timeoutMs: CONVERGE_MS },
  );
  await healing;
}
