/** An audit record of any envelope, reduced to what we act on. Values are hints, never written to users. */
export interface DirectoryEvent {
  /** Content key: the same event told by webhook, audit search or archive has the same one. */
  readonly eventId: string;
  /** As Descope spells it where known (`UserCreated`), spaces removed. */
  readonly action: string;
  readonly kind: EventKind;
  /** Epoch ms of Descope's clock; the moment of receipt where the record does not tell. */
  readonly occurredMs: number;
  readonly userIds: readonly string[];
  readonly loginIds: readonly string[];
  readonly actorId: string | null;
  readonly tenantIds: readonly string[];
  /** The record as received, as JSON text that Postgres accepts as jsonb. */
  readonly payload: string;
}

/**
 * What an event asks of us.
 * created, modified, deleted: look at its users (without ids: pull or sweep its window).
 * other: not about users; counted, and kept only where EVENT_ARCHIVE is `all`.
 */
export type EventKind = 'created' | 'modified' | 'deleted' | 'other';
