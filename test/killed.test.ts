import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import {
  createBuiltServices,
  type BuiltService,
  type BuiltServices,
} from './support/builtService.ts';
import { eventually } from './support/eventually.ts';
import { startRedisServer, testRedisUrl, type RedisServer } from './support/redis.ts';
import { startSearchLog, type LoggedSearch, type SearchLog } from './support/searchLog.ts';
import { startPacedTraffic, startSender, type Sender } from './support/sender.ts';
import { flushRedis } from './support/queueDump.ts';
import { createScene, type Scene } from './support/world.ts';

/* Killed again and again, in its first fill and after it, while webhooks come all the time. */

const USERS = 6_000;
/** Small, so that these users make several windows, read side by side. */
const PAGE_SIZE = 25;
/** Kills in the first fill, at these shares of the users. */
const SHARES = [0.04, 0.25, 0.5, 0.75];
/** Kills after it, while people leave as well. */
const KILLS_AFTER = 2;
/**
 * What a kill may cost a window: three pages being written, three read meanwhile, and one more when the
 * queue gives the dead process's job to somebody who finds the window taken.
 */
const PAGES_AT_STAKE = 7;

let services: BuiltServices;
let redis: RedisServer | null = null;
let scene: Scene | undefined;
let log: SearchLog | undefined;
let sender: Sender | undefined;
let traffic: { stop(): void } | undefined;

beforeEach(async () => {
  services = await createBuiltServices();
});
afterEach(async () => {
  traffic?.stop();
  await sender?.stop();
  const output = await services.end();
  try {
    await scene?.assertPrivate(output);
  } finally {
    await log?.stop();
    await scene?.stop();
    await redis?.stop();
    traffic = sender = log = scene = undefined;
    redis = null;
  }
});

/** A window of the sweep, as the ledger holds it; times in epoch ms. */
interface Window {
  readonly fromMs: number;
  readonly toMs: number | null;
  readonly cursorMs: number | null;
  readonly isProven: boolean;
}

async function readWindows(s: Scene): Promise<Window[]> {
  const ms = (column: string) =>
    sql`(extract(epoch from ${sql.identifier(column)}) * 1000)::float8`;
  return s.query<Window>(
    sql`select ${ms('from_time')} as "fromMs", ${ms('to_time')} as "toMs",
               ${ms('cursor_time')} as "cursorMs", state = 'proven' as "isProven"
        from ${s.database.mirror.t.syncWindows} where pull = 'sweep' order by from_time`,
  );
}

function untilMirrored(s: Scene, count: number): Promise<void> {
  return eventually(
    async () => {
      const [row] = await s.query<{ n: number }>(
        sql`select count(*)::int as n from ${s.database.mirror.t.users}`,
      );
      expect(row?.n).toBeGreaterThan(count);
    },
    { timeoutMs: 30_000 },
  );
}

function untilProven(s: Scene): Promise<void> {
  return eventually(
    async () => {
      expect((await readWindows(s)).every(({ isProven }) => isProven)).toBe(true);
    },
    { timeoutMs: 60_000 },
  );
}

function untilTold(told: Sender, count: number): Promise<void> {
  return eventually(() => {
    expect(told.acknowledged).toBeGreaterThan(count);
  });
}

/** What the ledger said when the process was dead, and how many searches there had been. */
interface Kill {
  readonly windows: readonly Window[];
  readonly searches: number;
}

/** The searches that read windows of the sweep, page by page; those of one row only count. */
function readingSearches(searches: readonly LoggedSearch[]): LoggedSearch[] {
  return searches.filter(({ limit, sortedBy }) => limit > 1 && sortedBy === 'createdTime');
}

/** Searches after a kill for what the ledger had as read when it came. */
function readAgain({ windows, searches }: Kill, all: readonly LoggedSearch[]): LoggedSearch[] {
  return readingSearches(all.slice(searches)).filter(({ createdFrom = 0, createdTo }) => {
    // On the wire both bounds lie one ms further out.
    const window = windows.find(({ toMs }) => createdTo === (toMs === null ? undefined : toMs + 1));
    if (!window) throw new Error('a search of no window in the ledger');
    return window.isProven || createdFrom < (window.cursorMs ?? 0) - 1;
  });
}

/** After each kill and before the next, the searches for a stretch that had been asked for before. */
function countRepeated(kills: readonly Kill[], all: readonly LoggedSearch[]): number[] {
  const asked = new Set<string>();
  return [0, ...kills.map(({ searches }) => searches)].map((from, at) => {
    const life = readingSearches(all.slice(from, kills[at]?.searches));
    const ranges = life.map((one) => `${one.createdFrom ?? ''}-${one.createdTo ?? ''}`);
    return ranges.filter((range) => asked.size === asked.add(range).size).length;
  });
}

const QUEUES = [
  ['postgres', false],
  ['redis', true],
] as const;

for (const [queue, hasRedis] of QUEUES) {
  describe.skipIf(hasRedis && testRedisUrl() === null)(`a process, queue on ${queue}`, () => {
    it('killed six times loses nothing it had answered, and reads at most a window a kill twice', async () => {
      redis = hasRedis ? await startRedisServer() : null;
      const s = await createScene({
        redisUrl: redis?.url ?? null,
        simulator: { users: USERS, behaviour: { latencyMs: 150 } },
        env: { BREAKER_MAX_PERCENT: '100', PAGE_SIZE: String(PAGE_SIZE) },
      });
      scene = s;
      const { searches, url } = (log = await startSearchLog(s.simulator.url));
      const told = (sender = startSender(s));
      const start = async (): Promise<BuiltService> => {
        const service = await services.start({ ...s.env, DESCOPE_BASE_URL: url });
        told.port = service.port;
        return service;
      };
      const kills: Kill[] = [];
      const kill = async (service: BuiltService): Promise<void> => {
        await service.kill();
        told.port = undefined;
        // What was committed before an earlier one has not been read again.
        for (const earlier of kills) expect(readAgain(earlier, searches)).toEqual([]);
        kills.push({ windows: await readWindows(s), searches: searches.length });
      };
      const flush = () => (redis === null ? Promise.resolve() : flushRedis(redis.url));

      // Nobody leaves during the fill: a total that fell is asked for twice, killed or not.
      const staying = { delete: 0, batchDelete: 0, batchCreate: 0 };
      traffic = startPacedTraffic(s, told, staying);
      for (const share of SHARES) {
        const service = await start();
        await untilMirrored(s, (share - 0.02) * USERS);
        await flush();
        await untilMirrored(s, share * USERS);
        await kill(service);
        expect(kills.at(-1)?.windows.some(({ isProven }) => !isProven)).toBe(true);
      }
      let service = await start();
      await untilProven(s);
      const filling = readingSearches(searches);

      traffic.stop();
      traffic = startPacedTraffic(s, told, { delete: 20 });
      for (let at = 0; at < KILLS_AFTER; at++) {
        const before = told.acknowledged;
        await untilTold(told, before + 40);
        await flush();
        await untilTold(told, before + 100);
        await kill(service);
        service = await start();
      }
      traffic.stop();
      await told.untilIdle(30_000);
      await told.assertKept();
      await s.untilFilled(45_000);

      expect(kills).toHaveLength(6);
      if (redis) expect(await redis.info('commandstats')).toContain('cmdstat_flushall:calls=6,');
      // A fill that is over is not begun again.
      expect(readingSearches(searches)).toHaveLength(filling.length);
      expect(await s.query(sql`select 1 from ${s.database.mirror.t.syncRuns}`)).toHaveLength(1);
      // What was not committed, in all windows together, is less than one of them holds.
      const [unkilled, ...repeated] = countRepeated(kills, searches);
      const windows = (await readWindows(s)).length;
      const pages = filling.length - repeated.reduce((sum, count) => sum + count, 0);
      expect(windows).toBe(4);
      expect(windows * PAGES_AT_STAKE).toBeLessThan(pages / windows);
      expect(unkilled).toBe(0);
      expect(Math.max(...repeated)).toBeLessThanOrEqual(windows * PAGES_AT_STAKE);
    }, 240_000);
  });
}
