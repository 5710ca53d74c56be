import { sql, type SQL } from 'drizzle-orm';

import { textArray } from './database.ts';

/**
 * The condition on rows of `events` that they are about a user, or one of several: by id or, where an event
 * names nobody by id, by one of `loginIds` (an SQL `text[]`). Both halves as the indexes have them. To be asked
 * alone, in a materialized CTE: beside an order by time, Postgres may go through the whole inbox for it.
 */
export function whereNamed(userIds: readonly string[], loginIds: SQL): SQL {
  return sql`(user_ids && ${textArray(userIds)}
    or (user_ids = '{}' and login_ids <> '{}' and login_ids && ${loginIds}))`;
}
