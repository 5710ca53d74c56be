import { schedule } from 'node-cron';

import { prune } from './prune.ts';
import { pullAudit } from './pullAudit.ts';
import { pullModified } from './pullModified.ts';
import { sweep } from './sweep.ts';
import { verify } from './verify.ts';

import type { Enqueue } from './queues.ts';

export interface ScheduleSettings {
  /** Cron lines; null: never. */
  readonly modified: string | null;
  readonly audit: string | null;
  readonly sweep: string | null;
  readonly verify: string | null;
  readonly enqueue: Enqueue;
  readonly onError: (error: unknown) => void;
}

/** Hourly, at a minute when nothing else begins. */
const PRUNE_LINE = '23 * * * *';

/** A machine that was busy, or asleep, for a while still does what was due; a sweep is due once a night. */
const LATE = { missedExecutionTolerance: 60_000, suppressMissedWarning: true } as const;

/** Starts the ticks. They only enqueue, with the tick's own time as id: ten replicas add one job. */
export function startSchedules(settings: ScheduleSettings): { stop(): void } {
  const { enqueue } = settings;
  const ticks = [
    [settings.modified, (id: string) => enqueue(pullModified, {}, { dedupeId: `modified-${id}` })],
    [settings.audit, (id: string) => enqueue(pullAudit, {}, { dedupeId: `audit-${id}` })],
    [PRUNE_LINE, (id: string) => enqueue(prune, {}, { dedupeId: `prune-${id}` })],
    [settings.verify, (id: string) => enqueue(verify, {}, { dedupeId: `verify-${id}` })],
    [
      settings.sweep,
      (id: string) =>
        enqueue(sweep, { reason: 'schedule', begin: true }, { dedupeId: `sweep-${id}` }),
    ],
  ] as const;
  const tasks = ticks.flatMap(([line, tick]) =>
    line === null
      ? []
      : [
          schedule(
            line,
            (context) => {
              // Ids may not hold a colon.
              const id = context.date.toISOString().slice(0, 19).replaceAll(':', '');
              tick(id).catch(settings.onError);
            },
            LATE,
          ),
        ],
  );
  return {
    stop() {
      for (const task of tasks) void task.destroy();
    },
  };
}
