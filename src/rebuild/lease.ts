import { sql, type SQL } from 'drizzle-orm';
import { randomUUID } from 'node:crypto';

import { pause } from '../abort.ts';
import { rows, type Mirror } from '../mirror/database.ts';

/*
 * One rebuild at a time. Only thrift and clarity: two side by side would read the same windows and swap once.
 * A row that is renewed, since a lock of a session does not reach through a pooler.
 */

const NAME = 'rebuildLease';
/** Long enough to outlive a slow statement, short enough that after a kill nobody waits for long. */
const LEASE_SECONDS = 10;
const RENEW_EVERY_MS = 2_500;

type Db = Pick<Mirror, 'db' | 't'>;

/**
 * Does `work` while no other process has the lease; `busy` where one has, and goes on renewing it. One that
 * was killed is waited for, some seconds.
 * @throws Stopping, and what `work` throws
 */
export async function whileAlone<T>(
  mirror: Db,
  work: () => Promise<T>,
  signal: AbortSignal,
): Promise<T | 'busy'> {
  const holder = randomUUID();
  const first = await readHolder(mirror);
  while (!(await take(mirror, holder))) {
    const other = await readHolder(mirror);
    // Another than before, or the same that has renewed it since: alive.
    if (other !== undefined && other !== first) return 'busy';
    await pause(250, signal);
  }
  const timer = setInterval(() => {
    // A renewal that fails is made up for by the next; the lease ends by itself otherwise.
    take(mirror, holder).catch(() => undefined);
  }, RENEW_EVERY_MS);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    await mirror.db
      .execute(sql`delete from ${mirror.t.learnt} where name = ${NAME} and ${isOf(holder)}`)
      .catch(() => undefined);
  }
}

const isOf = (holder: string): SQL => sql`value ->> 'by' = ${holder}`;

/** Takes the lease, or renews it. */
async function take({ db, t }: Db, holder: string): Promise<boolean> {
  const taken = await rows(
    db,
    sql`
      insert into ${t.learnt} as known (name, value)
      values (${NAME}, jsonb_build_object('by', ${holder}::text,
        'until', clock_timestamp() + make_interval(secs => ${LEASE_SECONDS})))
      on conflict (name) do update set value = excluded.value, learnt_at = clock_timestamp()
      where known.value ->> 'by' = ${holder}
         or (known.value ->> 'until')::timestamptz < clock_timestamp()
      returning 1`,
  );
  return taken.length > 0;
}

/** Who has it, and until when, as one text. */
async function readHolder({ db, t }: Db): Promise<string | undefined> {
  const [row] = await rows<{ value: string }>(
    db,
    sql`select value::text as value from ${t.learnt} where name = ${NAME}`,
  );
  return row?.value;
}
