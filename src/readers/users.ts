import { setTimeout as sleep } from 'node:timers/promises';

import { withTimeout } from '../abort.ts';
import { read, type Reader } from './reader.ts';

export {
  changes,
  confirmChanges,
  feedHead,
  needsSnapshot,
  type Change,
  type ChangesOptions,
} from './feed.ts';
export type { Queryable, Reader } from './reader.ts';
export type { Listener } from './wake.ts';

/*
 * What applications import as `rollcall/readers`: typed reads of the mirror, through a connection of
 * their own. Nothing here writes but `confirmChanges`, and nothing asks Descope.
 */

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
   * As of when this is known to be right: the moment at which the user was last looked at or, where that is
   * later, the one up to which both pulls are proven complete, or the last complete sweep was planned: a
   * change before it would have been found. Held back to the first event not applied yet that is, or may be,
   * about this user; while a deletion of the user is suspected or held, only the last look counts.
   */
  readonly asOf: Date;
}

/** What the mirror has seen of a user. */
export interface Sighting {
  readonly userId: string;
  readonly observedAt: Date;
  /** As of when that is known to be right, see `User`. */
  readonly asOf: Date;
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

const columnsIn = (schema: string) => `
  u.user_id as "userId", u.login_ids as "loginIds", u.external_ids as "externalIds", u.email, u.phone,
  u.name, u.given_name as "givenName", u.middle_name as "middleName", u.family_name as "familyName",
  u.picture, u.status, u.verified_email as "verifiedEmail", u.verified_phone as "verifiedPhone", u.test,
  u.role_names as "roleNames", u.permissions, u.sso_app_ids as "ssoAppIds",
  u.custom_attributes as "customAttributes", u.created_time as "createdTime",
  u.modified_time as "modifiedTime", u.raw, ${schema}.user_as_of(u.user_id) as "asOf"`;

/** The user, or null where there is none (any more). */
export async function findUser(reader: Reader, userId: string): Promise<User | null> {
  const [user] = await read<User>(
    reader,
    (schema) => `select ${columnsIn(schema)} from ${schema}.live_users u
                 where u.user_id = $1`,
    [userId],
  );
  return user ?? null;
}

/** A page of users in the order of their ids. */
export async function listUsers(reader: Reader, page: PageOptions = {}): Promise<User[]> {
  return read<User>(
    reader,
    (schema) => `select ${columnsIn(schema)} from ${schema}.live_users u
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
    (schema) => `select ${columnsIn(schema)}
                 from ${schema}.live_users u join ${schema}.user_tenants t using (user_id)
                 where t.tenant_id = $1 and u.user_id > $2 order by u.user_id limit $3`,
    [tenantId, page.after ?? '', page.limit ?? DEFAULT_LIMIT],
  );
}

export interface RoleOptions extends PageOptions {
  /** Of this tenant; null: of the project itself. Absent: of either. */
  readonly tenantId?: string | null;
}

/** A page of the users that have a role, in the order of their ids. */
export async function usersWithRole(
  reader: Reader,
  roleName: string,
  options: RoleOptions = {},
): Promise<User[]> {
  const { tenantId, after = '', limit = DEFAULT_LIMIT } = options;
  return read<User>(
    reader,
    (schema) => `select ${columnsIn(schema)}
                 from ${schema}.live_users u
                 where u.user_id in (
                     select m.user_id from ${schema}.members_of_role($1) m
                     where m.user_id > $2 and ($4 or m.tenant_id is not distinct from $5))
                 order by u.user_id limit $3`,
    [roleName, after, limit, tenantId === undefined, tenantId ?? null],
  );
}

export interface WaitOptions {
  /** 30 s where absent. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const WAIT_MS = 30_000;
const ASK_EVERY_MS = 50;

/**
 * Waits until the mirror holds a user as of an instant or later: write to Descope, note the time when it has
 * answered, wait, read your own write. (Noted before, a look between that and the write would do too.) Null
 * where that does not happen in time; `wait_for()` in SQL and `/api/wait` also say why.
 */
export async function waitFor(
  reader: Reader,
  userId: string,
  since: Date | string,
  options: WaitOptions = {},
): Promise<Sighting | null> {
  const { timeoutMs = WAIT_MS, signal = new AbortController().signal } = options;
  return withTimeout(timeoutMs, signal, async (either) => {
    while (!either.aborted) {
      const [seen] = await read<Sighting>(
        reader,
        (schema) => `select $1 as "userId", observed_at as "observedAt", as_of as "asOf", deleted
                     from ${schema}.user_freshness($1)
                     where observed_at is not null and as_of >= $2::timestamptz`,
        [userId, typeof since === 'string' ? since : since.toISOString()],
      );
      if (seen) return seen;
      await sleep(ASK_EVERY_MS, undefined, { signal: either }).catch(() => undefined);
    }
    return null;
  });
}
