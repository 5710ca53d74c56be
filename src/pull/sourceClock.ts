import { databaseNow, type Mirror } from '../mirror/database.ts';

import type { DescopeClient } from '../descope/types.ts';

/**
 * Now, by Descope's clock, in epoch ms. Windows are cut in Descope's time: were they cut in ours, a
 * skew larger than the overlap would let changes slip behind the watermark.
 */
export async function sourceNowMs(
  mirror: Pick<Mirror, 'db'>,
  client: Pick<DescopeClient, 'clockOffsetMs'>,
): Promise<number> {
  return Date.parse(await databaseNow(mirror)) + client.clockOffsetMs();
}
