import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import { describe, expect, it, onTestFinished } from 'vitest';

import * as importArchive from '../../src/commands/import.ts';
import { runCommand } from '../commands/context.ts';
import { beginFilled } from '../pull/pullScene.ts';
import { eventually } from '../support/eventually.ts';
import { createWorld, realUserIds, type Scene } from '../support/world.ts';

/* EVENT_ARCHIVE=all: whatever the connector streams is kept, and only users' events are acted on. */

const ALL = { EVENT_ARCHIVE: 'all' };
/** What is not about users' records: some of it names a user, most of it nobody. */
const OTHERS = [
  ...[
    'LoginSucceed',
    'LoginFailed',
    'LoginStarted',
    'UserRefresh',
    'FlowUpdated',
    'ProjectSettings',
  ],
  ...[
    'AccessKeyCreated',
    'AccessKeysDeleted',
    'PermissionDeleted',
    'TenantCreated',
    'RoleModified',
  ],
  ...['Shipping.Label', 'anything_of_their_own'],
];

interface Kept {
  readonly action: string;
  readonly state: string;
  readonly named: boolean;
  readonly looked: boolean;
}

/** What is in the inbox that is not about users' records. */
async function kept(s: Scene): Promise<Kept[]> {
  return s.query<Kept>(sql`
    select action, state, user_ids <> '{}' as named,
           applied_at is not null or looks > 0 or attempts > 0 or outcome is not null as looked
    from ${s.database.mirror.t.events} where action !~ '^Users?(Created|Modified|Deleted)$' order by seq`);
}

/** Lets each of them happen, once naming a user and once nobody, at a moment of its own. */
function happen(s: Scene, userId: string): void {
  for (const action of OTHERS) {
    s.simulator.directory.emit(action, [userId]);
    s.simulator.directory.emit(action);
  }
}

const EXPECTED = OTHERS.flatMap((action) =>
  [true, false].map((named) => ({ action, state: 'archived', named, looked: false })),
);
const sorted = (found: readonly Kept[]) => found.map((one) => JSON.stringify(one)).sort();
const requestsOf = ({ simulator }: Scene) =>
  (['userSearch', 'userLoad', 'userGet'] as const).map((kind) => simulator.requests.countOf(kind));

describe('EVENT_ARCHIVE=all', () => {
  it('keeps every event that a webhook brings, and asks Descope nothing for it', async () => {
    const w = await createWorld({ simulator: { users: 5 }, env: ALL });
    onTestFinished(() => w.stop());
    await w.untilFilled();
    w.deliver({ envelope: 'mixed', batchMax: 4 });
    const before = requestsOf(w);
    happen(w, realUserIds(w)[0] ?? '');
    await w.simulator.delivery.idle();
    await eventually(async () => {
      expect(sorted(await kept(w))).toEqual(sorted(EXPECTED));
    });
    // One about a user, after them: when it is applied, they would have been.
    w.simulator.directory.modifyUser(realUserIds(w)[1] ?? '', { givenName: 'Somebody Else' });
    await w.simulator.delivery.idle();
    await w.untilEqual();
    expect(sorted(await kept(w))).toEqual(sorted(EXPECTED));
    const sent = requestsOf(w).map((count, at) => count - (before[at] ?? 0));
    expect(sent.reduce((sum, count) => sum + count, 0)).toBeLessThan(4);
    await w.assertPrivate();
  });

  it('keeps what the audit pull brings, once however often it is told', async () => {
    const s = await beginFilled({ simulator: { users: 5 }, env: ALL });
    s.ago(5_000, () => {
      happen(s, realUserIds(s)[0] ?? '');
    });
    for (let pull = 0; pull < 2; pull++) {
      expect(await s.pullAudit()).toBe('done');
      expect(await s.applyEvents()).toBe(0);
      expect(sorted(await kept(s))).toEqual(sorted(EXPECTED));
    }
  });

  it('keeps what an import brings, with one key for what the pull told', async () => {
    const s = await beginFilled({ simulator: { users: 5 }, env: ALL });
    s.ago(5_000, () => {
      happen(s, realUserIds(s)[0] ?? '');
    });
    const folder = await mkdtemp(join(tmpdir(), 'rollcall-archive-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const answer = await fetch(`${s.simulator.url}/v1/mgmt/audit/search`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${s.simulator.projectId}:${s.simulator.managementKey}`,
        'content-type': 'application/json',
      },
      body: '{}',
    });
    await writeFile(join(folder, 'audit.json'), await answer.text());
    const imported = await runCommand(importArchive, s, { folder }, { json: true });
    expect(imported.json()).toMatchObject({ archived: EXPECTED.length, badFiles: 0, ignored: 0 });
    expect(sorted(await kept(s))).toEqual(sorted(EXPECTED));
    expect(await s.pullAudit()).toBe('done');
    const [told] = await s.query(
      sql`select count(audit_at)::int as audit, count(archive_at)::int as archive
          from ${s.database.mirror.t.events}`,
    );
    expect(told).toEqual({ audit: EXPECTED.length, archive: EXPECTED.length });
    expect(sorted(await kept(s))).toEqual(sorted(EXPECTED));
  });

  it('keeps apart what one request did to many things in one millisecond', async () => {
    const w = await createWorld({ simulator: { users: 1 }, env: ALL, role: 'web' });
    onTestFinished(() => w.stop());
    const flow = (nth: number) => ({
      ...{ action: 'FlowUpdated', occurred: 1_780_949_905_871, actorId: 'K2key' },
      data: { flow_id: `flow-${nth}`, correlation_id: 'one request' },
    });
    const body = JSON.stringify(Array.from({ length: 20 }, (_, nth) => flow(nth)));
    for (const expected of [
      { accepted: 20, duplicates: 0, ignored: 0 },
      { accepted: 0, duplicates: 20, ignored: 0 },
    ]) {
      expect(await (await w.post(body)).json()).toEqual(expected);
    }
  });
});

describe('EVENT_ARCHIVE=users', () => {
  it('keeps none of it', async () => {
    const s = await beginFilled({ simulator: { users: 5 } });
    s.ago(5_000, () => {
      happen(s, realUserIds(s)[0] ?? '');
    });
    expect(await s.pullAudit()).toBe('done');
    expect(await kept(s)).toEqual([]);
  });
});
