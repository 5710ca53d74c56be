import { NOTHING_EXCLUDED } from '../exclude.ts';
import { parseJson } from '../json.ts';
import { parseAnswer, toList, toTotal, toUsers } from './answers.ts';
import { baseUrlOf } from './baseUrl.ts';
import { createAsk, type SdkDeps } from './sdk.ts';
import { countOf, createSearch, toFilter, toPage, type SearchRequest } from './search.ts';
import { probeTimeUnit, type TimeUnit } from './timeUnit.ts';

import type { UserRow } from '../observation.ts';
import type { Call } from './types.ts';

/*
 * Single requests to find out how this Descope behaves. Unlike the client nothing here tries again, halves
 * a batch or waits for better times: what comes back is the finding. Test users count too, so that a
 * directory that has only those tells something.
 */

export interface FoundUsers {
  readonly users: readonly UserRow[];
  /** Matches of the whole query. */
  readonly total: number;
}

export interface FoundAudit {
  /** Of the whole query. */
  readonly total: number;
  /** The first of them, at most one. */
  readonly records: readonly unknown[];
}

/** Each method sends one request (`timeUnit` up to two) and throws the Descope errors of `errors.ts`. */
export interface Probe {
  /** The users created first. */
  oldest(limit: number): Promise<FoundUsers>;
  /** Users created within bounds in Descope's own unit, as they go on the wire. */
  createdWithin(bounds: { readonly from?: number; readonly to?: number }): Promise<FoundUsers>;
  /** Undefined where there is nobody to tell by. */
  timeUnit(): Promise<TimeUnit | undefined>;
  /** A load by ids, once: who came. */
  load(userIds: readonly string[]): Promise<readonly UserRow[]>;
  /** Epoch ms, oldest first; every action where none is named. */
  searchAudit(query: {
    readonly fromMs: number;
    readonly toMs: number;
    readonly actions: readonly string[];
  }): Promise<FoundAudit>;
  /** Whether Descope publishes keys for this project id, as for any that exists; null where not told. */
  hasProject(): Promise<boolean | null>;
  /** Descope's clock minus that of the budget, in ms; 0 before any answer. */
  clockOffsetMs(): number;
}

/** Sends nothing before the first call. */
export function createProbe(deps: SdkDeps, call: Call): Probe {
  const { ask, fetch, clockOffsetMs } = createAsk(deps);
  const search = createSearch(ask);
  const find = async (request: SearchRequest): Promise<FoundUsers> =>
    toPage(
      await search(
        { ...request, sort: [{ field: 'createdTime', desc: false }], page: 0, withTestUser: true },
        call,
      ),
    );
  return {
    oldest: (limit) => find({ limit }),
    createdWithin: ({ from, to }) =>
      find({
        limit: 100,
        ...(from === undefined
          ? {}
          : toFilter({ field: 'createdTime', side: 'from', value: from })),
        ...(to === undefined ? {} : toFilter({ field: 'createdTime', side: 'to', value: to })),
      }),
    timeUnit: () => probeTimeUnit(async (bound) => countOf(await search(bound, call)), call),
    async load(userIds) {
      const answer = await ask('users load', call, (management) =>
        management.user.loadUsers([...userIds], true),
      );
      return toUsers(parseAnswer('users load', answer, parseJson), NOTHING_EXCLUDED);
    },
    async searchAudit({ fromMs, toMs, actions }) {
      const request = {
        ...{ from: fromMs, to: toMs, size: 1, page: 0, oldestFirst: true },
        ...(actions.length === 0 ? {} : { actions: [...actions] }),
      };
      const answer = await ask('audit search', call, (management) =>
        management.audit.searchAll(request),
      );
      const body = parseAnswer('audit search', answer, JSON.parse);
      return { records: toList(body, 'audits'), total: toTotal(body) };
    },
    async hasProject() {
      const base = baseUrlOf(deps.projectId, deps.baseUrl);
      const { status, text } = await ask('project keys', call, () =>
        // Where the SDK looks up the keys that sessions are signed with; anybody may.
        fetch(`${base}/v2/keys/${encodeURIComponent(deps.projectId)}`),
      );
      if (status >= 400 && status < 500 && status !== 429) return false;
      return status === 200 && /"keys"\s*:\s*\[\s*\{/.test(text) ? true : null;
    },
    clockOffsetMs,
  };
}
