import { DescopeRejected, DescopeUnavailable } from '../errors.ts';
import { parseJson } from '../json.ts';
import { isNotFound, parseAnswer, toUser, toUsers } from './answers.ts';

import type { Exclusion } from '../exclude.ts';
import type { UserRow } from '../observation.ts';
import type { Ask, Management } from './sdk.ts';
import type { Call, DescopeClient, LoadAnswer, LoadOneAnswer } from './types.ts';
import type { UnknownIds } from './unknownIds.ts';

/** The largest list Descope loads at once is not documented; a page's worth is known to be sound. */
const MAX_IDS = 100;

type Loads = Pick<
  DescopeClient,
  'loadUsers' | 'loadUser' | 'loadUserByLoginId' | 'refusesUnknownIds'
>;

/** `POST /v1/mgmt/users/load` and `GET /v1/mgmt/user`. */
export function createLoads(ask: Ask, exclude: Exclusion, unknownIds: UnknownIds): Loads {
  async function loadOne(
    call: Call,
    send: (management: Management) => Promise<unknown>,
  ): Promise<LoadOneAnswer> {
    const answer = await ask('user load', call, send);
    const { observedAt } = answer;
    try {
      return { user: toUser(parseAnswer('user load', answer, parseJson), exclude), observedAt };
    } catch (error) {
      // Only these words are proof of absence (G4): not a 404, not an empty body.
      if (isNotFound(error)) return { user: null, observedAt };
      throw error;
    }
  }

  async function loadUser(userId: string, call: Call): Promise<LoadOneAnswer> {
    const answer = await loadOne(call, (management) => management.user.loadByUserId(userId));
    if (answer.user === null || answer.user.userId === userId) return answer;
    throw new DescopeUnavailable('user load', 'another user than asked for');
  }

  async function loadBatch(userIds: readonly string[], call: Call): Promise<LoadAnswer> {
    const answer = await ask('users load', call, (management) =>
      // The second argument asks for disabled and expired users too.
      management.user.loadUsers([...userIds], true),
    );
    const users = toUsers(parseAnswer('users load', answer, parseJson), exclude);
    return toLoadAnswer(userIds, users, answer.observedAt);
  }

  /**
   * Halves a batch that is refused until it holds a single id, which is loaded on its own: one unknown
   * id may fail a whole batch; whether it does is not documented.
   */
  async function loadInParts(userIds: readonly string[], call: Call): Promise<LoadAnswer> {
    try {
      return await loadBatch(userIds, call);
    } catch (error) {
      if (!(error instanceof DescopeRejected)) throw error;
    }
    const [userId] = userIds;
    if (userId !== undefined && userIds.length === 1) {
      const { user, observedAt } = await loadUser(userId, call);
      const answer = toLoadAnswer(userIds, user === null ? [] : [user], observedAt);
      return { ...answer, notFound: answer.missing };
    }
    const middle = Math.ceil(userIds.length / 2);
    const older = await loadInParts(userIds.slice(0, middle), call);
    const newer = await loadInParts(userIds.slice(middle), call);
    return {
      users: [...older.users, ...newer.users],
      missing: [...older.missing, ...newer.missing],
      notFound: [...(older.notFound ?? []), ...(newer.notFound ?? [])],
      // The earlier of the two: an observation may be thought older than it is, never newer.
      observedAt: older.observedAt,
    };
  }

  return {
    async loadUsers(userIds, call) {
      const distinct = [...new Set(userIds)];
      if (distinct.length === 0 || distinct.length > MAX_IDS) {
        throw new RangeError(`1 to ${MAX_IDS} users can be loaded at once, not ${distinct.length}`);
      }
      const answer = await loadInParts(distinct, call);
      const isRefused = (answer.notFound ?? []).length > 0;
      if (answer.missing.length > 0) await unknownIds.note(isRefused ? 'refused' : 'skipped');
      return answer;
    },
    refusesUnknownIds: () => unknownIds.refused(),
    loadUser,
    loadUserByLoginId: (loginId, call) =>
      loadOne(call, (management) => management.user.load(loginId)),
  };
}

/** Who was asked for and came, once each, and who did not come. Who came unasked is ignored. */
function toLoadAnswer(
  userIds: readonly string[],
  users: readonly UserRow[],
  observedAt: LoadAnswer['observedAt'],
): LoadAnswer {
  const found = new Map(users.map((user) => [user.userId, user]));
  return {
    users: userIds.map((userId) => found.get(userId)).filter((user) => user !== undefined),
    missing: userIds.filter((userId) => !found.has(userId)),
    observedAt,
  };
}
