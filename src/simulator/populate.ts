import { isTestUser, userIdOf } from './generate.ts';
import { createRandom, hash } from './random.ts';

import type { StoredUser } from './timeline.ts';

export interface Population {
  readonly users: number;
  readonly seed: number;
  /** The users are created in the two years before this instant (epoch ms). */
  readonly endMs: number;
  /** How many of them share one creation instant. */
  readonly sameInstant: number;
}

/** The users a directory begins with, oldest first, with serials from 1; the same for the same seed. */
export function populate(population: Population): StoredUser[] {
  const { seed, endMs } = population;
  const users: StoredUser[] = [];
  creationTimes(population).forEach((createdMs, index) => {
    const serial = index + 1;
    const chance = hash(seed, serial, 80) / 2 ** 32;
    // A third were never changed; of the rest, most long ago.
    const modifiedMs =
      chance < 1 / 3 ? createdMs : Math.floor(createdMs + chance ** 2 * (endMs - createdMs));
    const test = isTestUser(seed, serial);
    const userId = userIdOf(seed, serial);
    users.push({ userId, serial, createdMs, modifiedMs, test, patch: undefined });
  });
  return users;
}

/** Old enough to be settled, whatever the reader leaves alone as too young. */
const YOUNGEST_MS = 600_000;

/**
 * Ascending creation instants (epoch ms) that end before `endMs`: irregular, with quiet weeks and
 * bursts, over two years; `sameInstant` of them, in the middle, are one and the same.
 */
function creationTimes({ users: count, seed, endMs, sameInstant }: Population): Float64Array {
  const random = createRandom(hash(seed, 79));
  const times = new Float64Array(count);
  let spent = 0;
  for (let serial = 0; serial < count; serial++) {
    // Cubing makes most gaps short and a few very long.
    spent += random() ** 3 + (random() < 0.002 ? 5 : 0) + 1e-6;
    times[serial] = spent;
  }
  const spanMs = 2 * 365 * 86_400_000;
  const startMs = endMs - YOUNGEST_MS - spanMs;
  for (let serial = 0; serial < count; serial++) {
    times[serial] = Math.floor(startMs + ((times[serial] ?? 0) / spent) * spanMs);
  }
  const first = Math.max(0, Math.floor((count - sameInstant) / 2));
  times.fill(times[first] ?? 0, first, Math.min(count, first + Math.max(1, sameInstant)));
  return times;
}
