import { DescopeUnavailable } from '../errors.ts';
import { toPresent } from '../observation.ts';

import type { Call, DescopeClient, LoadAnswer } from '../descope/types.ts';
import type { Instant, Present } from '../observation.ts';

/** A user that a load by id says is gone, and what said so. */
export interface Absence {
  readonly userId: string;
  readonly observedAt: Instant;
  readonly evidence: string;
}

export interface LookUp {
  readonly present: readonly Present[];
  readonly absent: readonly Absence[];
}

/** What Descope itself says of a user it does not have. */
const NOT_FOUND = 'not found (E112102)';

/** Most ids a load takes. */
export const LOAD_LIMIT = 100;

/** What a look takes of the client. */
export type Loads = Pick<DescopeClient, 'loadUsers' | 'loadUser' | 'refusesUnknownIds'>;

/**
 * Loads up to `LOAD_LIMIT` users by id and tells who is there and who is certainly not (guarantee G4).
 *
 * Absence takes two kinds of evidence. `suspected` says whether a user already has the first (a
 * delete event, or missing from a proven window); for those, missing from a load is the second, and
 * since an answer may be wrongly partial, missing from two of them. Any other missing user is asked
 * for singly until Descope itself says "not found" (E112102). An answer that holds nobody at all
 * could be wrongly empty, so one of its users is asked for singly first.
 *
 * Where one unknown id is known to fail a whole batch, whoever is likely to be gone is asked for apart from the
 * others: a request each, where halving the batch would take up to a dozen for each.
 *
 * @throws what the client throws; DescopeUnavailable when an answer turns out wrongly empty
 */
export async function lookUp(
  client: Loads,
  userIds: readonly string[],
  suspected: (userId: string) => boolean,
  call: Call,
): Promise<LookUp> {
  const [only, ...others] = userIds;
  if (only === undefined) return { present: [], absent: [] };
  if (others.length === 0) return lookAtOne(client, only, call);
  const likelyGone = userIds.filter(suspected);
  if (likelyGone.length > 0 && (await client.refusesUnknownIds())) {
    const rest = userIds.filter((userId) => !suspected(userId));
    const looks = [await lookUp(client, rest, suspected, call)];
    for (const userId of likelyGone) looks.push(await lookAtOne(client, userId, call));
    return {
      present: looks.flatMap((look) => look.present),
      absent: looks.flatMap((look) => look.absent),
    };
  }

  const answer = await client.loadUsers(userIds, call);
  const present = seenIn(answer);
  const { observedAt } = answer;
  const certain = new Set(answer.notFound);
  const absent: Absence[] = [...certain].map((userId) => {
    return { userId, observedAt, evidence: NOT_FOUND };
  });
  let unsure = answer.missing.filter((userId) => !certain.has(userId));
  const [first] = unsure;
  if (present.length === 0 && absent.length === 0 && first !== undefined) {
    const one = await lookAtOne(client, first, call);
    if (one.present.length > 0) {
      throw new DescopeUnavailable('load users', 'an answer without users that exist');
    }
    absent.push(...one.absent);
    unsure = unsure.slice(1);
  }
  const suspects = unsure.filter(suspected);
  // One alone costs no more to ask for singly, which says more.
  const singly = suspects.length === 1 ? unsure : unsure.filter((userId) => !suspected(userId));
  for (const userId of singly) {
    const one = await lookAtOne(client, userId, call);
    present.push(...one.present);
    absent.push(...one.absent);
  }
  if (suspects.length > 1) {
    const again = await client.loadUsers(suspects, call);
    present.push(...seenIn(again));
    const evidence = 'missing from two loads by id';
    absent.push(
      ...again.missing.map((userId) => ({ userId, observedAt: again.observedAt, evidence })),
    );
  }
  return { present, absent };
}

function seenIn({ users, observedAt }: LoadAnswer): Present[] {
  return users.map((row) => toPresent(row, observedAt, 'load'));
}

async function lookAtOne(client: Loads, userId: string, call: Call): Promise<LookUp> {
  const { user, observedAt } = await client.loadUser(userId, call);
  if (user === null) {
    return { present: [], absent: [{ userId, observedAt, evidence: NOT_FOUND }] };
  }
  return { present: [toPresent(user, observedAt, 'load')], absent: [] };
}
