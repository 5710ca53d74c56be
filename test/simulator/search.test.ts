import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { defaultBehaviour } from '../../src/simulator/behaviour.ts';
import { Directory } from '../../src/simulator/directory.ts';
import { searchUsers } from '../../src/simulator/search.ts';
import { parseSearchRequest } from '../../src/simulator/searchRequest.ts';
import { startAsked } from './client.ts';

import type { BehaviourPatch } from '../../src/simulator/behaviour.ts';
import type { SearchResult } from '../../src/simulator/search.ts';

const START = 1_700_000_000_000;

function directoryOf(
  users: number,
  change: BehaviourPatch = {},
  options: { sameInstant?: number; seed?: number } = {},
) {
  const clock = { ms: START };
  const behaviour = Object.assign(defaultBehaviour(), change);
  const directory = new Directory({
    users,
    seed: options.seed ?? 7,
    projectId: 'P1',
    sameInstant: options.sameInstant ?? 1,
    now: () => clock.ms,
    behaviour,
  });
  let turn = 0;
  const search = (body: object, asOfMs = Infinity): SearchResult => {
    directory.timeline.seek(asOfMs);
    return searchUsers(directory, parseSearchRequest(body), behaviour, ++turn);
  };
  return { directory, behaviour, clock, search };
}

const idsOf = (result: SearchResult): string[] => result.users.map((user) => user.userId);

describe('time windows', () => {
  const created = [1_699_999_999_999, START, START + 1, START + 500, START + 1000, START + 1001];
  const setUp = (change: BehaviourPatch) => {
    const { directory, search } = directoryOf(0, change);
    for (const createdMs of created) directory.createUser({ createdMs, test: false });
    return (body: object): number[] => search(body).users.map((user) => user.createdMs);
  };

  test('in ms, from is exclusive and to inclusive', () => {
    const search = setUp({});
    expect(search({ fromCreatedTime: START, toCreatedTime: START + 1000 })).toEqual([
      START + 1,
      START + 500,
      START + 1000,
    ]);
  });

  test('bounds may be text, as the published schema says', () => {
    const search = setUp({});
    expect(search({ fromCreatedTime: String(START), toCreatedTime: String(START + 1) })).toEqual([
      START + 1,
    ]);
  });

  test.each([
    ['exclusive', 'exclusive', [START + 1, START + 500]],
    ['inclusive', 'inclusive', [START, START + 1, START + 500, START + 1000]],
    ['inclusive', 'exclusive', [START, START + 1, START + 500]],
  ] as const)('from %s and to %s', (fromBound, toBound, expected) => {
    const search = setUp({ fromBound, toBound });
    expect(search({ fromCreatedTime: START, toCreatedTime: START + 1000 })).toEqual(expected);
  });

  test('in s, the stored instant keeps its fraction', () => {
    const search = setUp({ timeUnit: 's' });
    const second = START / 1000;
    // START itself is at the bound, and so out; what came a fraction later is in.
    expect(search({ fromCreatedTime: second, toCreatedTime: second + 1 })).toEqual([
      START + 1,
      START + 500,
      START + 1000,
    ]);
  });

  test('seconds sent to a ms backend return everything, ms sent to a seconds backend nothing', () => {
    expect(setUp({})({ fromModifiedTime: START / 1000 })).toHaveLength(created.length);
    expect(setUp({ timeUnit: 's' })({ fromModifiedTime: START - 1 })).toEqual([]);
  });

  test('an inverted window is empty', () => {
    const search = setUp({});
    expect(search({ fromCreatedTime: START + 1000, toCreatedTime: START })).toEqual([]);
  });
});

describe('filters', () => {
  test('test users are left out unless asked for, and total counts what is shown', () => {
    const { directory, search } = directoryOf(2000);
    const test = [...directory.users()].filter((user) => user.test).length;
    expect(test).toBeGreaterThan(5);
    expect(search({}).total).toBe(2000 - test);
    expect(directory.realSize).toBe(2000 - test);
    expect(search({ withTestUser: true }).total).toBe(2000);
    expect(search({ testUsersOnly: true }).total).toBe(test);
  });

  test('every filter agrees with looking at each user', () => {
    const { directory, search } = directoryOf(1500);
    const users = [...directory.users()].filter((user) => !user.test);
    const [sample] = users.filter((user) => user.phone && user.userTenants[0]);
    if (!sample) throw new Error('the seed gives no such user');
    const tenantId = sample.userTenants[0]?.tenantId ?? '';
    const expectSame = (body: object, matches: (user: (typeof users)[number]) => boolean) => {
      const expected = users.filter(matches);
      expect(expected.length).toBeGreaterThan(0);
      expect(search(body).total, JSON.stringify(body)).toBe(expected.length);
    };
    expectSame({ tenantIds: [tenantId] }, (user) =>
      user.userTenants.some((tenant) => tenant.tenantId === tenantId),
    );
    expectSame({ statuses: ['invited', 'expired'] }, ({ status }) =>
      ['invited', 'expired'].includes(status),
    );
    expectSame({ roleNames: ['editor'] }, (user) => user.roleNames.includes('editor'));
    expectSame({ emails: [sample.email] }, (user) => user.email === sample.email);
    expectSame({ phones: [sample.phone] }, (user) => user.phone === sample.phone);
    expectSame({ loginIds: sample.loginIds }, (user) => user.userId === sample.userId);
    expectSame({ userIds: [sample.userId, sample.userId, 'U0'] }, (user) => user === sample);
    expectSame({ customAttributes: { beta: true } }, (u) => u.customAttributes['beta'] === true);
    const createdMs = sample.createdTime * 1000;
    expectSame(
      {
        fromCreatedTime: createdMs,
        fromModifiedTime: START - 30 * 86_400_000,
        statuses: ['enabled'],
      },
      (user) => {
        const stored = directory.get(user.userId);
        return (
          stored !== undefined &&
          stored.createdMs > createdMs &&
          stored.modifiedMs > START - 30 * 86_400_000 &&
          user.status === 'enabled'
        );
      },
    );
  });
});

describe('order and pages', () => {
  test('pages of every order are the whole, once', () => {
    const { directory, search } = directoryOf(730);
    const real = [...directory.users()].filter((user) => !user.test).map((user) => user.userId);
    for (const field of ['id', 'createdTime', 'modifiedTime', 'email', 'status']) {
      for (const desc of [false, true]) {
        const ids = [];
        for (let page = 0; page < 9; page++) {
          ids.push(...idsOf(search({ limit: 100, page, sort: [{ field, desc }] })));
        }
        expect(ids.toSorted(), `${field} ${desc}`).toEqual(real.toSorted());
      }
    }
  });

  test('rows ascend by the field asked for, and descend when asked', () => {
    const { search } = directoryOf(500);
    const times = search({ sort: [{ field: 'modifiedTime' }] }).users.map((u) => u.modifiedMs);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    const down = search({ sort: [{ field: 'createdTime', desc: true }] }).users;
    expect(down.map((u) => u.createdMs)).toEqual(
      down.map((u) => u.createdMs).toSorted((a, b) => b - a),
    );
  });

  test('a limit above the maximum is cut to it, and an offset overrides the page', () => {
    const { search } = directoryOf(400, { maxPageSize: 50 });
    expect(search({ limit: 1000 }).users).toHaveLength(50);
    const first = idsOf(search({ limit: 50 }));
    expect(idsOf(search({ limit: 40, page: 3, offset: 10 }))).toEqual(
      [...first.slice(10), ...idsOf(search({ limit: 50, page: 1 }))].slice(0, 40),
    );
  });

  test('a page past the end is empty and keeps the total', () => {
    const { directory, search } = directoryOf(120);
    expect(search({ page: 99 })).toMatchObject({ users: [], total: directory.realSize });
  });

  test('stable ties come in the same order every time; shuffled ties lose rows between pages', () => {
    const { directory, behaviour, search } = directoryOf(900, {}, { sameInstant: 340 });
    const walk = (): string[] =>
      Array.from({ length: 10 }, (_, page) => idsOf(search({ page }))).flat();
    expect(walk()).toEqual(walk());
    behaviour.tieOrder = 'shuffled';
    const shuffled = walk();
    expect(shuffled).toHaveLength(directory.realSize);
    expect(new Set(shuffled).size).toBeLessThan(directory.realSize);
    // Users with an instant of their own keep their place.
    expect(shuffled.slice(0, 100)).toEqual(idsOf(search({ page: 0 })));
  });

  test('shuffled ties within one page are all there', () => {
    const { behaviour, search } = directoryOf(80, {}, { sameInstant: 80 });
    const stable = idsOf(search({}));
    behaviour.tieOrder = 'shuffled';
    const [one, other] = [idsOf(search({})), idsOf(search({}))];
    expect(one).not.toEqual(other);
    expect(one.toSorted()).toEqual(stable);
  });
});

describe('reads that lag', () => {
  test('a deleted user still shows, a new one not yet, a changed one as it was', () => {
    const { directory, behaviour, clock, search } = directoryOf(300);
    behaviour.readLagMs = 1000;
    const [gone, changed] = idsOf(search({}));
    if (!gone || !changed) throw new Error('no users');
    const total = search({}).total;
    directory.deleteUser(gone);
    directory.modifyUser(changed, { name: 'New' });
    const created = directory.createUser({ test: false });
    const before = search({}, clock.ms - 1000);
    expect(before.total).toBe(total);
    expect(idsOf(before)).toContain(gone);
    expect(directory.timeline.get(created.userId)).toBeUndefined();
    const old = directory.timeline.get(changed);
    expect(old && directory.content(old).name).not.toBe('New');

    clock.ms += 1000;
    const after = search({}, clock.ms - 1000);
    expect(after.total).toBe(total);
    expect(idsOf(after)).not.toContain(gone);
    expect(directory.timeline.get(created.userId)).toBeDefined();
  });

  test('going back and forth in time always equals looking at each user', () => {
    const { directory, clock, search } = directoryOf(200);
    const seen: { asOfMs: number; ids: string[] }[] = [];
    for (let step = 0; step < 60; step++) {
      clock.ms += 100;
      const ids = [...directory.users()].map((user) => user.userId);
      const at = (position: number): string => ids[(step * position) % ids.length] ?? '';
      directory.createMany(2);
      directory.modifyUser(at(13), { name: `step ${step}` });
      directory.deleteUser(at(7));
      seen.push({
        asOfMs: clock.ms,
        ids: [...directory.users()].map((user) => user.userId).toSorted(),
      });
    }
    for (const index of [59, 3, 40, 0, 58, 20, 59]) {
      const moment = seen[index];
      if (!moment) throw new Error('no such moment');
      const result = search(
        { withTestUser: true, sort: [{ field: 'id' }], limit: 100 },
        moment.asOfMs,
      );
      expect(result.total).toBe(moment.ids.length);
      expect(idsOf(result)).toEqual(moment.ids.slice(0, 100));
    }
  });

  test('what no read can reach is forgotten, and reads stay right', () => {
    const { directory, clock, search } = directoryOf(100);
    const [user] = directory.users();
    if (!user) throw new Error('no user');
    const total = search({ withTestUser: true }).total;
    for (let step = 0; step < 6000; step++) {
      clock.ms += 50;
      directory.modifyUser(user.userId, { name: `step ${step}` });
    }
    directory.deleteUser(user.userId);
    expect(search({ withTestUser: true }, clock.ms - 30_000).total).toBe(total);
    const old = directory.timeline.get(user.userId);
    expect(old && directory.content(old).name).toBe('step 5399');
    expect(search({ withTestUser: true }).total).toBe(total - 1);
  });
});

describe('a million users', () => {
  let big: ReturnType<typeof directoryOf>;
  beforeAll(() => {
    big = directoryOf(1_000_000, {}, { sameInstant: 340 });
  });
  afterAll(() => {
    big = directoryOf(0);
  });

  test.each(['createdTime', 'modifiedTime', 'id'])(
    'a page by %s looks at no more users than it returns',
    (field) => {
      for (const page of [0, 4000, 9000]) {
        const result = big.search({ sort: [{ field }], page });
        expect(result.users).toHaveLength(100);
        expect(result.total).toBe(big.directory.realSize);
        expect(result.examined).toBe(100);
      }
    },
  );

  test('a window is counted without looking into it, and stays right while users come and go', () => {
    const body = { fromCreatedTime: START - 90 * 86_400_000, sort: [{ field: 'createdTime' }] };
    const before = big.search(body);
    expect(before.examined).toBe(100);
    const created = big.directory.createMany(50, { content: { test: false } });
    expect(big.search(body).total).toBe(before.total + 50);
    big.directory.deleteMany(created.map((user) => user.userId));
    expect(big.search(body).total).toBe(before.total);
    expect(big.search({ userIds: idsOf(before).slice(0, 5) }).examined).toBe(5);
  });

  test('a window by one field sorted by another looks at the window alone', () => {
    const [first] = big.search({ sort: [{ field: 'createdTime' }], offset: 400_000 }).users;
    if (!first) throw new Error('no user');
    const result = big.search({
      fromCreatedTime: first.createdMs - 1,
      toCreatedTime: first.createdMs + 3_600_000,
      sort: [{ field: 'id' }],
    });
    expect(result.total).toBeGreaterThan(0);
    expect(result.examined).toBe(result.total);
  });
});

test('what is asked over HTTP is answered over HTTP, and nonsense is refused', async () => {
  const { simulator, search, post } = await startAsked({ users: 250 });
  try {
    const { users, total } = await search({ limit: 10, sort: [{ field: 'createdTime' }] });
    expect(total).toBe(simulator.directory.realSize);
    expect(users).toHaveLength(10);
    for (const user of users) expect(user).toEqual(simulator.directory.answer(user.userId));
    for (const body of [
      { limit: -1 },
      { sort: [{ field: 'shoeSize' }] },
      { fromCreatedTime: 'x' },
    ]) {
      expect((await post('/v2/mgmt/user/search', body)).status).toBe(400);
    }
  } finally {
    await simulator.stop();
  }
});
