import { NOTHING_EXCLUDED } from '../exclude.ts';
import { parseAnswer, toList, toTotal } from './answers.ts';
import { createLoads } from './loads.ts';
import { createAsk, type Ask, type SdkDeps } from './sdk.ts';
import { createUserSearch, type UserSearchDeps } from './search.ts';
import { createUnknownIds } from './unknownIds.ts';

import type { DescopeClient } from './types.ts';

export type DescopeClientDeps = SdkDeps & UserSearchDeps;

/** Default and maximum of the audit search (go-sdk `types.go`). */
const AUDIT_PAGE_SIZE = 1000;

/**
 * What we read from Descope. Every method throws the Descope errors of `errors.ts`, `Stopping` as soon
 * as its signal aborts, and the mirror database's errors as they are. Sends nothing before the first
 * call.
 */
export function createDescopeClient(deps: DescopeClientDeps): DescopeClient {
  const { ask, clockOffsetMs } = createAsk(deps);
  return {
    searchUsers: createUserSearch(deps, ask),
    ...createLoads(ask, deps.exclude ?? NOTHING_EXCLUDED, createUnknownIds(deps.mirror)),
    searchAudit: createAuditSearch(ask),
    clockOffsetMs,
  };
}

/** `POST /v1/mgmt/audit/search`, oldest first. */
function createAuditSearch(ask: Ask): DescopeClient['searchAudit'] {
  return async (query, call) => {
    // Paging and order are on the wire (go-sdk) though not in this SDK's types; it passes them on.
    const request = {
      from: query.fromMs,
      to: query.toMs,
      size: AUDIT_PAGE_SIZE,
      page: query.page,
      oldestFirst: true,
      ...(query.actions.length === 0 ? {} : { actions: [...query.actions] }),
    };
    const answer = await ask('audit search', call, (management) =>
      management.audit.searchAll(request),
    );
    // Plainly parsed, as webhook bodies are: records are hints, and both must look the same.
    const body = parseAnswer('audit search', answer, JSON.parse);
    return {
      records: toList(body, 'audits'),
      total: toTotal(body),
      observedAt: answer.observedAt,
      pageSize: AUDIT_PAGE_SIZE,
    };
  };
}
