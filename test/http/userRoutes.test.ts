import { afterEach, describe, expect, test } from 'vitest';

import { startAdminServer } from '../../src/http/admin.ts';
import { createReleaseStack } from '../../src/release.ts';

import type { AdminServerOptions } from '../../src/http/admin.ts';
import type { Waiting } from '../../src/http/userRoutes.ts';
import type { NotSeen, Seen } from '../../src/readers/wait.ts';

const seen: Seen = { userId: 'U1', observedAt: '', asOf: '', deleted: false };
const never = () => Promise.reject(new Error('not asked for'));

let releases = createReleaseStack();

afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

const waiting = (given: Partial<Waiting>): Partial<AdminServerOptions> => ({
  waiting: {
    waitFor: never,
    lookNow: never,
    now: () => Promise.resolve('2026-01-01T00:00:00.000000Z'),
    ...given,
  },
});

async function start(overrides: Partial<AdminServerOptions>) {
  const server = await startAdminServer({
    ...{ host: '127.0.0.1', port: 0, token: undefined },
    ...{ readStatus: never, readRecentChanges: never, metrics: never },
    ...overrides,
  });
  releases.push('server', () => server.stop());
  return `http://127.0.0.1:${server.port}`;
}

describe('/api/wait', () => {
  test.each([
    ['ISO', '2026-06-08T20:18:25.871835Z', '2026-06-08T20:18:25.871835Z'],
    ['what Postgres prints', '2026-06-08 20:18:25.871835+00', '2026-06-08T20:18:25.871835Z'],
    ['another zone', '2026-06-08T22:18:25.8718+02:00', '2026-06-08T20:18:25.8718Z'],
    ['no zone, taken as UTC', '2026-06-08T20:18:25.871', '2026-06-08T20:18:25.871Z'],
    ['epoch ms', '1780949905871', '2026-06-08T20:18:25.871Z'],
  ])('reads since from %s', async (_, since, expected) => {
    const url = await start(
      waiting({ waitFor: (_id, at) => Promise.resolve({ ...seen, asOf: at }) }),
    );
    // Left as a person would type it: the "+" is not escaped.
    const response = await fetch(`${url}/api/wait?userId=U1&since=${since}`);
    expect(await response.json()).toEqual({ ...seen, asOf: expected });
  });

  test('waits for a look from now on, by the clock of the mirror, where no instant is given', async () => {
    const waitFor: Waiting['waitFor'] = (_id, at) => Promise.resolve({ ...seen, asOf: at });
    const url = await start(waiting({ waitFor }));
    const response = await fetch(`${url}/api/wait?userId=U1`);
    expect(await response.json()).toMatchObject({ asOf: '2026-01-01T00:00:00.000000Z' });
  });

  test.each([
    ['', 'userId: give it once'],
    ['userId=', 'userId: '],
    ['userId=U1&since=soon', 'since: must be an instant'],
    ['userId=U1&userId=U2', 'userId: give it once'],
    ['userId=U1&timeoutMs=3600000', 'timeoutMs: '],
  ])('refuses the query "%s" and says why', async (query, mistake) => {
    const url = await start(waiting({}));
    const response = await fetch(`${url}/api/wait?${query}`);
    expect(response.status).toBe(400);
    expect(await response.json()).toEqual({ error: expect.stringContaining(mistake) as string });
  });

  test('that saw nothing in time is answered 504, with the reason', async () => {
    const why: NotSeen = {
      ...{ reason: 'the mirror knows no such user', observedAt: null, asOf: null },
      ...{ pendingEvents: 0, parkedEvents: 0, openDeletion: null },
    };
    const url = await start(
      waiting({
        waitFor: (_id, _since, signal) =>
          new Promise((resolve) => {
            signal.addEventListener('abort', () => {
              resolve(null);
            });
          }),
        lookNow: () => Promise.resolve(why),
      }),
    );
    const response = await fetch(`${url}/api/wait?userId=U1&timeoutMs=1`);
    expect(response.status).toBe(504);
    expect(await response.json()).toEqual({ error: 'not seen yet; ask again', ...why });
  });

  test.each([
    ['too many wait', () => Promise.resolve('full' as const), 'too many are waiting here already'],
    ['the mirror is away', never, 'the mirror cannot be read'],
  ])('is answered 503 where %s, and when to ask again', async (_, waitFor, why) => {
    const url = await start(waiting({ waitFor }));
    const response = await fetch(`${url}/api/wait?userId=U1`);
    expect(response.status).toBe(503);
    expect(response.headers.get('retry-after')).toBe('1');
    expect(await response.json()).toEqual({ error: `${why}; ask again in a second` });
  });

  test('is aborted when the asker leaves', async () => {
    const leave = new AbortController();
    const aborted = new Promise<void>((resolve) => {
      void start(
        waiting({
          waitFor: (_userId, _since, signal) =>
            new Promise((settle) => {
              signal.addEventListener('abort', () => {
                settle(null);
                resolve();
              });
              leave.abort();
            }),
        }),
      ).then((url) => fetch(`${url}/api/wait?userId=U1`, { signal: leave.signal }).catch(() => 0));
    });
    await aborted;
  });
});
