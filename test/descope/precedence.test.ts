import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { rows } from '../../src/mirror/database.ts';
import { openScene, START_MS, useUp, type Driven, type Scene } from './driven.ts';

import type { Schedule } from '../../src/descope/schedule.ts';
import type { Priority } from '../../src/descope/types.ts';

let scene: Scene;

beforeAll(async () => {
  scene = await openScene();
});

afterAll(() => scene.close());

/** Within a second, as who waits has to. */
async function waitAndAsk({ clock }: Driven, schedule: Schedule, priority: Priority) {
  for (;;) {
    const slots = await schedule.ask(priority);
    if (slots.granted > 0) return slots;
    clock.nowMs += Math.min(slots.waitMs, 1_000);
  }
}

describe('precedence', () => {
  it('G6: lets events go before pulls and pulls before sweeps', async () => {
    const { clock, schedule } = scene.driven(60);
    const granted: Record<Priority, number> = { event: 0, pull: 0, sweep: 0 };
    const everybody: Priority[] = ['sweep', 'pull', 'event'];
    /** All of them ask every 100 ms for more than there is, the least important first. */
    const ask = async (priorities: readonly Priority[], durationMs: number) => {
      for (const endMs = clock.nowMs + durationMs; clock.nowMs < endMs; clock.nowMs += 100) {
        for (const priority of everybody.filter((one) => priorities.includes(one))) {
          granted[priority] += (await schedule.ask(priority, 10)).granted;
        }
      }
    };
    await ask(everybody, 3_000); // the first second or two are for all
    granted.pull = granted.sweep = granted.event = 0;
    await ask(everybody, 20_000);
    expect(granted).toMatchObject({ pull: 0, sweep: 0 });
    expect(granted.event).toBeGreaterThanOrEqual(19);
    granted.event = 0;
    await ask(['sweep', 'pull'], 20_000);
    expect(granted).toMatchObject({ event: 0, sweep: 0 });
    expect(granted.pull).toBeGreaterThanOrEqual(19);
    await ask(['sweep'], 20_000);
    expect(granted.sweep).toBeGreaterThanOrEqual(18);
  });

  it('G6: an event that comes while pulls and sweeps use it all gets the next slot, in any process', async () => {
    const run = scene.driven(100);
    const { clock, schedule, elsewhere } = run;
    await useUp(schedule, 'sweep');
    expect((await schedule.ask('pull')).granted).toBe(0);
    const { waitMs } = await elsewhere.ask('event');
    expect(waitMs).toBeLessThanOrEqual(600);
    clock.nowMs += waitMs;
    // The slot is there; both come before the event, and have to let it pass.
    for (const priority of ['sweep', 'pull'] as const) {
      const refused = await schedule.ask(priority);
      expect(refused).toMatchObject({ granted: 0, waitMs: 600 });
    }
    expect((await elsewhere.ask('event')).granted).toBe(1);
    clock.nowMs += 600;
    expect((await schedule.ask('sweep')).granted).toBe(0);
    expect((await schedule.ask('pull')).granted).toBe(1);
    clock.nowMs += 600;
    expect((await schedule.ask('sweep')).granted).toBe(1);
  });

  it('G6: keeps the others waiting while some of those who asked still wait', async () => {
    const { clock, schedule } = scene.driven(100);
    expect((await schedule.ask('event', 6)).granted).toBe(4);
    clock.nowMs += 600;
    expect((await schedule.ask('pull')).granted).toBe(0);
    clock.nowMs += 600;
    expect((await schedule.ask('event', 2)).granted).toBe(2);
    clock.nowMs += 600;
    expect((await schedule.ask('pull')).granted).toBe(1);
  });

  it('G6: the mark of one that died fades, and what it held up is made up for', async () => {
    for (const dead of ['event', 'pull'] as const) {
      const { clock, schedule, elsewhere } = scene.driven(60);
      await useUp(schedule, 'sweep');
      expect((await elsewhere.ask(dead)).granted).toBe(0);
      clock.nowMs += 1_999;
      expect(await schedule.ask('sweep', 10)).toMatchObject({ granted: 0, waitMs: 1 });
      clock.nowMs += 1;
      expect((await schedule.ask('sweep', 10)).granted).toBe(2);
    }
  });

  it('G6: events that do not use all of it leave the rest to pulls, and pulls to sweeps', async () => {
    const run = scene.driven(100);
    const { clock, schedule, elsewhere } = run;
    const granted = { pull: 0, sweep: 0 };
    let asked = 0;
    // An event every 1.8 s, a pull every 3.6 s, sweeps as often as they are told to come.
    for (let at = 0; at < 60; at++) {
      const endMs = clock.nowMs + 1_800;
      await waitAndAsk(run, elsewhere, 'event');
      if (at % 2 === 0) {
        await waitAndAsk(run, schedule, 'pull');
        granted.pull++;
      }
      while (clock.nowMs < endMs) {
        const slots = await schedule.ask('sweep', 8);
        asked++;
        granted.sweep += slots.granted;
        clock.nowMs += slots.granted > 0 ? 1 : slots.waitMs;
      }
    }
    const minutes = (clock.nowMs - START_MS) / 60_000;
    expect(60 + granted.pull + granted.sweep).toBeGreaterThanOrEqual(95 * minutes);
    expect(granted.pull).toBe(30);
    // Whoever lets others pass does not ask all the time.
    expect(asked).toBeLessThan(3 * granted.sweep);
  });

  it('asks no more than ten times a second behind a mark, however large the budget', async () => {
    const { clock, schedule, elsewhere } = scene.driven(10_000_000);
    await schedule.silence(5_000, 1);
    await elsewhere.ask('event');
    clock.nowMs += 4_000;
    await elsewhere.ask('event');
    clock.nowMs += 1_000;
    expect(await schedule.ask('sweep')).toMatchObject({ granted: 0, waitMs: 100 });
  });
});

describe('a silence', () => {
  it('G6: is kept in every process, then it begins without a burst', async () => {
    const { clock, schedule, elsewhere } = scene.driven(600);
    expect((await elsewhere.ask('event')).granted).toBe(1);
    await schedule.silence(60_000, 1);
    await schedule.silence(1_000, 1); // a shorter one does not end the longer
    clock.nowMs += 59_999;
    expect(await elsewhere.ask('event')).toMatchObject({ granted: 0, waitMs: 1 });
    clock.nowMs += 1;
    // One leaves at its end, whatever number is asked for, and then one an interval.
    for (let at = 0; at < 20; at++) {
      expect((await elsewhere.ask('event', 50)).granted).toBe(1);
      expect(await schedule.ask('event')).toMatchObject({ granted: 0, waitMs: 100 });
      clock.nowMs += 100;
    }
  });

  it('G6: ends for those who wait in their order', async () => {
    const { clock, schedule, elsewhere } = scene.driven(100);
    await schedule.silence(30_000, 1);
    for (let second = 0; second < 30; second++) {
      for (const priority of ['sweep', 'pull', 'event'] as const) {
        expect((await elsewhere.ask(priority)).granted).toBe(0);
      }
      clock.nowMs += 1_000;
    }
    for (const priorities of [['sweep', 'pull', 'event'], ['sweep', 'pull'], ['sweep']] as const) {
      const granted: Priority[] = [];
      for (const priority of priorities) {
        if ((await schedule.ask(priority)).granted > 0) granted.push(priority);
      }
      expect(granted).toEqual(priorities.slice(-1));
      clock.nowMs += 600;
    }
  });
});

describe('a row of the version before', () => {
  /** How that one takes a slot: it knows `next_at`, and nothing of the columns that came after. */
  async function takeAsBefore({ name, clock }: Driven): Promise<boolean> {
    const now = sql`to_timestamp(${clock.nowMs / 1000}::double precision)`;
    const granted = await rows(
      scene.mirror.db,
      sql`update descope.budgets b
          set next_at = greatest(b.next_at, ${now}) + interval '625 ms', granted = b.granted + 1
          where name = ${name} and next_at - interval '0.5 s' <= ${now} returning 1`,
    );
    return granted.length > 0;
  }

  it('is taken over where it stands, and used by both for a while', async () => {
    const run = scene.driven(100);
    const now = sql`to_timestamp(${START_MS / 1000}::double precision)`;
    await scene.mirror.db.execute(sql`
      insert into descope.budgets (name, next_at, granted)
      values (${run.name}, ${now} + interval '2 s', 7)`);
    let [before, granted] = [0, 0];
    for (const endMs = START_MS + 60_500; run.clock.nowMs <= endMs; run.clock.nowMs += 100) {
      if (await takeAsBefore(run)) before++;
      granted += (await run.schedule.ask('sweep', 8)).granted;
    }
    expect(granted).toBeGreaterThan(90);
    // What the cap cannot see the spread still holds.
    expect(before + granted).toBeLessThanOrEqual(102);
    expect((await run.row()).granted).toBe(7 + before + granted);
    // Alone again, it counts for itself.
    run.clock.nowMs += 3_600_000;
    expect(await takeAsBefore(run)).toBe(true);
    expect((await run.schedule.ask('sweep', 8)).granted).toBe(3);
  });
});
