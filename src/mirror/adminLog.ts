import { sql } from 'drizzle-orm';

import { describeError, hidePersonalData, Stopping } from '../errors.ts';
import { toStorableText } from '../json.ts';
import { rows, type Executor, type Mirror } from './database.ts';

/** What a person does that changes something: at the dashboard, or by a command. */
export interface AdminAction {
  readonly actor: 'dashboard' | 'command';
  /** As the command line says it, such as `deletions approve`. */
  readonly action: string;
  /** What it is done to: ids, never more of a person. */
  readonly detail: Readonly<Record<string, unknown>>;
}

type Db = Pick<Mirror, 'db' | 't'>;

/**
 * Does `work`, and keeps in `admin_log` who did it and how it ended: one row, written before it begins, so
 * that nothing is done unrecorded. `toResult` says in a few words of JSON what came of it.
 * @throws what `work` throws; what Postgres throws where the row cannot be written, and nothing is done then
 */
export async function whileLogged<T>(
  mirror: Db,
  action: AdminAction,
  work: () => Promise<T>,
  toResult: (done: T) => Readonly<Record<string, unknown>> = () => ({}),
): Promise<T> {
  const entryId = await begin(mirror, action);
  try {
    const done = await work();
    await end(mirror, entryId, 'done', toResult(done));
    return done;
  } catch (error) {
    const outcome = error instanceof Stopping ? 'stopped' : `failed: ${describeError(error)}`;
    await end(mirror, entryId, outcome, {});
    throw error;
  }
}

/** Users of an action as its detail: a number, and the first of them by id. */
export function detailOfUsers(userIds: readonly string[]): Readonly<Record<string, unknown>> {
  return { users: userIds.length, userIds: userIds.slice(0, USERS_NAMED) };
}

/** The others are known by what was done: a deletion's row tells when it was decided. */
const USERS_NAMED = 100;

/** Takes texts out of what the log says things were done to: all there is of a user who was erased. */
export async function scrubAdminLog(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  texts: readonly string[],
): Promise<number> {
  let scrubbed = 0;
  for (const text of texts) {
    // As a whole text of the JSON, quotes and all.
    const quoted = sql`to_jsonb(${text}::text)::text`;
    const found = await rows(
      tx,
      sql`update ${t.adminLog}
          set detail = replace(detail::text, ${quoted}, '"[erased]"')::jsonb
          where strpos(detail::text, ${quoted}) > 0 returning 1`,
    );
    scrubbed += found.length;
  }
  return scrubbed;
}

async function begin({ db, t }: Db, { actor, action, detail }: AdminAction): Promise<number> {
  const [entry] = await rows<{ entryId: number }>(
    db,
    sql`insert into ${t.adminLog} (actor, action, detail, outcome)
        values (${actor}, ${action}, ${toJson(detail)}::jsonb, 'begun')
        returning entry_id::float8 as "entryId"`,
  );
  if (!entry) throw new Error('the admin log did not take the entry');
  return entry.entryId;
}

async function end(
  { db, t }: Db,
  entryId: number,
  outcome: string,
  result: Readonly<Record<string, unknown>>,
): Promise<void> {
  const update = sql`
    update ${t.adminLog} set outcome = ${outcome}, detail = detail || ${toJson(result)}::jsonb
    where entry_id = ${entryId}`;
  // What is done is done, and must not be answered as a failure: the row goes on to say that it was begun.
  await db.execute(update).catch(() => undefined);
}

/** Where an id is expected, a person may type a mail address. */
function toJson(detail: Readonly<Record<string, unknown>>): string {
  // Each text by itself: in the JSON an escape may stand before an address, and would be cut in two.
  return JSON.stringify(detail, (_key, value: unknown) =>
    typeof value === 'string' ? toStorableText(hidePersonalData(value)) : value,
  );
}
