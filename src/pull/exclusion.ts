import { sql } from 'drizzle-orm';

import { recordColumns, toUserRecords, userColumns, userRecordType } from '../apply/records.ts';
import { toUserRow } from '../descope/users.ts';
import { findCode, UsageError } from '../errors.ts';
import { withoutExcludedAnywhere, type Exclusion } from '../exclude.ts';
import { parseJson, toCanonicalJson } from '../json.ts';
import { rows, textArray, transaction, type Executor, type Mirror } from '../mirror/database.ts';
import { generations } from '../mirror/generations.ts';
import { toPresent } from '../observation.ts';
import { hasCompletedSweep, openRun } from './ledger.ts';

import type { MirrorTables } from '../mirror/schema.ts';

/*
 * In: the fields that are left out from now on. Out: a mirror that has none of them. Where the setting is the
 * one that the mirror was filled with there is nothing to do. Ended halfway, it is done again.
 */

const A_STEP = 1_000;
/** In `learnt`: the setting that every row is in line with. */
const KEPT = 'excludedFields';

/**
 * Takes what is newly left out from users and from payloads, and opens a sweep where a field is mirrored again.
 * The feed tells of nothing: nobody has changed.
 * @throws UsageError where our role may not write to all generations
 */
export async function alignExclusion(mirror: Mirror, exclusion: Exclusion): Promise<void> {
  const { names } = exclusion;
  const before = (await readKept(mirror)) ?? [];
  const isLess = names.some((name) => !before.includes(name));
  const isMore = before.some((name) => !names.includes(name));
  if (!isLess && !isMore) return;
  if (isLess) {
    await stripEveryone(mirror, exclusion);
    for (let after: string | null = ''; after !== null;) {
      after = await stripEvents(mirror, exclusion, after);
    }
  }
  await transaction(mirror, async (tx) => {
    await tx.execute(sql`
      insert into ${mirror.t.learnt} (name, value) values (${KEPT}, ${JSON.stringify(names)}::jsonb)
      on conflict (name) do update set value = excluded.value, learnt_at = clock_timestamp()`);
    if (isMore && (await hasCompletedSweep(tx, mirror))) {
      await openRun(tx, mirror, 'sweep', 'fields that were left out are mirrored again');
    }
  });
}

/**
 * Takes what is left out from the users of every generation, whatever setting they were read by.
 * @throws UsageError where our role may not write to all generations
 */
export async function stripEveryone(mirror: Mirror, exclusion: Exclusion): Promise<void> {
  if (exclusion.names.length === 0) return;
  for (let after: string | null = ''; after !== null;) {
    after = await stripUsers(mirror, exclusion, after).catch(explainRefusal);
  }
}

/** Where somebody has taken our role's rights on what a rebuild has left. */
function explainRefusal(error: unknown): never {
  if (findCode(error) !== '42501') throw error;
  throw new UsageError(
    'MIRROR_EXCLUDE leaves out more than before, and the user of DATABASE_URL may not write to what a rebuild has ' +
      'replaced: let `rollcall rebuild --drop-previous` run as the owner of the tables, then start again',
  );
}

/**
 * For commands beside the service: one started without its settings must not bring back what is left out.
 * @throws UsageError where the mirror leaves out other fields
 */
export async function assertExclusion(mirror: Mirror, exclusion: Exclusion): Promise<void> {
  const kept = await readKept(mirror);
  if (kept === null) return alignExclusion(mirror, exclusion);
  assertSame(kept, exclusion);
}

/**
 * The same in a transaction, of a mirror that has been filled.
 * @throws UsageError where the mirror leaves out other fields by now
 */
export async function assertStillExcluded(
  tx: Executor,
  { t }: Pick<Mirror, 't'>,
  exclusion: Exclusion,
): Promise<void> {
  assertSame((await readKept({ db: tx, t })) ?? [], exclusion);
}

function assertSame(kept: readonly string[], exclusion: Exclusion): void {
  if (kept.join() === exclusion.names.join()) return;
  throw new UsageError(
    `the mirror leaves out ${kept.join(', ') || 'no field'}, and MIRROR_EXCLUDE says ` +
      `${exclusion.names.join(', ') || 'none'}: set it as the service has it, or start the service to change it`,
  );
}

async function readKept({
  db,
  t,
}: {
  readonly db: Executor;
  readonly t: Mirror['t'];
}): Promise<readonly string[] | null> {
  const [row] = await rows<{ names: readonly string[] }>(
    db,
    sql`select value as names from ${t.learnt} where name = ${KEPT}`,
  );
  return row?.names ?? null;
}

/**
 * The next users by id, made anew of what is left of their answers. Returns the last of them; null: no more. Of
 * every generation in one transaction: whatever a rebuild swaps between two of them, none is forgotten.
 */
async function stripUsers(
  mirror: Mirror,
  exclusion: Exclusion,
  after: string,
): Promise<string | null> {
  return transaction(mirror, async (tx) => {
    const all = await generations(tx, mirror.t);
    const parts = all.map(
      ({ users }) => sql`(select user_id from ${users} where user_id > ${after}
        order by user_id limit ${A_STEP})`,
    );
    const found = await rows<{ userId: string }>(
      tx,
      sql`select user_id as "userId" from (${sql.join(parts, sql` union `)}) as ids
          order by user_id limit ${A_STEP}`,
    );
    const userIds = found.map(({ userId }) => userId);
    for (const t of all) await stripThese(tx, t, exclusion, userIds);
    return userIds.length < A_STEP ? null : (userIds.at(-1) ?? null);
  });
}

async function stripThese(
  tx: Executor,
  t: MirrorTables,
  exclusion: Exclusion,
  userIds: readonly string[],
): Promise<void> {
  const found = await rows<{ raw: string }>(
    tx,
    sql`select raw::text as raw from ${t.users}
        where user_id = any(${textArray(userIds)}) order by user_id for update`,
  );
  const left = found.flatMap(({ raw }) => toUserRow(parseJson(raw), exclusion) ?? []);
  const records = toUserRecords(left.map((row) => toPresent(row, 'epoch', 'load')));
  await tx.execute(sql`
    update ${t.users} as u set (${userColumns}) = row(${recordColumns})
    from jsonb_to_recordset(${records}::jsonb) as r(${userRecordType})
    where u.user_id = r.user_id and u.content_hash <> r.content_hash`);
  if (exclusion.names.includes('userTenants')) {
    await tx.execute(sql`delete from ${t.userTenants} where user_id = any(${textArray(userIds)})`);
  }
}

/** The same of the next events and their payloads. */
async function stripEvents(
  { db, t }: Mirror,
  exclusion: Exclusion,
  after: string,
): Promise<string | null> {
  const found = await rows<{ eventId: string; payload: string }>(
    db,
    sql`select event_id as "eventId", payload::text as payload from ${t.events}
        where event_id > ${after} order by event_id limit ${A_STEP}`,
  );
  const changed = found.flatMap(({ eventId, payload }) => {
    const record = parseJson(payload);
    const left = toCanonicalJson(withoutExcludedAnywhere(record, exclusion));
    return left === toCanonicalJson(record) ? [] : [`{"event_id":"${eventId}","payload":${left}}`];
  });
  if (exclusion.names.includes('userTenants')) {
    await db.execute(sql`
      update ${t.events} set tenant_ids = '{}'
      where event_id = any(${textArray(found.map(({ eventId }) => eventId))}) and tenant_ids <> '{}'`);
  }
  await db.execute(sql`
    update ${t.events} as e set payload = r.payload
    from jsonb_to_recordset(${`[${changed.join(',')}]`}::jsonb) as r(event_id text, payload jsonb)
    where e.event_id = r.event_id`);
  return found.length < A_STEP ? null : (found.at(-1)?.eventId ?? null);
}
