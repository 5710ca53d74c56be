import { sql } from 'drizzle-orm';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, onTestFinished, test } from 'vitest';

import { pruneFeed } from '../src/feed/prune.ts';
import { createMetrics, HTTP_STATUS, ONE_VALUE, processMetrics } from '../src/metrics.ts';
import { SECRET, startReceiver } from './outgoing/receiver.ts';
import { eventually } from './support/eventually.ts';
import { bodyOf, createWorld, realUserIds, type World } from './support/world.ts';

import type { MetricObjectWithValues, MetricValue, Registry } from 'prom-client';

const FILE = join(import.meta.dirname, '../docs/metrics.md');

let world: World | undefined;
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

type Described = MetricObjectWithValues<MetricValue<string>> & { readonly labelNames?: string[] };

const UNITS: readonly (readonly [suffix: RegExp, unit: string])[] = [
  [/_seconds(_total)?$/, 'seconds'],
  [/_bytes$/, 'bytes'],
  [/_ratio$/, 'ratio'],
  [/_ppm$/, 'parts per million'],
];

/** A meter as the document tells it: name, type, unit, labels, meaning. */
async function describeMeters(
  registry: Registry,
  labelsOf: (metric: Described) => string,
): Promise<string[][]> {
  const metrics = registry.getMetricsAsArray() as unknown as Described[];
  const types = new Map(
    (await registry.getMetricsAsJSON()).map(({ name, type }) => [name, String(type)]),
  );
  return metrics.map((metric) => {
    const [, unit = ''] = UNITS.find(([suffix]) => suffix.test(metric.name)) ?? [];
    const type = types.get(metric.name) ?? '';
    return [`\`${metric.name}\``, type, unit, labelsOf(metric), metric.help];
  });
}

/** The rows of the tables below a heading. */
function readRows(heading: RegExp): string[][] {
  const sections = readFileSync(FILE, 'utf8').split(/^## /m);
  const wanted = sections.filter((section) => heading.test(section.split('\n')[0] ?? ''));
  return wanted
    .flatMap((section) => section.split('\n'))
    .filter((line) => line.startsWith('| `'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

describe('docs/metrics.md', () => {
  test('tells every meter of ours, with every value that its labels can have', async () => {
    const { registry, labels } = createMetrics();
    const open = new Set([HTTP_STATUS, ONE_VALUE]);
    const told = await describeMeters(registry, ({ name }) =>
      Object.entries(labels.get(name) ?? {})
        .map(([label, values]) => {
          const listed = values.map((value) => (open.has(value) ? value : `\`${value}\``));
          return `\`${label}\`: ${listed.join(', ')}`;
        })
        .join('; '),
    );
    const documented = readRows(/mirror|one process/i);
    expect(documented.sort()).toEqual(told.sort());
  });

  // Elsewhere Node tells less of itself.
  test.runIf(process.platform === 'linux')('tells every meter of the process', async () => {
    const told = await describeMeters(processMetrics(), ({ labelNames = [] }) =>
      labelNames.map((label) => `\`${label}\``).join(', '),
    );
    expect(readRows(/Node/).sort()).toEqual(told.sort());
  });
});

/** The label values of each line with a value, by the meter's name. */
function readSamples(text: string): { name: string; labels: Record<string, string> }[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('rollcall_'))
    .map((line) => {
      const [, series = '', values = ''] = /^(\w+?)(?:\{(.*)\})? \S+$/.exec(line) ?? [];
      const labels = Object.fromEntries(
        [...values.matchAll(/(\w+)="([^"]*)"/g)].map(([, label = '', value = '']) => [
          label,
          value,
        ]),
      );
      const name = series.replace(/_(bucket|sum|count)$/, '');
      delete labels['le'];
      return { name, labels };
    });
}

describe('/metrics of a service that lives', () => {
  it('has no value of a label that is not in its closed set', async () => {
    const receiver = await startReceiver();
    onTestFinished(() => receiver.down());
    const w = (world = await createWorld({
      simulator: { users: 120, behaviour: { unknownIds: 'fail' } },
      env: {
        PULL_MODIFIED_CRON: '* * * * * *',
        PULL_AUDIT_CRON: '* * * * * *',
        VERIFY_CRON: '* * * * * *',
        OUTGOING_URLS: receiver.url,
        OUTGOING_SECRETS: SECRET,
      },
    }));
    await w.untilFilled();
    w.deliver({ policy: { doubleRate: 0.5 } });
    const [gone = '', ...others] = realUserIds(w);
    for (const userId of others.slice(0, 30)) {
      w.simulator.directory.modifyUser(userId, { name: 'Somebody Else' });
    }
    w.simulator.directory.deleteUser(gone);
    w.simulator.directory.createMany(3);
    await w.simulator.delivery.idle();
    expect((await w.post('[]', {})).status).toBe(401);
    expect((await w.post('not JSON')).status).toBe(400);
    expect((await w.post(bodyOf('SomethingElse', {}))).status).toBe(202);
    w.simulator.faults.next('status500', { path: 'audit' });
    w.simulator.faults.next('reset', { path: 'search' });
    await w.untilEqual();
    // A consumer, for as long as changes are kept.
    await w.query(sql`select descope.confirm_changes('search index', '0-0')`);
    await pruneFeed(w.database.mirror, { days: 30, steps: 1 }, new AbortController().signal);

    const { labels: sets } = createMetrics();
    const text = await eventually(async () => {
      const answer = await fetch(`http://127.0.0.1:${w.service.adminPort}/metrics`);
      const told = await answer.text();
      // The first verification has ended.
      expect(told).toMatch(/^rollcall_drift_ppm \d/m);
      return told;
    });
    const samples = readSamples(text);
    const strangers = samples.flatMap(({ name, labels }) => {
      const closed = sets.get(name);
      if (!closed) return [name];
      const wrong = Object.entries(labels).filter(([label, value]) => {
        const values = closed[label] ?? [];
        const isStatus = values.includes(HTTP_STATUS) && /^[1-5]\d\d$/.test(value);
        return !(values.includes(value) || isStatus || values.includes(ONE_VALUE));
      });
      return wrong.map(([label, value]) => `${name} ${label}=${value}`);
    });
    expect(strangers).toEqual([]);
    // All others have shown themselves. No sweep is under way, and it takes half a minute to call an event lost.
    const shown = new Set(samples.map(({ name }) => name));
    const absent = [...sets.keys()].filter((name) => !shown.has(name));
    expect(absent).toEqual([
      'rollcall_sweep_users',
      'rollcall_sweep_windows',
      'rollcall_webhook_loss_ratio',
    ]);
    expect(text).toMatch(/^process_resident_memory_bytes \d/m);
    expect(text).toMatch(/^rollcall_build_info\{version="[\d.]+",node="v\d[^"]*",role="all"\} 1$/m);
    await w.assertPrivate(text);
  });
});
