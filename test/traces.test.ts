import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { startCollector, type CollectedSpan, type Collector } from './support/collector.ts';
import { eventually } from './support/eventually.ts';
import { startProcess, type RunningProcess } from './support/process.ts';
import { testRedisUrl } from './support/redis.ts';
import { freePort } from './support/redisServer.ts';
import { bodyOf, createScene, postTo, realUserIds, type Scene } from './support/world.ts';

/* The built service in a process of its own: OpenTelemetry's context is a process's, and so is its absence. */

let scene: Scene | undefined;
let collector: Collector;
const processes: RunningProcess[] = [];

beforeEach(async () => {
  collector = await startCollector();
});
afterEach(async () => {
  for (const child of processes.splice(0)) {
    child.kill('SIGKILL');
    await child.exit;
  }
  await collector.stop();
  await scene?.stop();
  scene = undefined;
});

/** Spans leave at once, so that tests need not wait for them. */
const SOON = { OTEL_BSP_SCHEDULE_DELAY: '100' };

async function start(s: Scene, env: Readonly<Record<string, string>>) {
  const child = startProcess(['start', '--json'], { env: { ...s.env, ...SOON, ...env } });
  processes.push(child);
  const [, port = ''] = await child.waitForLine(/"publicPort":(\d+)/);
  return { child, port: Number(port) };
}

const named = (name: string) => collector.spans().filter((span) => span.name === name);

function only(name: string): CollectedSpan {
  const [one, ...others] = named(name);
  if (!one || others.length > 0) throw new Error(`${others.length + (one ? 1 : 0)} × ${name}`);
  return one;
}

const isRoot = ({ parentSpanId }: CollectedSpan) =>
  parentSpanId === undefined || parentSpanId === '';

/** All that comes of a span: what is below it, and what is tied to it by a link. */
function fruitOf(span: CollectedSpan, all: readonly CollectedSpan[]): Set<CollectedSpan> {
  const found = new Set([span]);
  for (const each of found) {
    for (const other of all) {
      const isBelow = other.parentSpanId === each.spanId;
      const isLinked = other.links?.some((link) => link.spanId === each.spanId) ?? false;
      if (isBelow || isLinked) found.add(other);
    }
  }
  return found;
}

const DELIVERY = 'POST /webhooks/descope';

for (const [queue, redisUrl] of [
  ['postgres', null],
  ['redis', testRedisUrl()],
] as const) {
  describe.skipIf(queue === 'redis' && redisUrl === null)(`with the queue on ${queue}`, () => {
    it('one delivery is one trace, from its request to its row', async () => {
      const s = (scene = await createScene({ redisUrl, simulator: { users: 20 } }));
      const { port } = await start(s, { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
      await s.untilFilled();
      const [userId = ''] = realUserIds(s);
      s.simulator.directory.modifyUser(userId, { name: 'Somebody Else' }, { event: false });
      const delivered = await postTo(port, bodyOf('UserModified', { userId }));
      expect(delivered.status).toBe(202);
      await s.untilEqual();

      await eventually(() => {
        const { traceId, attributes, kind } = only(DELIVERY);
        const trace = collector.spans().filter((span) => span.traceId === traceId);
        const nameOf = new Map(trace.map(({ spanId, name }) => [spanId, name]));
        const ways = trace.map(
          ({ name, parentSpanId }) => `${nameOf.get(parentSpanId ?? '') ?? '-'} > ${name}`,
        );
        expect(ways.sort()).toEqual([
          `- > ${DELIVERY}`,
          `${DELIVERY} > enqueue events`,
          `${DELIVERY} > inbox commit`,
          'add events.applyEvents > process events',
          'apply events > Descope user load',
          'apply events > write',
          'enqueue events > add events.applyEvents',
          'process events > apply events',
          'process events > complete events',
        ]);
        expect(kind).toBe(2);
        expect(attributes).toContainEqual({ key: 'accepted', value: { intValue: 1 } });
        const [load] = trace.filter(({ name }) => name === 'Descope user load');
        expect(load?.attributes).toEqual([{ key: 'status', value: { intValue: 200 } }]);
        expect(trace.map(({ status }) => status.code ?? 0)).not.toContain(2);
      });
      expect(collector.text()).toContain('"rollcall"');
      expect(collector.text()).not.toContain(userId);
      await s.assertPrivate(collector.text());
    });

    it('deliveries that share a job are tied to it by links, since none is its parent', async () => {
      const s = (scene = await createScene({ redisUrl, simulator: { users: 80 } }));
      const { port, child } = await start(s, {
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector.url}/v1/traces`,
      });
      await s.untilFilled();
      const userIds = realUserIds(s).slice(0, 60);
      for (const userId of userIds) {
        s.simulator.directory.modifyUser(userId, { name: 'Somebody Else' }, { event: false });
      }
      const answers = await Promise.all(
        userIds.map((userId) => postTo(port, bodyOf('UserModified', { userId }))),
      );
      expect(answers.map(({ status }) => status)).toEqual(userIds.map(() => 202));
      await s.untilEqual();
      child.kill('SIGTERM');
      expect(await child.exit).toBe(0);

      const all = collector.spans();
      const known = new Set(all.map(({ spanId }) => spanId));
      const joined = all.filter(({ links = [] }) => links.length > 0);
      expect(joined.length).toBeGreaterThan(0);
      for (const span of joined) {
        expect(isRoot(span)).toBe(true);
        expect(span.links?.length).toBeGreaterThan(1);
        expect(span.links?.filter(({ spanId }) => !known.has(spanId))).toEqual([]);
      }
      const deliveries = named(DELIVERY);
      expect(deliveries).toHaveLength(60);
      const fruitless = deliveries.filter((delivery) => {
        const fruit = [...fruitOf(delivery, all)].map(({ name }) => name);
        return !fruit.includes('write') || !fruit.includes('process events');
      });
      expect(fruitless).toEqual([]);
      await s.assertPrivate(collector.text());
    });
  });
}

describe('without an endpoint', () => {
  // But for its bare API, which does nothing by itself: prom-client brings it along.
  it('nothing of OpenTelemetry is loaded', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'rollcall-traces-'));
    const hook = join(folder, 'tellLoaded.cjs');
    await writeFile(
      hook,
      `process.on('exit', () => {
        const loaded = Object.keys(require.cache).filter((file) => /opentelemetry.(?!api)|otel/.test(file));
        require('node:fs').writeSync(2, 'loaded: ' + loaded.length + '\\n');
      });`,
    );
    const s = (scene = await createScene({ simulator: { users: 5 } }));
    const countLoaded = async (env: Readonly<Record<string, string>>) => {
      const { child } = await start(s, { ...env, NODE_OPTIONS: `--require=${hook}` });
      await s.untilFilled();
      child.kill('SIGTERM');
      expect(await child.exit).toBe(0);
      return Number(/^loaded: (\d+)$/m.exec(child.stderr())?.[1]);
    };
    expect(await countLoaded({})).toBe(0);
    expect(await countLoaded({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url })).toBeGreaterThan(10);
    await rm(folder, { recursive: true, force: true });
  });
});

describe('without its collector', () => {
  it('the service works on, says so once, and ends in time', async () => {
    const s = (scene = await createScene({ simulator: { users: 20 } }));
    const { child } = await start(s, {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${await freePort()}`,
      OTEL_EXPORTER_OTLP_TIMEOUT: '300',
    });
    await s.untilFilled();
    const told = /"msg":"traces could not be sent/;
    await child.waitForLine(told);
    const stoppedMs = Date.now();
    child.kill('SIGTERM');
    expect(await child.exit).toBe(0);
    expect(Date.now() - stoppedMs).toBeLessThan(8_000);
    const lines = child.stderr().split('\n');
    expect(lines.filter((line) => told.test(line))).toHaveLength(1);
  });
});
