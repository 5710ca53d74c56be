import pg from 'pg';
import { changes, findUser, type Reader } from 'rollcall/readers';

/*
 * A search index kept by the feed: words of names to user ids, in memory. A real one would store the
 * cursor beside its documents, in one transaction where it can.
 *
 *   DATABASE_URL=postgres://… node dist/searchIndex.js ada
 */

const index = new Map<string, Set<string>>();
const words = new Map<string, readonly string[]>();

function forget(userId: string): void {
  for (const word of words.get(userId) ?? []) index.get(word)?.delete(userId);
  words.delete(userId);
}

/** A change says whom to look at; what they are like is read when it is dealt with. */
async function look(reader: Reader, userId: string): Promise<void> {
  forget(userId);
  const user = await findUser(reader, userId);
  if (!user) return;
  const names = (user.name ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  words.set(userId, names);
  for (const name of names) {
    const users = index.get(name) ?? new Set<string>();
    index.set(name, users.add(userId));
  }
}

const [wanted = ''] = process.argv.slice(2);
const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'] });
try {
  const reader: Reader = { db: pool };
  let cursor: string | null = null;
  for await (const change of changes(reader, { after: cursor })) {
    await look(reader, change.userId);
    cursor = change.cursor;
  }
  const found = [...(index.get(wanted.toLowerCase()) ?? [])].sort();
  for (const userId of found) console.log(userId);
} finally {
  await pool.end();
}
