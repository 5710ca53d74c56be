import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, test } from 'vitest';

import { deliver as deliverJob } from '../../jobs/deliver.ts';
import { startOutgoing } from '../../jobs/outgoing.ts';
import { applyObservations } from '../../src/apply/apply.ts';
import { toUserRow } from '../../src/descope/users.ts';
import { Stopping } from '../../src/errors.ts';
import { pruneFeed } from '../../src/feed/prune.ts';
import { openMirror, rows, transaction } from '../../src/mirror/database.ts';
import { adoptRestoredFeed } from '../../src/mirror/restored.ts';
import { backoffMs, MOST_ATTEMPTS } from '../../src/outgoing/backoff.ts';
import { dropParked, replayParked, resumeEndpoints } from '../../src/outgoing/decide.ts';
import { deliver, type DeliverDeps } from '../../src/outgoing/deliver.ts';
import { registerEndpoints, toEndpoints } from '../../src/outgoing/endpoints.ts';
import { post } from '../../src/outgoing/post.ts';
import { pruneDeliveries } from '../../src/outgoing/prune.ts';
import { listDue, takeDeliveries } from '../../src/outgoing/take.ts';
import { keyOf, signedHeaders } from '../../src/signing.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { SECRET, startReceiver, withoutRepeats, type Receiver } from './receiver.ts';

import type { Enqueue } from '../../jobs/queues.ts';
import type { Observation } from '../../src/observation.ts';

let database: TestDatabase;
let receiver: Receiver;
let outcomes: string[];
let deps: DeliverDeps;
const forever = new AbortController().signal;

beforeEach(async () => {
  database = await createTestDatabase();
  receiver = await startReceiver();
  outcomes = [];
  deps = {
    mirror: database.mirror,
    endpoints: toEndpoints([receiver.url], [SECRET]),
    mirrorId: 'this mirror',
    post,
    // At once, so that a run tries all there is to try.
    backoffMs: () => 0,
    onOutcome: (outcome) => void outcomes.push(outcome),
  };
  await registerEndpoints(database.mirror, deps.endpoints);
});
afterEach(async () => {
  await receiver.down();
  await database.drop();
});

let looks = 0;
/** Writes users as seen just now, each in a transaction of its own; null: gone. */
async function see(...users: (readonly [userId: string, name: string | null])[]): Promise<void> {
  const { mirror } = database;
  for (const [userId, name] of users) {
    const observedAt = new Date(Date.UTC(2026, 0, 1) + ++looks).toISOString().replace('Z', '000Z');
    const row = name === null ? null : toUserRow({ userId, name });
    const look: Observation = row
      ? { kind: 'present', userId, row, observedAt, by: 'load' }
      : { kind: 'absent', userId, observedAt };
    await transaction(mirror, (tx) => applyObservations(tx, mirror.t, [look], 'manual'));
  }
}

const told = () => receiver.received.map(({ data }) => `${data.userId} ${data.kind}`);

async function states(): Promise<Record<string, number>> {
  const { db, t } = database.mirror;
  const found = await rows<{ state: string; count: number }>(
    db,
    sql`select state, count(*)::int as count from ${t.outgoingDeliveries} group by state`,
  );
  return Object.fromEntries(found.map(({ state, count }) => [state, count]));
}

async function endpoint(): Promise<{ state: string; reason: string | null } | undefined> {
  const { db, t } = database.mirror;
  const [row] = await rows<{ state: string; reason: string | null }>(
    db,
    sql`select state, reason from ${t.outgoingEndpoints}`,
  );
  return row;
}

describe('signatures', () => {
  test('are those of Standard Webhooks, by its own example', () => {
    const key = keyOf('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
    const sentAtMs = 1_614_265_330_000;
    const id = 'msg_p5jXN8AQM9LWM0D4loKWxJek';
    expect(signedHeaders(key ? [key] : [], id, sentAtMs, '{"test": 2432232314}')).toEqual({
      'webhook-id': id,
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    });
  });

  it('of two secrets while one is replaced are both there, and either is enough', async () => {
    const other = `whsec_${Buffer.alloc(24, 7).toString('base64')}`;
    await see(['U1', 'Ada']);
    const endpoints = (secrets: string) => toEndpoints([receiver.url], [secrets]);
    await deliver({ ...deps, endpoints: endpoints(other), backoffMs: () => 3_600_000 }, forever);
    expect(outcomes).toEqual(['failed']);
    await see(['U2', 'Alan']);
    await deliver({ ...deps, endpoints: endpoints(`${other} ${SECRET}`) }, forever);
    expect(told()).toEqual(['U2 created']);
  });
});

describe('waiting after failures', () => {
  test('takes about a day in all, and comes back a little apart', () => {
    const waits = Array.from({ length: MOST_ATTEMPTS - 1 }, (_, at) =>
      backoffMs(at + 1, () => 0.5),
    );
    expect(waits.slice(0, 4)).toEqual([5_000, 15_000, 45_000, 135_000]);
    const hours = waits.reduce((sum, ms) => sum + ms, 0) / 3_600_000;
    expect(hours).toBeGreaterThan(23);
    expect(hours).toBeLessThan(26);
    expect([backoffMs(1, () => 0), backoffMs(1, () => 1)]).toEqual([4_500, 5_500]);
  });
});

describe('deliveries', () => {
  it('tell an endpoint of what happens from its first day on, in order, ids and fields alone', async () => {
    const late = toEndpoints([`${receiver.url}&late`], [SECRET]);
    await see(['U1', 'Ada'], ['U2', 'Alan'], ['U1', 'Ada Lovelace'], ['U2', null]);
    await registerEndpoints(database.mirror, [...deps.endpoints, ...late]);
    await deliver({ ...deps, endpoints: [...deps.endpoints, ...late] }, forever);

    expect(told().filter((line) => line.startsWith('U1'))).toEqual(['U1 created', 'U1 updated']);
    expect(told().filter((line) => line.startsWith('U2'))).toEqual(['U2 created', 'U2 deleted']);
    const updated = receiver.received.find(({ type }) => type === 'user.updated');
    expect(updated?.data).toEqual({
      ...{ userId: 'U1', kind: 'updated', changed: ['name'], witness: 'manual' },
      cursor: expect.stringMatching(/^\d+-\d+$/) as string,
      observedAt: expect.stringMatching(/^2026-/) as string,
    });
    expect(JSON.stringify(receiver.received)).not.toContain('Ada');
    expect(await states()).toEqual({ delivered: 4 });
    await deliver(deps, forever);
    expect(receiver.requests()).toBe(4);
  });

  it('carry the user as they are now where that is asked for, and null where they are gone', async () => {
    const findUser = (userId: string) =>
      Promise.resolve(userId === 'U1' ? { userId, name: 'Ada' } : null);
    await see(['U1', 'Ada'], ['U2', 'Alan'], ['U2', null]);
    await deliver({ ...deps, findUser }, forever);
    const users = receiver.received.map(({ data }) => [data.userId, data.kind, data['user']]);
    expect(users).toEqual(
      expect.arrayContaining([
        ['U1', 'created', { userId: 'U1', name: 'Ada' }],
        ['U2', 'created', null],
        ['U2', 'deleted', undefined],
      ]),
    );
  });

  it('keep a failing user waiting with all of their later ones, and let the others go', async () => {
    await see(['U1', 'Ada'], ['U2', 'Alan']);
    let isAway = true;
    receiver.answer = ({ data }) => ({ status: data.userId === 'U1' && isAway ? 500 : 204 });
    const patient = { ...deps, backoffMs: () => 3_600_000 };
    await deliver(patient, forever);
    await see(['U1', 'Ada L.'], ['U2', 'Alan T.'], ['U1', null]);
    await deliver(patient, forever);
    expect(told()).toEqual(['U2 created', 'U2 updated']);
    expect(receiver.requests()).toBe(3);

    isAway = false;
    const { db, t } = database.mirror;
    await db.execute(
      sql`update ${t.outgoingDeliveries} set due_at = now() where state = 'waiting'`,
    );
    await deliver(patient, forever);
    expect(told().slice(2)).toEqual(['U1 created', 'U1 updated', 'U1 deleted']);
  });

  it('go on for other users however many wait behind a failing one', async () => {
    const { mirror } = database;
    const { db, t } = mirror;
    await see(['U1', 'Ada']);
    await db.execute(sql`
      insert into ${t.userChanges} (user_id, kind, changed, observed_at, witness)
      select 'U1', 'updated', '{name}', clock_timestamp(), 'manual' from generate_series(1, 2500)`);
    await see(['U2', 'Alan']);
    receiver.answer = ({ data }) => ({ status: data.userId === 'U1' ? 500 : 204 });
    const patient = { ...deps, backoffMs: () => 3_600_000 };
    await deliver(patient, forever);
    await deliver(patient, forever);
    expect(told()).toEqual(['U2 created']);
    expect(receiver.requests()).toBe(2);
    const ids = deps.endpoints.map(({ endpointId }) => endpointId);
    expect(await listDue(mirror, ids)).toEqual([]);
    await see(['U3', 'Grace']);
    expect(await listDue(mirror, ids)).toEqual(ids);
  });

  it('are parked after the last attempt, and hold back the later ones of the user until replayed or dropped', async () => {
    await see(['U1', 'Ada'], ['U2', 'Alan'], ['U1', null]);
    let isAway = true;
    receiver.answer = () => ({ status: isAway ? 503 : 200 });
    await deliver(deps, forever);
    expect(outcomes.filter((one) => one === 'parked')).toHaveLength(2);
    expect(receiver.requests()).toBe(2 * MOST_ATTEMPTS);
    expect(await states()).toEqual({ parked: 2, waiting: 1 });
    isAway = false;
    await see(['U1', 'Ada'], ['U3', 'Grace']);
    await deliver(deps, forever);
    expect(told()).toEqual(['U3 created']);
    expect(await states()).toEqual({ parked: 2, waiting: 2, delivered: 1 });

    const { db, t, ...mirror } = database.mirror;
    const ids = await rows<{ id: string }>(
      db,
      sql`select delivery_id::text as id from ${t.outgoingDeliveries}
          where user_id = 'U1' order by delivery_id`,
    );
    expect(await dropParked({ db, t, ...mirror }, [ids[0]?.id ?? ''])).toBe(1);
    await deliver(deps, forever);
    expect(told()).toEqual(['U3 created', 'U1 deleted', 'U1 restored']);
    expect(await replayParked({ db, t, ...mirror }, [])).toBe(1);
    await deliver(deps, forever);
    expect(told().slice(3)).toEqual(['U2 created']);
  });

  it('follow no redirect, and wait as long as the receiver asks', async () => {
    const elsewhere = await startReceiver();
    receiver.answer = () => ({ status: 302, headers: { location: elsewhere.url } });
    await see(['U1', 'Ada']);
    await deliver({ ...deps, backoffMs: () => 3_600_000 }, forever);
    expect(elsewhere.requests()).toBe(0);
    await elsewhere.down();
    expect(outcomes).toEqual(['failed']);

    receiver.answer = () => ({ status: 429, headers: { 'retry-after': '7200' } });
    await see(['U2', 'Alan']);
    await deliver(deps, forever);
    const { db, t } = database.mirror;
    const [row] = await rows<{ hours: number }>(
      db,
      sql`select extract(epoch from due_at - now())::float8 / 3600 as hours
          from ${t.outgoingDeliveries} where user_id = 'U2'`,
    );
    expect(row?.hours).toBeCloseTo(2, 1);
  });

  it('end where the receiver is gone for good, until a person resumes them', async () => {
    receiver.answer = () => ({ status: 410 });
    await see(['U1', 'Ada']);
    await deliver(deps, forever);
    await deliver(deps, forever);
    expect(receiver.requests()).toBe(1);
    expect(await endpoint()).toEqual({
      state: 'disabled',
      reason: 'the receiver answered 410 Gone',
    });
    // A restart does not.
    await registerEndpoints(database.mirror, deps.endpoints);
    receiver.answer = () => ({ status: 204 });
    await see(['U2', 'Alan']);
    await deliver(deps, forever);
    expect(told()).toEqual([]);
    expect(await resumeEndpoints(database.mirror, [])).toHaveLength(1);
    await deliver(deps, forever);
    expect(told().sort()).toEqual(['U1 created', 'U2 created']);
  });

  it('say so where what an endpoint had still to get was pruned', async () => {
    await see(['U1', 'Ada'], ['U2', 'Alan']);
    const { db, t } = database.mirror;
    await db.execute(sql`update ${t.userChanges} set written_at = now() - interval '2 days'`);
    await pruneFeed(database.mirror, { days: 1, steps: 1 }, forever);
    await see(['U3', 'Grace']);
    await deliver(deps, forever);
    expect(await endpoint()).toMatchObject({ state: 'cut off' });
    expect(told()).toEqual([]);

    await resumeEndpoints(database.mirror, []);
    await see(['U4', 'Barbara']);
    await deliver(deps, forever);
    expect(told()).toEqual(['U4 created']);
  });

  it('go on where they were after an endpoint was away from the settings', async () => {
    await see(['U1', 'Ada']);
    await registerEndpoints(database.mirror, []);
    await deliver(deps, forever);
    expect(told()).toEqual([]);
    await registerEndpoints(database.mirror, deps.endpoints);
    await deliver(deps, forever);
    expect(told()).toEqual(['U1 created']);
  });

  it('of two runs at once are made once, and no more than a few at a time', async () => {
    await see(...Array.from({ length: 40 }, (_, at) => [`U${at % 20}`, `look ${at}`] as const));
    let underWay = 0;
    let most = 0;
    const slow: typeof post = async (...args) => {
      most = Math.max(most, ++underWay);
      const answer = await post(...args);
      underWay--;
      return answer;
    };
    await Promise.all([1, 2, 3].map(() => deliver({ ...deps, post: slow }, forever)));
    await deliver(deps, forever);
    expect(receiver.received).toHaveLength(40);
    expect(new Set(receiver.received.map(({ webhookId }) => webhookId)).size).toBe(40);
    expect(most).toBeLessThanOrEqual(8);
    for (let user = 0; user < 20; user++) {
      const kinds = receiver.received.flatMap(({ data }) =>
        data.userId === `U${user}` ? [data.kind] : [],
      );
      expect(kinds).toEqual(['created', 'updated']);
    }
  });

  it('to one endpoint are not held up by another: each has a job of its own', async () => {
    const [one, other] = toEndpoints([receiver.url, `${receiver.url}&other`], [SECRET]);
    if (!one || !other) throw new Error('two endpoints');
    const both = { ...deps, endpoints: [one, other] };
    await registerEndpoints(database.mirror, both.endpoints);
    await see(['U1', 'Ada']);
    const added: { endpointId: string; dedupeId: string | undefined }[] = [];
    const enqueue: Enqueue = (_job, payload, options) => {
      const { endpointId } = payload as { endpointId: string };
      added.push({ endpointId, dedupeId: options?.dedupeId });
      return Promise.resolve();
    };
    const onError = (error: unknown) => {
      throw error;
    };
    const ticks = startOutgoing({
      ...{ mirror: database.mirror, queues: { enqueue }, endpoints: both.endpoints, onError },
    });
    await eventually(() => {
      expect(added).toHaveLength(2);
    });
    await ticks.stop();
    expect(new Set(added.map(({ endpointId }) => endpointId))).toEqual(
      new Set([one.endpointId, other.endpointId]),
    );
    expect(new Set(added.map(({ dedupeId }) => dedupeId)).size).toBe(2);

    const job = { outgoing: both };
    await deliverJob.process(job, { endpointId: other.endpointId }, forever);
    expect(receiver.requests()).toBe(1);
    await deliverJob.process(job, { endpointId: one.endpointId }, forever);
    await deliverJob.process(job, { endpointId: 'set no longer' }, forever);
    expect(receiver.requests()).toBe(2);
  });

  it('have the same id in whatever time zone the session is', async () => {
    const [endpointOf] = deps.endpoints;
    const options = { mirrorId: deps.mirrorId, concurrency: 8 };
    const id = endpointOf?.endpointId ?? '';
    await see(['U1', 'Ada']);
    const idIn = async (zone: string) => {
      const { mirror } = database;
      const { db, t } = mirror;
      await db.execute(sql`update ${t.outgoingEndpoints} set cursor = '0-0'`);
      await db.execute(sql`delete from ${t.outgoingDeliveries}`);
      const url = new URL(database.url);
      url.searchParams.set('options', `-c timezone=${zone}`);
      const session = openMirror({
        ...{ databaseUrl: url.toString(), schema: 'descope', maxConnections: 1 },
        onError: () => undefined,
      });
      onTestFinished(() => session.pool.end());
      const [taken] = await takeDeliveries(session, id, options);
      return taken?.webhookId;
    };
    expect(await idIn('Asia/Tokyo')).toBe(await idIn('America/Lima'));
  });

  it('that a killed process had taken are taken over, with the same id', async () => {
    await see(['U1', 'Ada']);
    const [endpointOf] = deps.endpoints;
    const options = { mirrorId: deps.mirrorId, concurrency: 8 };
    const id = endpointOf?.endpointId ?? '';
    const [taken] = await takeDeliveries(database.mirror, id, options);
    await deliver(deps, forever);
    expect(receiver.requests()).toBe(0);
    const { db, t } = database.mirror;
    await db.execute(sql`update ${t.outgoingDeliveries} set taken_until = now()`);
    await deliver(deps, forever);
    expect(receiver.received.map(({ webhookId }) => webhookId)).toEqual([taken?.webhookId]);
  });

  it('are left when the process stops, and the attempt does not count', async () => {
    await see(['U1', 'Ada']);
    const stopping = new AbortController();
    const hanging: typeof post = (endpointOf, message, signal) => {
      stopping.abort();
      return post(endpointOf, message, signal);
    };
    await expect(deliver({ ...deps, post: hanging }, stopping.signal)).rejects.toThrow(Stopping);
    const { db, t } = database.mirror;
    expect(
      await rows(db, sql`select state, attempts, taken_until from ${t.outgoingDeliveries}`),
    ).toEqual([{ state: 'waiting', attempts: 0, taken_until: null }]);
  });

  it('stop, and say so, where the database was restored into a server that counts from lower on', async () => {
    const { mirror } = database;
    const { db, t } = mirror;
    await see(['U1', 'Ada']);
    await db.execute(sql`update ${t.userChanges} set transaction_id = '9000000000000000000'`);
    await db.execute(sql`update ${t.outgoingEndpoints} set cursor = '9000000000000000000-1'`);
    await adoptRestoredFeed(mirror);
    const ids = deps.endpoints.map(({ endpointId }) => endpointId);
    expect(await listDue(mirror, ids)).toEqual(ids);
    await deliver(deps, forever);
    expect(await endpoint()).toMatchObject({ state: 'cut off' });
    expect(await resumeEndpoints(mirror, ids)).toEqual(ids);
    await see(['U2', 'Alan']);
    await deliver(deps, forever);
    expect(told()).toEqual(['U2 created']);
  });

  it('are pruned once they ended long ago, and those to nobody any more', async () => {
    await see(['U1', 'Ada'], ['U2', 'Alan']);
    receiver.answer = ({ data }) => ({ status: data.userId === 'U1' ? 204 : 500 });
    await deliver({ ...deps, backoffMs: () => 3_600_000 }, forever);
    const prune = () => pruneDeliveries(database.mirror, { days: 30, steps: 2 }, forever);
    const { db, t } = database.mirror;
    expect(await prune()).toBe(0);
    await db.execute(
      sql`update ${t.outgoingDeliveries} set ended_at = ended_at - interval '31 days'`,
    );
    expect(await prune()).toBe(1);
    await registerEndpoints(database.mirror, []);
    await db.execute(
      sql`update ${t.outgoingEndpoints} set changed_at = now() - interval '31 days'`,
    );
    expect(await prune()).toBe(1);
    expect(await states()).toEqual({});
  });

  it('go on for a user whose parked one was pruned', async () => {
    receiver.answer = () => ({ status: 500 });
    await see(['U1', 'Ada']);
    await deliver(deps, forever);
    receiver.answer = () => ({ status: 204 });
    await see(['U1', 'Ada L.']);
    await deliver(deps, forever);
    const { db, t } = database.mirror;
    await db.execute(
      sql`update ${t.outgoingDeliveries} set ended_at = ended_at - interval '31 days'`,
    );
    expect(await pruneDeliveries(database.mirror, { days: 30, steps: 1 }, forever)).toBe(1);
    await see(['U1', null]);
    await deliver(deps, forever);
    expect(told()).toEqual(['U1 updated', 'U1 deleted']);
  });

  it('to a receiver that is away for a while lose nothing and keep the order', async () => {
    await receiver.down();
    await see(['U1', 'Ada'], ['U2', 'Alan'], ['U1', 'Ada L.'], ['U1', null]);
    // Longer than a look takes on a busy machine: a run would go on until all were parked.
    const patient = { ...deps, backoffMs: () => 500 };
    await eventually(async () => {
      await deliver(patient, forever);
      expect(outcomes.length).toBeGreaterThan(3);
    });
    await receiver.up();
    await eventually(async () => {
      await deliver(patient, forever);
      expect(withoutRepeats(receiver.received)).toHaveLength(4);
    });
    const users = withoutRepeats(receiver.received).map(
      ({ data }) => `${data.userId} ${data.kind}`,
    );
    expect(users.filter((line) => line.startsWith('U1'))).toEqual([
      'U1 created',
      'U1 updated',
      'U1 deleted',
    ]);
    expect(users).toHaveLength(4);
  });
});
