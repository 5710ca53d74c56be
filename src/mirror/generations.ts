import { sql } from 'drizzle-orm';

import { asInstant, rows, type Executor, type Mirror } from './database.ts';
import { mirrorTables, type Generation, type MirrorTables } from './schema.ts';

import type { Instant } from '../observation.ts';

const ALL: readonly Generation[] = ['', '_next', '_previous'];

/**
 * The users' own tables as there are of them now, those that everybody reads first: a rebuild fills others
 * beside them, and keeps for a while those it has replaced. What must leave nothing of a person is done to
 * each, in one `transaction()`: no rebuild swaps them meanwhile.
 */
export async function generations(
  tx: Executor,
  { schema }: Pick<MirrorTables, 'schema'>,
): Promise<MirrorTables[]> {
  const all = ALL.map((generation) => mirrorTables(schema.schemaName, generation));
  const found = await rows<{ isThere: boolean }>(
    tx,
    sql`select to_regclass(format('%I.%I', ${schema.schemaName}::text, 'users' || generation)) is not null
                 as "isThere"
        from unnest(${sql.param(ALL)}::text[]) with ordinality as g (generation, place) order by place`,
  );
  return all.filter((_, at) => found[at]?.isThere === true);
}

/** The same mirror, of which the users' own tables are those of another generation. */
export function ofGeneration(mirror: Mirror, generation: Generation): Mirror {
  return { ...mirror, t: mirrorTables(mirror.schema, generation) };
}

/** In `learnt`: when the tables that are read last took their place. */
const SWAPPED_AT = 'usersSwappedAt';
/** So long, at most, what a rebuild has replaced can be gone back to: what is in it grows old. */
const KEPT_DAYS = 7;

export async function markSwapped(tx: Executor, { t }: Pick<Mirror, 't'>): Promise<void> {
  await tx.execute(sql`
    insert into ${t.learnt} as known (name, value)
    values (${SWAPPED_AT}, to_jsonb(${asInstant(sql`clock_timestamp()`)}))
    on conflict (name) do update set value = excluded.value, learnt_at = clock_timestamp()`);
}

/** Other generations there are, and until when. */
export interface OtherGenerations {
  /** A rebuild that has not ended has tables of its own. */
  readonly hasNext: boolean;
  /** When those that were read before were replaced, and when they are dropped; null where there are none. */
  readonly previous: { readonly replacedAt: Instant; readonly keptUntil: Instant } | null;
}

/** @param tombstoneDays `TOMBSTONE_RETENTION_DAYS`: nothing of a deleted user is kept for longer */
export async function readGenerations(
  db: Executor,
  { t }: Pick<Mirror, 't'>,
  tombstoneDays: number,
): Promise<OtherGenerations> {
  const there = (await generations(db, t)).map(({ generation }) => generation);
  const hasNext = there.includes('_next');
  if (!there.includes('_previous')) return { hasNext, previous: null };
  const swappedAt = sql`(select (value #>> '{}')::timestamptz from ${t.learnt} where name = ${SWAPPED_AT})`;
  const [previous] = await rows<{ replacedAt: Instant; keptUntil: Instant }>(
    db,
    sql`select ${asInstant(sql`at`)} as "replacedAt",
               ${asInstant(sql`(at + make_interval(days => ${Math.min(KEPT_DAYS, tombstoneDays)}))`)}
                 as "keptUntil"
        from coalesce(${swappedAt}, to_timestamp(0)) as at`,
  );
  return { hasNext, previous: previous ?? null };
}
