import { sql } from 'drizzle-orm';
import { expect, onTestFinished } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as rebuild from '../../src/commands/rebuild.ts';
import * as sync from '../../src/commands/sync.ts';
import { runCommand, textOf, type Outcome } from '../commands/context.ts';
import { eventually } from '../support/eventually.ts';
import { createScene, type Scene, type WorldOptions } from '../support/world.ts';

/** Without an event, and with a modified time that does not move: only who reads everyone finds it. */
export const SILENT = { event: false, moveModifiedTime: false } as const;

/** A mirror that has been filled. */
export async function filled(options: WorldOptions = {}): Promise<Scene> {
  const scene = await createScene({
    simulator: { users: 300 },
    ...options,
    env: { PULL_SETTLE_SECONDS: '0', ...options.env },
  });
  onTestFinished(() => scene.stop());
  expect((await runCommand(backfill, scene)).exitCode).toBe(0);
  return scene;
}

/** Pulls until the mirror is equal: what happened this very moment may come with the next pull only. */
export async function caughtUp(s: Scene): Promise<void> {
  await eventually(async () => {
    await runCommand(sync, s);
    await s.assertEqual();
  });
}

type Option = 'dryRun' | 'approve' | 'rollback' | 'dropPrevious' | 'discard';

/** `rollcall rebuild --json`, with an option. */
export async function runRebuild(
  s: Scene,
  option?: Option,
  signal?: AbortSignal,
): Promise<Outcome> {
  const options = option === undefined ? {} : { [option]: true };
  const outcome = await runCommand(rebuild, s, options, {
    json: true,
    ...(signal === undefined ? {} : { signal }),
  });
  await s.assertPrivate(textOf(outcome));
  return outcome;
}

export interface Change {
  readonly userId: string;
  readonly kind: string;
  readonly changed: readonly string[];
}

/** What the feed tells from now on, in its order. */
export async function followFeed(s: Scene): Promise<() => Promise<Change[]>> {
  const { t } = s.database.mirror;
  const [last] = await s.query<{ seq: string }>(
    sql`select coalesce(max(seq), 0)::text as seq from ${t.userChanges}`,
  );
  return () =>
    s.query<Change>(
      sql`select user_id as "userId", kind, changed from ${t.userChanges}
          where seq > ${last?.seq}::bigint order by seq`,
    );
}

/** Which generations of the users' tables there are. */
export async function tables(s: Scene): Promise<string[]> {
  const found = await s.query<{ name: string }>(
    sql`select tablename as name from pg_tables
        where schemaname = ${s.database.mirror.schema} and tablename like 'users%' order by 1`,
  );
  return found.map(({ name }) => name);
}
