import { DescopeRejected } from '../errors.ts';
import { bad, ok, warning, type Check } from './check.ts';

import type { FoundUsers, Probe } from '../descope/probe.ts';
import type { Learn } from './learn.ts';

/* What a load by ids does with one it does not know: every deletion is such a load. */

/** @param page of users that are there */
export async function checkLoads(
  probe: Probe,
  { users: [user] }: FoundUsers,
  learn: Learn,
): Promise<Check[]> {
  const name = 'batch load';
  if (!user) return [ok(name, 'there is nobody to load yet')];
  const known = user.userId;
  try {
    const loaded = await probe.load([known, toUnknown(known)]);
    if (!loaded.some(({ userId }) => userId === known)) return [leavesOut(name)];
    await learn('unknownIds', 'skipped');
    return [ok(name, 'an unknown id is left out, and the others come')];
  } catch (error) {
    if (!(error instanceof DescopeRejected)) throw error;
    return [await explainRefusal(probe, known, error, learn)];
  }
}

/** Made like a real id, so that nothing is wrong with it but that nobody has it. */
function toUnknown(known: string): string {
  const end = '0Rollcall0';
  return known.slice(0, Math.max(1, known.length - end.length)) + end;
}

function leavesOut(name: string): Check {
  return bad(
    name,
    'a load by ids leaves out a user that the search shows',
    'run doctor again; if it stays so, ask Descope: deletions will be confirmed one by one, which takes many requests',
  );
}

/** The unknown id, or loads altogether? */
async function explainRefusal(
  probe: Probe,
  known: string,
  refusal: DescopeRejected,
  learn: Learn,
): Promise<Check> {
  const name = 'batch load';
  try {
    const alone = await probe.load([known]);
    if (!alone.some(({ userId }) => userId === known)) return leavesOut(name);
  } catch (error) {
    if (!(error instanceof DescopeRejected)) throw error;
    return bad(
      name,
      `loads by ids are refused altogether (HTTP ${error.status}${error.errorCode ? ` ${error.errorCode}` : ''})`,
      'give the management key a role that may load users; until then each event costs a request of its own',
    );
  }
  await learn('unknownIds', 'refused');
  return warning(
    name,
    `one unknown id fails the whole batch (HTTP ${refusal.status} ${refusal.errorCode})`,
    'nothing to set: such batches are halved until the unknown ids stand alone. Where many users are deleted, raise API_BUDGET_PER_MINUTE',
  );
}
