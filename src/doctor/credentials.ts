import { baseUrlOf, regionOf } from '../descope/baseUrl.ts';
import { isShort } from '../descope/pageSize.ts';
import {
  DescopeRejected,
  DescopeUnauthorised,
  DescopeUnavailable,
  hidePersonalData,
} from '../errors.ts';
import { bad, ok, warning, type Check } from './check.ts';

import type { FoundUsers, Probe } from '../descope/probe.ts';

/* Where Descope is, and whether it lets us read users. */

export interface Account {
  readonly projectId: string;
  readonly managementKey: string;
  /** DESCOPE_BASE_URL; undefined where it is not set. */
  readonly baseUrl: string | undefined;
}

const KEYS_PAGE = 'Company → Management Keys in the Descope console';

/** Pure: what the settings say, before anything is asked. */
export function checkAddress({ projectId, baseUrl }: Account): Check {
  const name = 'address';
  const address = hidePersonalData(baseUrlOf(projectId, baseUrl));
  const expected = baseUrlOf(projectId, undefined);
  const region = regionOf(projectId);
  const named = region === '' ? 'whose id names no region' : `of region ${region}`;
  if (baseUrl === undefined) return ok(name, `${address}, for a project ${named}`);
  const { hostname, protocol } = new URL(baseUrl);
  if (/^api\.(\w+\.)?descope\.com$/.test(hostname) && address !== expected) {
    return warning(
      name,
      `DESCOPE_BASE_URL is ${address}, but the project is one ${named}: ${expected}`,
      'unset DESCOPE_BASE_URL, or check DESCOPE_PROJECT_ID',
    );
  }
  if (protocol === 'http:' && !['localhost', '127.0.0.1', '[::1]'].includes(hostname)) {
    return warning(
      name,
      `${address} is not encrypted: whoever listens can read the management key`,
      'use https:// in DESCOPE_BASE_URL',
    );
  }
  return ok(name, `${address}, by DESCOPE_BASE_URL`);
}

export interface FirstAnswer {
  readonly check: Check;
  /** The oldest users; null where Descope does not let us read any, or cannot be reached. */
  readonly page: FoundUsers | null;
}

/** Reads a page of users, and where that fails finds out why. */
export async function readFirstPage(
  probe: Probe,
  account: Account,
  limit: number,
): Promise<FirstAnswer> {
  const name = 'credentials';
  try {
    const page = await probe.oldest(limit);
    return { check: judgePage(page, limit), page };
  } catch (error) {
    if (error instanceof DescopeUnauthorised) {
      return { check: await explainRefusal(error, probe, account), page: null };
    }
    if (error instanceof DescopeUnavailable) {
      return { check: explainSilence(error, account), page: null };
    }
    if (!(error instanceof DescopeRejected)) throw error;
    const remedy =
      'is PAGE_SIZE too large, or DESCOPE_BASE_URL not the address of the management API?';
    return { check: bad(name, error.message, remedy), page: null };
  }
}

function judgePage({ users, total }: FoundUsers, limit: number): Check {
  const name = 'credentials';
  if ((users.length === 0) !== (total === 0)) {
    return bad(
      name,
      `the answer contradicts itself: ${users.length} users of ${total}`,
      'run doctor again; if it stays so, ask Descope',
    );
  }
  const some = isShort(limit, users.length, total) ? `, ${users.length} in one answer` : '';
  return ok(name, `the management key may read users: ${total} with test users${some}`);
}

/** 401 and 403 do not tell which half of `project:key` is wrong, but a project that exists has keys of its own. */
async function explainRefusal(
  { status }: DescopeUnauthorised,
  probe: Probe,
  { projectId, managementKey }: Account,
): Promise<Check> {
  const name = 'credentials';
  const refused = `Descope refuses to read users (HTTP ${status})`;
  if (!projectId.startsWith('P') && managementKey.startsWith('P')) {
    return bad(
      name,
      `${refused}: DESCOPE_PROJECT_ID and DESCOPE_MANAGEMENT_KEY look exchanged`,
      'a project id begins with P, a management key with K',
    );
  }
  const exists = await probe.hasProject().catch(() => null);
  if (exists === false) {
    return bad(
      name,
      `${refused}, and knows no project ${projectId}`,
      'set DESCOPE_PROJECT_ID as the Descope console has it (Project → Project ID)',
    );
  }
  const isKnown = exists === true ? `project ${projectId} exists, so it is the key: ` : '';
  return bad(
    name,
    `${refused}: ${isKnown}${status === 403 ? 'it lacks the role' : 'it is wrong, expired or not for this project'}`,
    `check DESCOPE_MANAGEMENT_KEY, or make a new one for this project with the right to read users and audit (${KEYS_PAGE})`,
  );
}

function explainSilence(error: DescopeUnavailable, { projectId, baseUrl }: Account): Check {
  const address = hidePersonalData(baseUrlOf(projectId, baseUrl));
  const which = baseUrl === undefined ? 'the region in DESCOPE_PROJECT_ID' : 'DESCOPE_BASE_URL';
  const isAnswered = error.status !== undefined;
  return bad(
    'credentials',
    `${error.message} (${address})`,
    isAnswered
      ? `is ${which} right? If it is, Descope is in trouble: try again later`
      : `is ${which} right, and may this machine reach it (name server, proxy, firewall)?`,
  );
}
