import { toBounds, type TimeUnit } from '../descope/timeUnit.ts';
import { bad, ok, warning, type Check } from './check.ts';

import type { FoundUsers, Probe } from '../descope/probe.ts';
import type { Learn } from './learn.ts';

/* Which unit the time filters take, and whether they cut where they should: everything is read by them. */

const UNITS = { ms: 'milliseconds', s: 'seconds' } as const;
/** `createdTime` is told in whole seconds. */
const SECOND_MS = 1_000;
/** What a window may hold beyond its ends: it is asked for one unit wider, and seconds are cut off. */
const SLACK_MS = 2_000;

/** @param setting DESCOPE_TIME_UNIT */
export async function checkTimeFilters(
  probe: Probe,
  page: FoundUsers,
  setting: 'auto' | TimeUnit,
  learn: Learn,
): Promise<Check[]> {
  const name = 'time unit';
  if (page.total === 0) {
    return [ok(name, 'there is nobody to tell by yet; milliseconds until there is')];
  }
  const unit = await probe.timeUnit();
  if (unit === undefined) {
    return [
      bad(
        name,
        `${page.total} users, but a filter by creation finds nobody, before as after`,
        'run doctor again; if it stays so, ask Descope whether the user search filters by createdTime',
      ),
    ];
  }
  await learn('timeUnit', unit);
  return [judgeUnit(unit, setting), await checkBounds(probe, page, unit)];
}

function judgeUnit(unit: TimeUnit, setting: 'auto' | TimeUnit): Check {
  const found = `the time filters count ${UNITS[unit]}`;
  if (setting === 'auto' || setting === unit) return ok('time unit', found);
  return bad(
    'time unit',
    `${found}, but DESCOPE_TIME_UNIT says ${setting}`,
    'unset DESCOPE_TIME_UNIT: it is found out by itself',
  );
}

/** Asks for a window around one user's creation, as pulls and sweeps would. */
async function checkBounds(probe: Probe, page: FoundUsers, unit: TimeUnit): Promise<Check> {
  const name = 'time bounds';
  const user = page.users.findLast(({ createdTime }) => createdTime !== null);
  if (!user?.createdTime) {
    return warning(
      name,
      'users carry no createdTime, so no window can be checked',
      'sweeps are cut by it: ask Descope why it is missing',
    );
  }
  const fromMs = Date.parse(user.createdTime);
  const toMs = fromMs + SECOND_MS - 1;
  const { users, total } = await probe.createdWithin(toBounds(unit, fromMs, toMs));
  const isOutside = users.some(({ createdTime }) => {
    const createdMs = Date.parse(createdTime ?? user.createdTime ?? '');
    return createdMs < fromMs - SLACK_MS || createdMs > toMs + SLACK_MS;
  });
  if (isOutside) {
    return bad(
      name,
      'a window around the creation of one user holds users created at other times: the filter is ignored',
      'ask Descope: without the filter a directory cannot be read by windows',
    );
  }
  // Of many created at once, one answer need not hold every one.
  if (!users.some(({ userId }) => userId === user.userId) && total <= users.length) {
    return bad(
      name,
      `a window around the creation of user ${user.userId} does not hold that user`,
      'run doctor again; if it stays so, ask Descope: such users would be missed by sweeps',
    );
  }
  return ok(
    name,
    `a window of one second holds whom it should (asked a unit wider, so it matters not whether bounds are inclusive)`,
  );
}
