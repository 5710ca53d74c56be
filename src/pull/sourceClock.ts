import { databaseNow, type Mirror } from '../mirror/database.ts';

import type { Call, DescopeClient } from '../descope/types.ts';

/** Descope tells its time in whole seconds, so the comparison may be off by half of one. */
const UNSURE_MS = 500;

/**
 * Now, by Descope's clock, in epoch ms. Windows are cut in Descope's time: were they cut in ours, a
 * skew larger than the overlap would let changes slip behind the watermark. A client that has no answer
 * yet to tell the skew by asks for one. Rather a little early than late: nothing is proven ahead of time.
 */
export async function sourceNowMs(
  mirror: Pick<Mirror, 'db'>,
  client: Pick<DescopeClient, 'clockOffsetMs' | 'searchUsers'>,
  call: Call,
): Promise<number> {
  if (client.clockOffsetMs() === 0) {
    await client.searchUsers({ field: 'createdTime', limit: 1 }, call);
  }
  return Date.parse(await databaseNow(mirror)) + client.clockOffsetMs() - UNSURE_MS;
}
