import { parseJson } from '../json.ts';
import { parseAnswer } from './answers.ts';

import type { Ask } from './sdk.ts';
import type { Call } from './types.ts';

/** The audit webhook connector as it is to be; it streams every audit event. */
export interface AuditWebhook {
  readonly name: string;
  /** Where Descope posts, the path included. */
  readonly url: string;
  readonly hmacSecret: string;
  /** What deliveries must carry besides the signature, at most one of each. */
  readonly bearerToken: string | null;
  readonly basic: { readonly name: string; readonly value: string } | null;
  readonly apiKey: { readonly name: string; readonly value: string } | null;
}

/**
 * `POST /v2/mgmt/connector/audit/web/set`: creates an audit webhook connector. Tells its id, null where
 * the answer has none. Asked twice, it may create two.
 * @throws what `Ask` and `parseAnswer` throw
 */
export async function createAuditWebhook(
  ask: Ask,
  webhook: AuditWebhook,
  call: Call,
): Promise<string | null> {
  const { name, url, hmacSecret, bearerToken, basic, apiKey } = webhook;
  const authentication = {
    ...(bearerToken === null ? {} : { bearerToken }),
    ...(basic && { basic: { username: basic.name, password: basic.value } }),
    ...(apiKey && { apiKey: { key: apiKey.name, token: apiKey.value } }),
  };
  // No filter is everything: one by actions would have to name the plural ones, and those yet to come.
  const options = {
    ...{ name, description: 'Feeds the Rollcall mirror', url, hmacSecret },
    ...(Object.keys(authentication).length === 0 ? {} : { authentication }),
  };
  const answer = await ask('connector', call, (management) =>
    management.audit.createAuditWebhook(options),
  );
  // What an accepted request is answered is not documented: it may well be nothing.
  if (answer.status >= 200 && answer.status < 300 && answer.text.trim() === '') return null;
  const { fields } = parseAnswer('connector', answer, parseJson);
  return typeof fields['id'] === 'string' ? fields['id'] : null;
}
