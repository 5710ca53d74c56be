import { openQueues, type QueueCounts, type QueueSettings } from '../jobs/queues.ts';
import { readMirrorId, type Mirror } from './mirror/database.ts';
import { within } from './within.ts';

import type { Config } from './config.ts';

/** A queue that answers does so in milliseconds; who asks has other things to tell. */
const DEADLINE_MS = 2_000;

/** What BullMQ says of a schema in which no service has run yet. */
const NOT_MADE = /^BullMQ: PostgreSQL schema .* is not initialized/;

export interface QueueCountsDeps {
  readonly config: Pick<Config, 'REDIS_URL'>;
  readonly databaseUrl: string;
  readonly mirror: Pick<Mirror, 'db' | 't' | 'schema'>;
}

/**
 * What waits in the queues, for a command: asked over connections of its own, which are closed again.
 * Nothing is made: where no service has run yet there is no queue in Postgres to be asked.
 * @throws where the queue does not answer within 2 s
 */
export async function readQueueCounts(deps: QueueCountsDeps): Promise<QueueCounts[]> {
  const { config, databaseUrl, mirror } = deps;
  let cause: unknown;
  const settings: QueueSettings = {
    redisNodes: config.REDIS_URL,
    databaseUrl,
    schema: mirror.schema,
    mirrorId: await readMirrorId(mirror),
    // What a count fails with says less than why there is no connection.
    onError: (error) => {
      cause ??= error;
    },
  };
  const queues = openQueues(settings);
  try {
    return await within(DEADLINE_MS, queues.counts(), () => {
      throw new Error(`no answer within ${DEADLINE_MS / 1000} s`);
    });
  } catch (error) {
    if (error instanceof Error && NOT_MADE.test(error.message)) {
      throw new Error('not made yet, the first `rollcall start` makes it', { cause: error });
    }
    throw cause ?? error;
  } finally {
    await queues.stop();
  }
}
