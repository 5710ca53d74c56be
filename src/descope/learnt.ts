import { sql } from 'drizzle-orm';

import { rows, type Mirror } from '../mirror/database.ts';

/** What only trying could tell about this Descope project; each name has one owner in this folder. */
export type LearntName =
  | 'timeUnit'
  | 'pageSize'
  /** Most rows that ever come in one answer, whatever is asked for; what `doctor` found. */
  | 'largestPage'
  /** Whether users carry `modifiedTime`. */
  | 'sendsModifiedTime'
  /** What a load by ids does with one it does not know: `skipped` or `refused`. */
  | 'unknownIds';

type Store = Pick<Mirror, 'db' | 't'>;

/** The value some process of ours learnt before; undefined where none did. */
export async function loadLearnt(mirror: Store, name: LearntName): Promise<unknown> {
  const [row] = await rows<{ value: unknown }>(
    mirror.db,
    sql`select value from ${mirror.t.learnt} where name = ${name}`,
  );
  return row?.value;
}

/** Remembers a value for all our processes, now and later. */
export async function applyLearnt(
  mirror: Store,
  name: LearntName,
  value: string | number | boolean,
): Promise<void> {
  const text = JSON.stringify(value);
  await mirror.db.execute(sql`
    insert into ${mirror.t.learnt} (name, value) values (${name}, ${text}::jsonb)
    on conflict (name) do update set value = excluded.value, learnt_at = clock_timestamp()`);
}

/** Forgets a value that proved wrong. */
export async function forgetLearnt(mirror: Store, name: LearntName): Promise<void> {
  await mirror.db.execute(sql`delete from ${mirror.t.learnt} where name = ${name}`);
}
