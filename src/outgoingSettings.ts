import { z } from 'zod';

import { keyOf } from './signing.ts';

/* The settings of outgoing deliveries; a part of the list in config.ts. */

const list = z
  .string()
  .optional()
  .transform((text) => (text ?? '').split(',').map((part) => part.trim()))
  .transform((parts) => parts.filter((part) => part !== ''));

export const outgoingSettings = {
  OUTGOING_URLS: list.transform((parts, context) => {
    if (parts.every(isAddress) && new Set(parts).size === parts.length) return parts;
    // Never the value itself: an address may hold a secret.
    context.addIssue(
      'must be addresses such as https://example.com/hook, each once, with commas between, ' +
        'without user, password and fragment',
    );
    return z.NEVER;
  }),
  OUTGOING_SECRETS: list.transform((parts, context) => {
    const secrets = parts.flatMap((part) => part.split(/\s+/));
    if (secrets.every((secret) => keyOf(secret) !== null)) return parts;
    context.addIssue(
      'must be secrets of Standard Webhooks: whsec_ and 24 to 64 bytes in base64, with commas between ' +
        '(`echo whsec_$(openssl rand -base64 32)` makes one)',
    );
    return z.NEVER;
  }),
  OUTGOING_BODY: z.enum(['thin', 'full'], { error: 'must be thin or full' }).default('thin'),
} as const;

function isAddress(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, hash } = new URL(text);
  return ['http:', 'https:'].includes(protocol) && username + password + hash === '';
}

/** What is wrong with them together. */
export function checkOutgoing(given: {
  readonly OUTGOING_URLS: readonly string[];
  readonly OUTGOING_SECRETS: readonly string[];
}): string[] {
  const [urls, secrets] = [given.OUTGOING_URLS.length, given.OUTGOING_SECRETS.length];
  if (urls === 0 || secrets === 1 || secrets === urls) return [];
  return [
    secrets === 0
      ? 'OUTGOING_SECRETS is required with OUTGOING_URLS: receivers know by the signature that we sent it'
      : `OUTGOING_SECRETS must be one for all of OUTGOING_URLS or one for each: ${secrets} for ${urls}`,
  ];
}
