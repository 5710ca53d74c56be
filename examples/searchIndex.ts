import pg from 'pg';
import { changes, feedHead, findUser, listUsers, type Reader, type User } from 'rollcall/readers';

/*
 * A search index kept by the feed: words of names to user ids, in memory. A real one would store the
 * cursor beside its documents, in one transaction where it can, and begin with everyone only once.
 *
 *   DATABASE_URL=postgres://… node dist/searchIndex.js ada
 */

const index = new Map<string, Set<string>>();
const words = new Map<string, readonly string[]>();

function forget(userId: string): void {
  for (const word of words.get(userId) ?? []) index.get(word)?.delete(userId);
  words.delete(userId);
}

function add({ userId, name }: User): void {
  const names = (name ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  words.set(userId, names);
  for (const word of names) {
    const users = index.get(word) ?? new Set<string>();
    index.set(word, users.add(userId));
  }
}

/** A change says whom to look at; what they are like is read when it is dealt with. */
async function look(reader: Reader, userId: string): Promise<void> {
  forget(userId);
  const user = await findUser(reader, userId);
  if (user) add(user);
}

/** Everyone there is; what changes meanwhile, the feed tells. */
async function addEveryone(reader: Reader): Promise<void> {
  let after = '';
  for (;;) {
    const page = await listUsers(reader, { after });
    if (page.length === 0) return;
    for (const user of page) {
      add(user);
      after = user.userId;
    }
  }
}

const [wanted = ''] = process.argv.slice(2);
const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'] });
try {
  const reader: Reader = { db: pool };
  // In this order: what happens after the head is in the feed, what happened before it is in the pages.
  let cursor = await feedHead(reader);
  await addEveryone(reader);
  for await (const change of changes(reader, { after: cursor })) {
    await look(reader, change.userId);
    cursor = change.cursor;
  }
  const found = [...(index.get(wanted.toLowerCase()) ?? [])].sort();
  for (const userId of found) console.log(userId);
} finally {
  await pool.end();
}
