import { applyObservations } from '../../src/apply/apply.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { databaseNow, transaction, type Mirror } from '../../src/mirror/database.ts';

import type { Observation } from '../../src/observation.ts';

export type Answer = Readonly<Record<string, unknown>>;

/** Writes users as loads showed them just now; null: nobody there. */
export async function look(
  mirror: Mirror,
  users: Readonly<Record<string, Answer | null>>,
): Promise<void> {
  const observedAt = await databaseNow(mirror);
  const looks = Object.entries(users).map(([userId, answer]): Observation => {
    if (answer === null) return { kind: 'absent', userId, observedAt };
    const row = toUserRow({ ...answer, userId });
    if (!row) throw new Error('a user without an id');
    return { kind: 'present', userId, row, observedAt, by: 'load' };
  });
  await transaction(mirror, (tx) => applyObservations(tx, mirror.t, looks, 'manual'));
}
