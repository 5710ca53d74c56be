import pg from 'pg';

/** Rows of one statement, over a connection of its own. */
export async function query<Row = Record<string, unknown>>(
  url: string,
  statement: string,
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  // A server may go away while it is asked; the statement's own rejection tells.
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query(statement)).rows as Row[];
  } finally {
    await client.end();
  }
}
