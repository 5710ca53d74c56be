/**
 * The one noun of this program, and its glossary.
 *
 * directory    the Descope project's users: the truth
 * mirror       our Postgres copy
 * event        an audit record that touches users; a hint to look, never a value to write
 * inbox        table `events`: every event, committed before the webhook is answered
 * flight       events applied together, so that they share loads by id
 * looks        how often an event's users have been looked at; what it told may not be visible yet
 * parked       an event given up after its attempts; kept, and applied again on request
 * observation  "at `observedAt`, this user looked like this, or was absent"
 * present      seen to be there; of a deletion: dropped, since a load by id found the user
 * witness      how we came to look
 * pull         reading from Descope on a schedule: `modified`, `audit` or `sweep`
 * window       a closed time range that a pull reads as one unit of work
 * watermark    the instant up to which a pull is proven complete, without a hole
 * gap          a window behind the head that is not proven complete
 * blocked      how a run ended that failed or could not be believed
 * tombstone    a `users` row with `deleted_at` set
 * breaker      the limit above which deletions wait for a person
 * rejected     a held deletion that a person turned down; the user stays
 * superseded   a deletion not yet decided when a newer finding took its place
 * budget       requests per minute that all our processes together may send
 */

/** How we came to look at a user. */
export const WITNESSES = ['webhook', 'audit', 'archive', 'modified', 'sweep', 'manual'] as const;
export type Witness = (typeof WITNESSES)[number];

/**
 * An instant of the mirror database's clock: fixed-width ISO-8601 UTC with microseconds
 * (`2026-11-21T01:20:00.123456Z`), so that texts compare as instants do. One clock serves all
 * replicas, so instants of different processes compare.
 */
export type Instant = string;

/** A user's columns, as the mirror stores them; made only by `toUserRow`. */
export interface UserRow {
  readonly userId: string;
  readonly loginIds: readonly string[];
  readonly externalIds: readonly string[];
  readonly email: string | null;
  readonly phone: string | null;
  readonly name: string | null;
  readonly givenName: string | null;
  readonly middleName: string | null;
  readonly familyName: string | null;
  readonly picture: string | null;
  readonly status: string | null;
  readonly verifiedEmail: boolean | null;
  readonly verifiedPhone: boolean | null;
  readonly test: boolean;
  readonly roleNames: readonly string[];
  readonly permissions: readonly string[];
  readonly ssoAppIds: readonly string[];
  /** JSON text of an object. */
  readonly customAttributes: string;
  /** ISO-8601; null where Descope does not send it. */
  readonly createdTime: string | null;
  readonly modifiedTime: string | null;
  readonly tenants: readonly UserTenant[];
  /** The whole answer as JSON text that Postgres accepts as jsonb. */
  readonly raw: string;
  /** Over canonical JSON of `raw`: equal hashes mean nothing changed. */
  readonly contentHash: string;
}

export interface UserTenant {
  readonly tenantId: string;
  readonly tenantName: string | null;
  readonly roleNames: readonly string[];
  readonly permissions: readonly string[];
}

/**
 * Which question the answer came from. Only a `load` by id may confirm an absence or revive a
 * tombstone: a search page can be stale, clamped or partial (guarantees G3, G4).
 */
export type ObservedBy = 'load' | 'page';

export interface Present {
  readonly kind: 'present';
  readonly userId: string;
  readonly row: UserRow;
  readonly observedAt: Instant;
  readonly by: ObservedBy;
}

export interface Absent {
  readonly kind: 'absent';
  readonly userId: string;
  readonly observedAt: Instant;
}

export type Observation = Present | Absent;

/** What one answer shows of a user. */
export function toPresent(row: UserRow, observedAt: Instant, by: ObservedBy): Present {
  return { kind: 'present', userId: row.userId, row, observedAt, by };
}
