import { pause } from '../abort.ts';
import { DescopeThrottled, DescopeUnavailable } from '../errors.ts';

import type { Call, DescopeClient } from '../descope/types.ts';

/** Waits between tries when Descope gives no usable answer, in ms: some 15 s in all. */
const WAITS_MS = [500, 1_000, 2_000, 4_000, 8_000];

/**
 * A client that asks again: after a 429 as often as it takes (the budget keeps everybody silent
 * meanwhile), after no usable answer a few times with growing waits. What Descope refuses is thrown
 * at once. This is the one layer of ours that retries a request; the queue retries whole jobs.
 */
export function createPatientClient(client: DescopeClient, waitsMs = WAITS_MS): DescopeClient {
  const patiently = async <T>(call: Call, ask: () => Promise<T>): Promise<T> => {
    let failures = 0;
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        if (error instanceof DescopeThrottled) continue;
        const waitMs = waitsMs[failures++];
        if (!(error instanceof DescopeUnavailable) || waitMs === undefined) throw error;
        await pause(waitMs, call.signal);
      }
    }
  };
  return {
    searchUsers: (query, call) => patiently(call, () => client.searchUsers(query, call)),
    loadUsers: (userIds, call) => patiently(call, () => client.loadUsers(userIds, call)),
    refusesUnknownIds: () => client.refusesUnknownIds(),
    loadUser: (userId, call) => patiently(call, () => client.loadUser(userId, call)),
    loadUserByLoginId: (loginId, call) =>
      patiently(call, () => client.loadUserByLoginId(loginId, call)),
    searchAudit: (query, call) => patiently(call, () => client.searchAudit(query, call)),
    clockOffsetMs: () => client.clockOffsetMs(),
  };
}
