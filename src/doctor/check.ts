/** ok: nothing to do. warning: it works, but not as it should. bad: it does not work, or not for long. */
export type Verdict = 'ok' | 'warning' | 'bad';

/** One finding for a person; nothing in it is secret or personal. */
export interface Check {
  /** What was looked at, in two words or three. */
  readonly name: string;
  readonly verdict: Verdict;
  readonly found: string;
  /** What to do about it; null where it is ok. */
  readonly remedy: string | null;
}

export function ok(name: string, found: string): Check {
  return { name, verdict: 'ok', found, remedy: null };
}

export function warning(name: string, found: string, remedy: string): Check {
  return { name, verdict: 'warning', found, remedy };
}

export function bad(name: string, found: string, remedy: string): Check {
  return { name, verdict: 'bad', found, remedy };
}
