import { InvalidPayload } from '../src/errors.ts';

import type { JobsOptions } from 'bullmq';
import type { z } from 'zod';

/** All jobs that ask Descope share the budget; two queues keep a long pull from holding up events. */
export type QueueName = 'events' | 'pulls';

/**
 * What a job is. Payloads are plain JSON that carries ids only, parsed when added and again when run.
 * Every job may run twice, late, and beside its twin: what it works on is a row in Postgres that says
 * whether it is still to do.
 */
export interface JobDefinition<Deps, Payload> {
  readonly name: string;
  readonly queue: QueueName;
  readonly payload: z.ZodType<Payload>;
  readonly options: JobsOptions;
  process(deps: Deps, payload: Payload, signal: AbortSignal): Promise<void>;
}

/** A job of any payload, as the workers hold it: parsed by its own schema before it is processed. */
export interface AnyJob<Deps> extends Omit<JobDefinition<Deps, unknown>, 'process'> {
  process(deps: Deps, payload: never, signal: AbortSignal): Promise<void>;
}

/** Ties a job's payload type to its schema; nothing else happens. */
export function defineJob<Deps, Payload>(
  job: JobDefinition<Deps, Payload>,
): JobDefinition<Deps, Payload> {
  return job;
}

/** @throws InvalidPayload, which says where it differs and not what it holds */
export function parsePayload<Payload>(
  job: { readonly name: string; readonly payload: z.ZodType<Payload> },
  data: unknown,
): Payload {
  const parsed = job.payload.safeParse(data);
  if (parsed.success) return parsed.data;
  const where = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.code}`);
  throw new InvalidPayload(job.name, where.join(', '));
}

/** A finished job is of no use: Postgres holds what happened. A failed one is kept a while to look at. */
export const KEEP: Pick<JobsOptions, 'removeOnComplete' | 'removeOnFail'> = {
  removeOnComplete: true,
  removeOnFail: { age: 24 * 3600, count: 1000 },
};
