import {
  DescopeRejected,
  DescopeThrottled,
  DescopeUnauthorised,
  DescopeUnavailable,
} from '../errors.ts';
import { checkAuditTrail } from './auditTrail.ts';
import { bad, warning, type Check } from './check.ts';
import { checkAddress, readFirstPage, type Account } from './credentials.ts';
import { createLearn } from './learn.ts';
import { checkLoads } from './loads.ts';
import { checkPages } from './pages.ts';
import { checkTimeFilters } from './timeFilters.ts';

import type { FoundUsers, Probe } from '../descope/probe.ts';
import type { TimeUnit } from '../descope/timeUnit.ts';
import type { Mirror } from '../mirror/database.ts';

/* Everything that is asked of Descope, in an order in which each answer helps the next question. */

export interface DescopeDeps {
  readonly probe: Probe;
  readonly account: Account;
  readonly pageSize: number;
  readonly timeUnit: 'auto' | TimeUnit;
  /** Where to keep what was found out; null where there is nothing to keep it in. */
  readonly mirror: Mirror | null;
}

export interface DescopeFindings {
  /** As `AuditFindings` has it. */
  readonly lastDay: number | null;
  /** Whether Descope answered, so that its clock is known. */
  readonly isAnswered: boolean;
}

/** Yields findings as they come. @throws what is not Descope's doing */
export async function* checkDescope(
  deps: DescopeDeps,
): AsyncGenerator<Check, DescopeFindings, undefined> {
  const { probe, account, pageSize } = deps;
  yield checkAddress(account);
  const first = await readFirstPage(probe, account, pageSize).catch((error: unknown) => ({
    check: toCheck('credentials', error),
    page: null,
  }));
  yield first.check;
  if (first.page === null || first.check.verdict === 'bad') {
    yield warning('descope', 'nothing more was asked', 'mend that, then run doctor again');
    return { lastDay: null, isAnswered: false };
  }
  for (const [name, work] of listGroups(deps, first.page)) {
    const { checks, isThrottled } = await attempt(name, work);
    yield* checks;
    if (isThrottled) return { lastDay: null, isAnswered: true };
  }
  const trail = await checkAuditTrail(probe, Date.now() + probe.clockOffsetMs()).catch(
    (error: unknown) => ({ check: toCheck('audit trail', error), lastDay: null }),
  );
  yield trail.check;
  return { lastDay: trail.lastDay, isAnswered: true };
}

type Work = () => Promise<readonly Check[]>;

function listGroups(deps: DescopeDeps, page: FoundUsers): [name: string, work: Work][] {
  const { probe } = deps;
  const learn = createLearn(deps.mirror);
  return [
    ['time unit', () => checkTimeFilters(probe, page, deps.timeUnit, learn)],
    ['page size', () => checkPages({ ...deps, learn }, page)],
    ['batch load', () => checkLoads(probe, page, learn)],
  ];
}

/** What goes wrong in one group is its finding, and the others are looked at all the same. */
async function attempt(
  name: string,
  work: Work,
): Promise<{ checks: readonly Check[]; isThrottled: boolean }> {
  try {
    return { checks: await work(), isThrottled: false };
  } catch (error) {
    return { checks: [toCheck(name, error)], isThrottled: error instanceof DescopeThrottled };
  }
}

function toCheck(name: string, error: unknown): Check {
  if (error instanceof DescopeThrottled) {
    return warning(
      name,
      error.message,
      'run doctor again in a few minutes; who else uses this project? API_BUDGET_PER_MINUTE is our own share',
    );
  }
  if (error instanceof DescopeUnauthorised) {
    const [found = ''] = error.message.split('. ');
    return bad(name, found, 'give the management key a role that may do that');
  }
  if (error instanceof DescopeRejected) {
    return bad(name, error.message, 'run doctor again; if it stays so, ask Descope');
  }
  if (error instanceof DescopeUnavailable) {
    return warning(name, error.message, 'run doctor again: this could not be told');
  }
  throw error;
}
