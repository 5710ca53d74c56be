import pg from 'pg';
import {
  changes,
  confirmChanges,
  feedHead,
  findUser,
  needsSnapshot,
  listUsers,
  type Reader,
} from 'rollcall/readers';

/*
 * A mailing list kept by the feed, by a program that stores nothing of its own: Rollcall keeps its place under
 * a name. Run it every minute; each run goes on where the last one ended, whatever it died of.
 *
 *   DATABASE_URL=postgres://… node dist/namedCursor.js
 */

const CONSUMER = 'mailing list';

/** Stands for the list's own API: a change may come twice, so it must bear being told the same again. */
async function tell(reader: Reader, userId: string): Promise<void> {
  const user = await findUser(reader, userId);
  console.log(user?.email ? `subscribe ${user.email}` : `unsubscribe ${userId}`);
}

/**
 * Where changes were pruned before we had read them, or the database was restored: the head first, then
 * everyone, then on from there. Whoever left meanwhile is told by nothing, so the list is emptied before.
 */
async function beginAgain(reader: Reader): Promise<void> {
  const head = await feedHead(reader);
  console.log('unsubscribe everybody');
  let after = '';
  for (;;) {
    const page = await listUsers(reader, { after });
    for (const { userId, email } of page) {
      if (email !== null) console.log(`subscribe ${email}`);
      after = userId;
    }
    if (page.length === 0) break;
  }
  await confirmChanges(reader, CONSUMER, head);
}

const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'] });
try {
  const reader: Reader = { db: pool };
  try {
    for await (const { userId } of changes(reader, { consumer: CONSUMER })) {
      await tell(reader, userId);
    }
  } catch (error) {
    if (!needsSnapshot(error)) throw error;
    await beginAgain(reader);
  }
} finally {
  await pool.end();
}
