import type { Instant } from '../observation.ts';

/** `Date` tells whole seconds; half a second is the best guess for the rest. */
const HALF_SECOND_MS = 500;
/** The median of so many answers smooths the half seconds, and one odd proxy does not matter. */
const KEPT = 15;

/** Compares Descope's clock with the mirror database's. */
export interface ClockComparison {
  /** An answer dated `date` came `ms` after it was asked for at `sentAt`. Undated answers tell nothing. */
  note(sentAt: Instant, ms: number, date: string | null): void;
  /** Descope's clock minus the database's; 0 before any answer. */
  readonly offsetMs: () => number;
}

export function createClockComparison(): ClockComparison {
  const offsets: number[] = [];
  return {
    note(sentAt, ms, date) {
      const answeredMs = Date.parse(date ?? '') + HALF_SECOND_MS;
      const offset = answeredMs - (toEpochMs(sentAt) + ms / 2);
      if (Number.isNaN(offset)) return;
      offsets.push(offset);
      if (offsets.length > KEPT) offsets.shift();
    },
    offsetMs() {
      const sorted = offsets.toSorted((a, b) => a - b);
      return Math.round(sorted[Math.floor(sorted.length / 2)] ?? 0);
    },
  };
}

/** Postgres prints `2026-01-31 12:00:00.123456+00`; JavaScript wants a T and the zone's minutes. */
function toEpochMs(instant: Instant): number {
  return Date.parse(instant.replace(' ', 'T').replace(/([+-]\d{2})$/, '$1:00'));
}
