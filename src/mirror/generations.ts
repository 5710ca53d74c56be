import { sql } from 'drizzle-orm';

import { rows, type Executor, type Mirror } from './database.ts';
import { mirrorTables, type Generation, type MirrorTables } from './schema.ts';

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
