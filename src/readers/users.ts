import { setTimeout as sleep } from 'node:timers/promises';

/*
 * What applications import as `rollcall/readers`: typed reads of the mirror, through a connection of
 * their own. Nothing here writes, and nothing asks Descope.
 */

/** Whatever sends a statement to Postgres and gives back its rows: a `pg.Pool`, or a client of one. */
export interface Queryable {
  query(text: string, values: unknown[]): Promise<{ rows: unknown[] }>;
}

/** Where the mirror is. */
export interface Reader {
  readonly db: Queryable;
  /** The mirror's schema (`MIRROR_SCHEMA`); `descope` where absent. */
  readonly schema?: string;
}

/** A live user. */
export interface User {
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
  readonly customAttributes: Readonly<Record<string, unknown>>;
  readonly createdTime: Date | null;
  readonly modifiedTime: Date | null;
  /** Descope's whole answer. */
  readonly raw: Readonly<Record<string, unknown>>;
  /**
   * As of when this is known to be right: the moment the user was last looked at, or the mirror's own
   * `as_of` where that is later (a change since would have been found).
   */
  readonly asOf: Date;
}

/** One row of the feed. */
export interface Change {
  /** To go on from: store it once the change is dealt with. */
  readonly cursor: string;
  readonly userId: string;
  readonly kind: 'created' | 'updated' | 'deleted' | 'restored';
  /** Names of the fields that changed, as Descope's API has them; empty unless `updated`. */
  readonly changed: readonly string[];
  readonly observedAt: Date;
  readonly witness: string;
}

/** What the mirror has seen of a user. */
export interface Sighting {
  readonly userId: string;
  readonly observedAt: Date;
  /** Whether what was seen is that the user is gone. */
  readonly deleted: boolean;
}

export interface PageOptions {
  /** The last user id of the page before. */
  readonly after?: string;
  /** 100 where absent. */
  readonly limit?: number;
}

const DEFAULT_LIMIT = 100;

const COLUMNS = `
  u.user_id as "userId", u.login_ids as "loginIds", u.external_ids as "externalIds", u.email, u.phone,
  u.name, u.given_name as "givenName", u.middle_name as "middleName", u.family_name as "familyName",
  u.picture, u.status, u.verified_email as "verifiedEmail", u.verified_phone as "verifiedPhone", u.test,
  u.role_names as "roleNames", u.permissions, u.sso_app_ids as "ssoAppIds",
  u.custom_attributes as "customAttributes", u.created_time as "createdTime",
  u.modified_time as "modifiedTime", u.raw, greatest(u.observed_at, status.as_of) as "asOf"`;

/** The user, or null where there is none (any more). */
export async function findUser(reader: Reader, userId: string): Promise<User | null> {
  const [user] = await read<User>(
    reader,
    (schema) => `select ${COLUMNS} from ${schema}.live_users u, ${schema}.sync_status status
                 where u.user_id = $1`,
    [userId],
  );
  return user ?? null;
}

/** A page of users in the order of their ids. */
export async function listUsers(reader: Reader, page: PageOptions = {}): Promise<User[]> {
  return read<User>(
    reader,
    (schema) => `select ${COLUMNS} from ${schema}.live_users u, ${schema}.sync_status status
                 where u.user_id > $1 order by u.user_id limit $2`,
    [page.after ?? '', page.limit ?? DEFAULT_LIMIT],
  );
}

/** A page of a tenant's users in the order of their ids. */
export async function usersOfTenant(
  reader: Reader,
  tenantId: string,
  page: PageOptions = {},
): Promise<User[]> {
  return read<User>(
    reader,
    (schema) => `select ${COLUMNS}
                 from ${schema}.live_users u join ${schema}.user_tenants t using (user_id),
                      ${schema}.sync_status status
                 where t.tenant_id = $1 and u.user_id > $2 order by u.user_id limit $3`,
    [tenantId, page.after ?? '', page.limit ?? DEFAULT_LIMIT],
  );
}

export interface ChangesOptions {
  /** The cursor of the last change dealt with; null or absent: from the beginning. */
  readonly after?: string | null;
  /** Ends the iteration. Without it the iteration ends once there is nothing more to read. */
  readonly follow?: AbortSignal;
  /** How long to wait before asking again when following, in ms; 1 s where absent. */
  readonly everyMs?: number;
  /** Rows a statement; 1,000 where absent. */
  readonly batch?: number;
}

/**
 * The feed: every change once, a user's own in their order, however late a transaction was committed.
 * Deal with a change, then store its cursor: what was not stored comes again.
 */
export async function* changes(
  reader: Reader,
  options: ChangesOptions = {},
): AsyncGenerator<Change, void, undefined> {
  const { follow, everyMs = 1_000, batch = 1_000 } = options;
  let after = options.after ?? null;
  while (follow?.aborted !== true) {
    const found = await read<Change>(
      reader,
      (
        schema,
      ) => `select cursor, user_id as "userId", kind, changed, observed_at as "observedAt", witness
                   from ${schema}.changes_since($1, $2)`,
      [after, batch],
    );
    for (const change of found) {
      yield change;
      after = change.cursor;
    }
    if (found.length === batch) continue;
    if (!follow) return;
    await sleep(everyMs, undefined, { signal: follow }).catch(() => undefined);
  }
}

export interface WaitOptions {
  /** 30 s where absent. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const WAIT_MS = 30_000;
const ASK_EVERY_MS = 50;

/**
 * Waits until the mirror has seen a user at or after an instant: note the time, write to Descope, wait,
 * read your own write. Null where that does not happen in time.
 */
export async function waitFor(
  reader: Reader,
  userId: string,
  since: Date | string,
  options: WaitOptions = {},
): Promise<Sighting | null> {
  const timeout = AbortSignal.timeout(options.timeoutMs ?? WAIT_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  while (!signal.aborted) {
    const [seen] = await read<Sighting>(
      reader,
      (schema) => `select user_id as "userId", observed_at as "observedAt",
                          deleted_at is not null as deleted
                   from ${schema}.users where user_id = $1 and observed_at >= $2::timestamptz`,
      [userId, typeof since === 'string' ? since : since.toISOString()],
    );
    if (seen) return seen;
    await sleep(ASK_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
  return null;
}

/** Rows of one statement; their shape is the promise of the statements above. */
async function read<Row>(
  { db, schema = 'descope' }: Reader,
  statement: (quotedSchema: string) => string,
  values: unknown[],
): Promise<Row[]> {
  const quoted = `"${schema.replaceAll('"', '""')}"`;
  const { rows } = await db.query(statement(quoted), values);
  return rows as Row[];
}
