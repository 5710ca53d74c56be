/** Numbers from 0 (inclusive) to 1 (exclusive), such as `Math.random`. */
export type Random = () => number;

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** Spreads whole numbers over 32 bits: the same inputs give the same output on every machine. */
export function hash(seed: number, ...parts: readonly number[]): number {
  let state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b);
  for (const part of parts) {
    state = Math.imul(state ^ (part | 0) ^ Math.imul(part / 2 ** 32, 0x27d4eb2f), 0xc2b2ae35);
    state ^= state >>> 15;
    state = Math.imul(state, 0x2c1b3c6d);
    state ^= state >>> 13;
  }
  return state >>> 0;
}

/** A repeatable sequence (mulberry32): enough for test data, never for secrets. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A whole number from 0 to `bound` - 1. */
export function below(random: Random, bound: number): number {
  return Math.floor(random() * bound);
}

/** One of `choices`, which must not be empty. */
export function pick<T>(random: Random, choices: readonly T[]): T {
  const choice = choices[below(random, choices.length)];
  if (choice === undefined) throw new Error('nothing to pick from');
  return choice;
}

/** `prefix` (ASCII) and 27 letters and digits, the shape of every Descope id. */
export function idOf(prefix: string, seed: number, serial: number): string {
  // Written into bytes: joining 27 strings costs a kilobyte an id, which a million ids would keep.
  const bytes = Buffer.allocUnsafe(prefix.length + 27);
  bytes.write(prefix, 'latin1');
  let bits = 0;
  for (let letter = 0; letter < 27; letter++) {
    // Five letters take 29 of a hash's 32 bits.
    if (letter % 5 === 0) bits = hash(seed, serial, letter, prefix.charCodeAt(0));
    bytes[prefix.length + letter] = BASE62.charCodeAt(bits % 62);
    bits = Math.floor(bits / 62);
  }
  return bytes.toString('latin1');
}
