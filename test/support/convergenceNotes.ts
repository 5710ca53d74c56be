import { sql } from 'drizzle-orm';

import type { Scene } from './world.ts';

/** What happened to rows, however briefly, kept by the database itself. */
export interface Notes {
  /** Everything that must never happen to a row and did, in words. */
  read(): Promise<readonly string[]>;
}

/**
 * Puts triggers on the mirror's tables that note every step back in the transaction that makes it. A
 * look from outside would miss what the next write covers.
 */
export async function createNotes(scene: Scene): Promise<Notes> {
  const { users, watermarks } = scene.database.mirror.t;
  const statements = [
    sql`create table public.notes (note text not null)`,
    sql`create function public.note_user() returns trigger language plpgsql as $$
        begin
          insert into public.notes values (format('%s: observed_at went back from %s to %s, by %s',
            new.user_id, old.observed_at, new.observed_at, new.witness));
          return null;
        end $$`,
    sql`create trigger note_user after update on ${users} for each row
        when (new.observed_at < old.observed_at) execute function public.note_user()`,
    sql`create function public.note_watermark() returns trigger language plpgsql as $$
        begin
          insert into public.notes values (format('the %s watermark went back from %s to %s',
            new.pull, old.complete_to, new.complete_to));
          return null;
        end $$`,
    sql`create trigger note_watermark after update on ${watermarks} for each row
        when (new.complete_to < old.complete_to) execute function public.note_watermark()`,
  ];
  for (const statement of statements) await scene.query(statement);
  return {
    async read() {
      const found = await scene.query<{ note: string }>(sql`select note from public.notes`);
      return found.map(({ note }) => note);
    },
  };
}
