import type { Delivery } from './take.ts';

/** What is told of a user beside the change; null where there is nobody (any more). */
export type UserLook = Readonly<Record<string, unknown>> | null;

/** After these kinds of change there is somebody to look at. */
const HAS_USER = new Set(['created', 'updated', 'restored']);

export function tellsOfUser({ kind }: Pick<Delivery, 'kind'>): boolean {
  return HAS_USER.has(kind);
}

/**
 * A message as Standard Webhooks wants it: what happened, when, and the change as the feed has it, ids and
 * names of fields alone. With `user` also the user as they are now, which may be later than this change.
 */
export function toBody(delivery: Delivery, user?: UserLook): string {
  const { kind, writtenAt, cursor, userId, changed, observedAt, witness } = delivery;
  return JSON.stringify({
    type: `user.${kind}`,
    timestamp: writtenAt,
    data: {
      ...{ cursor, userId, kind, changed, observedAt, witness },
      ...(user === undefined ? {} : { user }),
    },
  });
}
