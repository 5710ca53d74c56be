import { sql } from 'drizzle-orm';
import { createHash } from 'node:crypto';

import { rows, textArray, type Mirror } from '../mirror/database.ts';
import { keyOf } from '../signing.ts';

/** Somebody whom changes are posted to. */
export interface Endpoint {
  /** A hash of the address: that may hold a secret, and this is shown. */
  readonly endpointId: string;
  readonly url: string;
  readonly host: string;
  /** One or more, all of which sign. */
  readonly keys: readonly Buffer[];
}

const ID_CHARS = 12;

/**
 * The endpoints of the settings. A secret for each address, or one for all; where one is being replaced, the
 * new and the old with a blank between.
 * @throws Error where they do not fit, which the settings' own checks have ruled out
 */
export function toEndpoints(urls: readonly string[], secrets: readonly string[]): Endpoint[] {
  return urls.map((url, at) => {
    const keys = (secrets[secrets.length === 1 ? 0 : at] ?? '').split(/\s+/).flatMap((secret) => {
      const key = keyOf(secret);
      return key ? [key] : [];
    });
    if (keys.length === 0) throw new Error('an address of OUTGOING_URLS has no secret');
    const endpointId = createHash('sha256').update(url).digest('hex').slice(0, ID_CHARS);
    return { endpointId, url, host: new URL(url).host, keys };
  });
}

/**
 * Makes these the endpoints that are served. One not known yet begins with what happens from now on; one that
 * was away for a while goes on where it was, with what is left of that.
 */
export async function registerEndpoints(
  { db, t, schema }: Pick<Mirror, 'db' | 't' | 'schema'>,
  endpoints: readonly Pick<Endpoint, 'endpointId' | 'host'>[],
): Promise<void> {
  const ids = textArray(endpoints.map(({ endpointId }) => endpointId));
  const [row] = await rows<{ head: string }>(
    db,
    sql`select ${sql.identifier(schema)}.feed_head() as head`,
  );
  await db.execute(sql`
    insert into ${t.outgoingEndpoints} as e (endpoint_id, host, cursor)
    select id, host, ${row?.head ?? '0-0'}
    from unnest(${ids}, ${textArray(endpoints.map(({ host }) => host))}) as given(id, host)
    on conflict (endpoint_id) do update
      set state = 'active', reason = null, changed_at = clock_timestamp() where e.state = 'removed'`);
  await db.execute(sql`
    update ${t.outgoingEndpoints} set state = 'removed', reason = null, changed_at = clock_timestamp()
    where state <> 'removed' and endpoint_id <> all(${ids})`);
}
