/** Whatever sends a statement to Postgres and gives back its rows: a `pg.Pool`, or a client of one. */
export interface Queryable {
  query(text: string, values: unknown[]): Promise<{ rows: unknown[] }>;
}

/** Where the mirror is. */
export interface Reader {
  readonly db: Queryable;
  /** The mirror's schema (`MIRROR_SCHEMA`); `descope` where absent. */
  readonly schema?: string;
}

/** Rows of one statement; their shape is the caller's promise about it. */
export async function read<Row>(
  { db, schema = 'descope' }: Reader,
  statement: (quotedSchema: string) => string,
  values: unknown[],
): Promise<Row[]> {
  const quoted = `"${schema.replaceAll('"', '""')}"`;
  const { rows } = await db.query(statement(quoted), values);
  return rows as Row[];
}
