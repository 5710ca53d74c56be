import { sql } from 'drizzle-orm';
import { expect } from 'vitest';

import { pruneFeed } from '../../src/feed/prune.ts';
import { findCode } from '../../src/errors.ts';
import { rows } from '../../src/mirror/database.ts';

import type { TestDatabase } from '../support/database.ts';

/*
 * Who reads the feed in these tests, each for a mirror of its own, and what they must have come to.
 */

export interface Change {
  readonly seq: string;
  readonly userId: string;
  readonly kind: string;
  readonly cursor: string;
}

/** Of a cursor whose following rows were pruned. */
export const TOO_OLD = 'RC001';

/** Keeps every change that was ever committed, pruned or not, beside the feed. */
export async function keepAllChanges({ mirror: { db } }: TestDatabase): Promise<void> {
  await db.execute(sql`
    create table public.all_changes (seq bigint, transaction_id xid8);
    create function public.keep_change() returns trigger language plpgsql as $$
    begin
      insert into public.all_changes values (new.seq, new.transaction_id);
      return null;
    end $$;
    create trigger keep_change after insert on descope.user_changes
      for each row execute function public.keep_change()`);
}

export async function clearFeed({ mirror: { db, t } }: TestDatabase): Promise<void> {
  await db.execute(sql`
    truncate ${t.users}, ${t.userTenants}, ${t.userChanges}, ${t.feedPruned}, ${t.feedCursors}`);
  await db.execute(sql`truncate public.all_changes`);
}

/** Every committed row with a seq of at most this is made two days old; what is older than one day is pruned. */
export async function prune(
  { mirror }: TestDatabase,
  upToSeq: number | null = null,
): Promise<number> {
  const { db, t } = mirror;
  await db.execute(sql`
    update ${t.userChanges} set written_at = written_at - interval '2 days'
    where written_at > now() - interval '1 day' and ${upToSeq === null ? sql`true` : sql`seq <= ${upToSeq}`}`);
  return pruneFeed(mirror, { days: 1, steps: 1_000 }, new AbortController().signal);
}

/** The places in the feed of one unbroken stretch of reading: after `from`, up to `to`. */
interface Stretch {
  readonly from: string;
  to: string;
}

/** A mirror of who is there, made of the feed; where that was pruned too far, of a snapshot first. */
export class Consumer {
  readonly seqs: string[] = [];
  readonly live = new Set<string>();
  readonly stretches: Stretch[] = [{ from: '0-0', to: '0-0' }];
  protected readonly database: TestDatabase;
  protected cursor: string | null = null;

  constructor(database: TestDatabase) {
    this.database = database;
  }

  /** Reads once; tells whether there was anything. */
  async read(most: number): Promise<boolean> {
    const mustFail = await this.isCutOff();
    let changes: Change[];
    try {
      changes = await this.ask(most);
    } catch (error) {
      if (findCode(error) !== TOO_OLD) throw error;
      // Only pruning that runs beside it can have come in between.
      expect(mustFail || (await this.isCutOff())).toBe(true);
      await this.takeSnapshot();
      return true;
    }
    expect(mustFail).toBe(false);
    for (const change of changes) this.deal(change);
    return changes.length > 0;
  }

  async readAll(): Promise<void> {
    while (await this.read(100)) continue;
  }

  protected ask(most: number): Promise<Change[]> {
    const { db } = this.database.mirror;
    return rows<Change>(
      db,
      sql`select seq, user_id as "userId", kind, cursor
          from descope.changes_since(${this.cursor}, ${most})`,
    );
  }

  protected deal({ seq, userId, kind, cursor }: Change): void {
    this.seqs.push(seq);
    if (kind === 'deleted') this.live.delete(userId);
    else this.live.add(userId);
    this.moveTo(cursor);
  }

  protected moveTo(cursor: string): void {
    this.cursor = cursor;
    const stretch = this.stretches.at(-1);
    // What is read once more does not take it back.
    if (stretch && isAfter(cursor, stretch.to)) stretch.to = cursor;
  }

  /** As the error's hint says: the head first, then everyone. */
  protected async takeSnapshot(): Promise<string> {
    const { db, t } = this.database.mirror;
    const [row] = await rows<{ head: string }>(db, sql`select descope.feed_head() as head`);
    const head = row?.head ?? '';
    const users = await rows<{ userId: string }>(
      db,
      sql`select user_id as "userId" from ${t.liveUsers}`,
    );
    this.live.clear();
    for (const { userId } of users) this.live.add(userId);
    this.cursor = head;
    this.stretches.push({ from: head, to: head });
    return head;
  }

  /** Whether a change after our cursor is gone: then, and only then, reading has to fail. */
  protected async isCutOff(cursor = this.cursor): Promise<boolean> {
    const { db, t } = this.database.mirror;
    const after = placeOf(cursor ?? '0-0');
    const gone = await rows(
      db,
      sql`select 1 from public.all_changes a, ${t.feedPruned} p
          where (a.transaction_id, a.seq) > ${after}
            and (a.transaction_id, a.seq) <= (p.transaction_id, p.seq) limit 1`,
    );
    return gone.length > 0;
  }
}

/** One whose place Rollcall keeps. It deals with all it is given, and confirms some of it. */
export class NamedConsumer extends Consumer {
  readonly #name: string;
  /** Cursors confirmed before: what a slower reader of the same name may confirm once more. */
  readonly #confirmed: string[] = [];

  constructor(database: TestDatabase, name: string) {
    super(database);
    this.#name = name;
  }

  /** Reads once and confirms what `share` (0 to 1) of it comes to. */
  async readAndConfirm(most: number, share: number): Promise<boolean> {
    const before = this.cursor;
    const found = await this.read(most);
    const read = this.#read;
    this.#read = [];
    const confirmed = read[Math.floor(read.length * share) - 1] ?? null;
    if (confirmed === null) {
      // What was not confirmed comes again.
      if (read.length > 0) this.cursor = before;
    } else if (await this.#confirmUnlessCutOff(confirmed)) this.cursor = confirmed;
    else await this.takeSnapshot();
    return found;
  }

  /** False where pruning that runs beside it has overtaken what was read. */
  async #confirmUnlessCutOff(cursor: string): Promise<boolean> {
    try {
      await this.confirm(cursor);
      return true;
    } catch (error) {
      if (findCode(error) !== TOO_OLD || !(await this.isCutOff(cursor))) throw error;
      return false;
    }
  }

  override async readAll(): Promise<void> {
    while (await this.readAndConfirm(100, 1)) continue;
  }

  protected async confirm(cursor: string): Promise<void> {
    const { db } = this.database.mirror;
    const confirm = async (which: string) => {
      const [row] = await rows<{ kept: string }>(
        db,
        sql`select descope.confirm_changes(${this.#name}, ${which}) as kept`,
      );
      return row?.kept;
    };
    expect(await confirm(cursor)).toBe(cursor);
    this.#confirmed.push(cursor);
    expect(await confirm(this.#confirmed[0] ?? cursor)).toBe(cursor);
  }

  #read: string[] = [];

  protected override ask(most: number): Promise<Change[]> {
    const { db } = this.database.mirror;
    return rows<Change>(
      db,
      sql`select seq, user_id as "userId", kind, cursor
          from descope.read_changes(${this.#name}, ${most})`,
    );
  }

  protected override deal(change: Change): void {
    this.#read.push(change.cursor);
    super.deal(change);
  }

  protected override async takeSnapshot(): Promise<string> {
    const head = await super.takeSnapshot();
    return (await this.#confirmUnlessCutOff(head)) ? head : this.takeSnapshot();
  }
}

function isAfter(one: string, other: string): boolean {
  const [transaction = 0n, seq = 0n] = one.split('-').map(BigInt);
  const [otherTransaction = 0n, otherSeq = 0n] = other.split('-').map(BigInt);
  return transaction === otherTransaction ? seq > otherSeq : transaction > otherTransaction;
}

function placeOf(cursor: string): ReturnType<typeof sql> {
  const [transactionId = '', seq = ''] = cursor.split('-');
  return sql`(${transactionId}::xid8, ${seq}::bigint)`;
}

/** Each row of every stretch, in the feed's order, repeats aside; and the mirror's own users. */
export async function expectEverything(
  { mirror: { db, t } }: TestDatabase,
  consumer: Consumer,
): Promise<void> {
  const all: string[] = [];
  for (const { from, to } of consumer.stretches) {
    const found = await rows<{ seq: string }>(
      db,
      sql`select seq from public.all_changes
          where (transaction_id, seq) > ${placeOf(from)} and (transaction_id, seq) <= ${placeOf(to)}
          order by transaction_id, seq`,
    );
    all.push(...found.map(({ seq }) => seq));
  }
  const mayRepeat = consumer instanceof NamedConsumer;
  expect(mayRepeat ? [...new Set(consumer.seqs)] : consumer.seqs).toEqual(all);
  const live = await rows<{ userId: string }>(
    db,
    sql`select user_id as "userId" from ${t.liveUsers}`,
  );
  expect([...consumer.live].sort()).toEqual(live.map(({ userId }) => userId).sort());
}
