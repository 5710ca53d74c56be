import { sql } from 'drizzle-orm';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, test, type TestContext } from 'vitest';

import { parseConfig } from '../src/config.ts';
import { createLogger } from '../src/log.ts';
import { pruneFeed } from '../src/feed/prune.ts';
import { createMetrics, processMetrics } from '../src/metrics.ts';
import { createReleaseStack, type ReleaseStack } from '../src/release.ts';
import { startService } from '../src/service.ts';
import { startRefusingDescope } from './commands/refusingDescope.ts';
import { eventually } from './support/eventually.ts';
import { freePort } from './support/redisServer.ts';
import { RULES, runPromtool, startPrometheus, type Prometheus } from './support/prometheus.ts';
import {
  bodyOf,
  createScene,
  createWorld,
  HMAC_SECRET,
  realUserIds,
  type Scene,
  type World,
  type WorldOptions,
} from './support/world.ts';

/*
 * Each alert fires on its fault: the real service is scraped by a real Prometheus with our rules, of which
 * only the waiting times are shortened. `promtool` tests the thresholds and those times.
 */

const deploy = join(import.meta.dirname, '../deploy');
const rules = readFileSync(RULES, 'utf8');
const dashboard = JSON.parse(
  readFileSync(join(deploy, 'grafana/rollcall.json'), 'utf8'),
) as Dashboard;
const ALERTS = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name = '']) => name);

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly datasource?: { readonly uid: string };
  readonly gridPos: {
    readonly x: number;
    readonly y: number;
    readonly w: number;
    readonly h: number;
  };
  readonly targets?: readonly { readonly expr: string; readonly datasource: { uid: string } }[];
}

interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly type: string }[];
  };
}

const panels = dashboard.panels.filter(({ type }) => type !== 'row');
const expressions = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));

describe('the rules and the dashboard', () => {
  test('know no meter that we do not have', async () => {
    const known = new Set(['up', 'ALERTS']);
    for (const registry of [createMetrics().registry, processMetrics()]) {
      for (const { name } of await registry.getMetricsAsJSON()) known.add(name);
    }
    const text = [rules.replaceAll(/^ +#.*$/gm, ''), ...expressions].join('\n');
    const named = text.match(/\b(?:rollcall|process|nodejs)_\w+/g) ?? [];
    const unknown = named.filter(
      (name) => !known.has(name) && !known.has(name.replace(/_(bucket|sum|count)$/, '')),
    );
    expect(named.length).toBeGreaterThan(50);
    expect(unknown).toEqual([]);
  });

  test('every alert has a section of its own in the manual', () => {
    const manual = readFileSync(join(deploy, '../docs/operations.md'), 'utf8');
    const sections = [...manual.matchAll(/^### (\w+)$/gm)].map(([, name = '']) => name);
    expect(sections.filter((name) => ALERTS.includes(name)).sort()).toEqual([...ALERTS].sort());
    const links = [...rules.matchAll(/runbook_url: docs\/operations\.md#(\S+)/g)];
    expect(links.map(([, anchor]) => anchor)).toEqual(ALERTS.map((name) => name.toLowerCase()));
  });

  test('every panel asks the chosen source, and none lies on another', () => {
    expect(dashboard.templating.list.map(({ name, type }) => [name, type])).toEqual([
      ['datasource', 'datasource'],
      ['mirror', 'query'],
    ]);
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { datasource, targets = [], title } of panels) {
      expect(title).not.toBe('');
      expect(targets.length).toBeGreaterThan(0);
      for (const source of [datasource, ...targets.map((target) => target.datasource)]) {
        expect(source?.uid).toBe('${datasource}');
      }
    }
    const places = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, at) => `${x + (at % w)},${y + Math.floor(at / w)}`),
    );
    expect(new Set(places).size).toBe(places.length);
  });

  test('promtool finds no fault with them, and each fires when it should', async (context) => {
    const checked = await runPromtool(['check', 'rules', RULES]);
    if (checked === null) {
      context.skip('no promtool is installed (apt install prometheus)');
      return;
    }
    expect(checked).toMatchObject({ exitCode: 0 });
    expect(checked.output).toContain(`SUCCESS: ${ALERTS.length} rules found`);
    const tested = await runPromtool(['test', 'rules', join(deploy, 'prometheus/rules.test.yaml')]);
    expect(tested?.output).toContain('SUCCESS');
    expect(tested?.exitCode).toBe(0);
    const examples = await runPromtool([
      ...['check', 'config', '--syntax-only'],
      join(deploy, 'prometheus/prometheus.yaml'),
    ]);
    expect(examples).toMatchObject({ exitCode: 0 });
  });
});

const EACH_SECOND = '* * * * * *';
interface Arranged {
  readonly adminPort: number;
  /** Brings the fault about, or what is left of it. Prometheus has looked at the service before. */
  readonly cause: (prometheus: Prometheus) => Promise<void>;
}

/** Waits until all of these fire; every word of theirs must be readable. */
async function untilFiring(prometheus: Prometheus, names: readonly string[]): Promise<void> {
  await eventually(
    async () => {
      const firing = await prometheus.firing();
      expect(firing.map(({ name }) => name)).toEqual(expect.arrayContaining([...names]));
      const words = firing.flatMap(({ annotations }) => Object.values(annotations));
      expect(words.filter((text) => /<no value>|error|%!|NaN/.test(text))).toEqual([]);
    },
    { timeoutMs: 90_000, everyMs: 250 },
  );
}

const covered: string[] = [];

/** A test of its own for a fault and the alerts that it makes fire. */
function scenario(
  fault: string,
  alerts: readonly string[],
  arrange: (releases: ReleaseStack) => Promise<Arranged>,
): void {
  covered.push(...alerts);
  it.concurrent(
    `${fault}: ${alerts.join(', ')}`,
    async (context: TestContext) => {
      const releases = createReleaseStack();
      context.onTestFinished(() => releases.release());
      const { adminPort, cause } = await arrange(releases);
      const prometheus = await look(context, releases, adminPort);
      if (prometheus === null) return;
      await cause(prometheus);
      await untilFiring(prometheus, alerts);
    },
    180_000,
  );
}

/** A Prometheus that has looked at the service; null, and the test skipped, where none is installed. */
async function look(
  context: TestContext,
  releases: ReleaseStack,
  adminPort: number,
): Promise<Prometheus | null> {
  const prometheus = await startPrometheus(adminPort);
  if (prometheus === null) {
    context.skip('no prometheus is installed (apt install prometheus)');
    return null;
  }
  releases.push('prometheus', () => prometheus.stop());
  await eventually(
    async () => {
      expect(await prometheus.evaluations()).toBeGreaterThan(0);
    },
    { timeoutMs: 30_000 },
  );
  return prometheus;
}

async function begin(releases: ReleaseStack, options: WorldOptions): Promise<World> {
  const world = await createWorld({ ...options, simulator: { users: 60, ...options.simulator } });
  releases.push('world', () => world.stop());
  if (options.role !== 'web') await world.untilFilled();
  return world;
}

function change(scene: Scene, userId: string, name = 'Changed'): void {
  scene.simulator.directory.modifyUser(userId, { name });
}

describe('a mirror that is right', () => {
  it('makes no alert fire but one: that it was stopped', async (context) => {
    const releases = createReleaseStack();
    context.onTestFinished(() => releases.release());
    const world = await begin(releases, {
      env: {
        PULL_MODIFIED_CRON: EACH_SECOND,
        PULL_AUDIT_CRON: EACH_SECOND,
        VERIFY_CRON: EACH_SECOND,
      },
    });
    world.deliver();
    for (const userId of realUserIds(world).slice(0, 20)) change(world, userId);
    await world.simulator.delivery.idle();
    await world.untilEqual();

    const prometheus = await look(context, releases, world.service.adminPort);
    if (prometheus === null) return;
    await eventually(
      async () => {
        expect(await prometheus.evaluations()).toBeGreaterThan(7);
      },
      { timeoutMs: 60_000, everyMs: 250 },
    );
    expect(await prometheus.firing()).toEqual([]);
    for (const expression of expressions) {
      const asked = expression.replaceAll('$mirror', '.*').replaceAll('$__rate_interval', '1m');
      await expect(prometheus.query(asked)).resolves.toBeInstanceOf(Array);
    }
    const url = `http://127.0.0.1:${world.service.adminPort}/metrics`;
    const checked = await runPromtool(['check', 'metrics'], await (await fetch(url)).text());
    expect(checked).toEqual({ exitCode: 0, output: '' });

    await world.service.stop();
    await untilFiring(prometheus, ['ServiceDown']);
  }, 180_000);
  covered.push('ServiceDown');
});

describe('every alert fires on its fault', () => {
  scenario(
    'deliveries without a worker, without a signature and without a Postgres',
    ['DependencyDown', 'DeliveriesNotStored'],
    async (releases) => {
      const world = await begin(releases, { role: 'web', proxied: true });
      const deliver = async (from: number) => {
        for (let number = from; number < from + 6; number++) {
          const ids = Array.from({ length: 100 }, (_, at) => `U${number}of${at}`);
          const records = ids.map(
            (userId) => JSON.parse(bodyOf('UserModified', { userId })) as object[],
          );
          expect((await world.post(JSON.stringify(records.flat()))).status).toBe(202);
        }
      };
      return {
        adminPort: world.service.adminPort,
        async cause(prometheus) {
          await deliver(0);
          await eventually(async () => {
            expect(await prometheus.query('rollcall_events_pending')).toEqual([600]);
          });
          await deliver(6);
          for (let attempt = 0; attempt < 40; attempt++) {
            expect((await world.post('[]', { 'x-descope-webhook-s256': 'no' })).status).toBe(401);
          }
          await untilFiring(prometheus, ['PendingGrowing', 'WebhookRefused']);
          world.proxy.cut();
          expect((await world.post(bodyOf('UserModified', { userId: 'U1' }))).status).toBe(503);
        },
      };
    },
  );
  covered.push('PendingGrowing', 'WebhookRefused');

  scenario('500, and no status', ['DescopeFailing', 'StatusUnknown'], async (releases) => {
    const world = await begin(releases, { env: { PULL_MODIFIED_CRON: EACH_SECOND } });
    world.simulator.faults.random(1, ['status500'], () => 0);
    await world.query(sql`alter view descope.sync_status rename to out_of_sight`);
    return { adminPort: world.service.adminPort, cause: () => Promise.resolve() };
  });

  scenario(
    'the management key expires',
    ['DescopeKeyRefused', 'GapsOpen', 'JobsFailing'],
    async (releases) => {
      const world = await begin(releases, {
        env: { PULL_MODIFIED_CRON: EACH_SECOND, VERIFY_CRON: EACH_SECOND },
      });
      // Before anybody looks: what succeeded since then would be a success of the last hour.
      world.simulator.faults.random(1, ['status403'], () => 0);
      return { adminPort: world.service.adminPort, cause: () => Promise.resolve() };
    },
  );

  scenario('Descope says that nobody exists', ['SweepBlocked'], async (releases) => {
    const world = await begin(releases, { env: { SWEEP_CRON: EACH_SECOND } });
    return {
      adminPort: world.service.adminPort,
      cause: () => {
        world.simulator.faults.random(1, ['zeroTotal'], () => 0);
        return Promise.resolve();
      },
    };
  });

  scenario('a change that nothing told of', ['DriftFound'], async (releases) => {
    const world = await begin(releases, { env: { VERIFY_CRON: EACH_SECOND } });
    return {
      adminPort: world.service.adminPort,
      cause: () => {
        const [userId = ''] = realUserIds(world);
        const untold = { event: false, moveModifiedTime: false };
        world.simulator.directory.modifyUser(userId, { name: 'Unheard Of' }, untold);
        return Promise.resolve();
      },
    };
  });

  scenario('more deletions than the breaker allows', ['DeletionsHeld'], async (releases) => {
    const world = await begin(releases, { env: { BREAKER_MAX_COUNT: '5' } });
    world.deliver();
    return {
      adminPort: world.service.adminPort,
      cause: () => {
        world.simulator.directory.deleteMany(realUserIds(world).slice(0, 8));
        return Promise.resolve();
      },
    };
  });

  scenario('an event that Descope refuses again and again', ['EventsParked'], async (releases) => {
    const scene = await createScene({ simulator: { users: 20 } });
    releases.push('scene', () => scene.stop());
    const refusing = await startRefusingDescope(scene.simulator.url);
    releases.push('refusing Descope', () => refusing.stop());
    const service = await serve(scene, { DESCOPE_BASE_URL: refusing.url });
    releases.push('service', () => service.stop());
    await scene.untilFilled();
    return {
      adminPort: service.adminPort,
      async cause() {
        const [userId = ''] = realUserIds(scene);
        refusing.refused.add(userId);
        scene.simulator.delivery.configure(targetOf(service.publicPort));
        change(scene, userId);
        const { t } = scene.database.mirror;
        // As if it had been refused four times: the waits between them are longer than a test.
        await eventually(async () => {
          const tried = await scene.query(
            sql`update ${t.events} set attempts = 4, due_at = clock_timestamp()
                where state = 'pending' and attempts = 1 returning 1`,
          );
          expect(tried).toHaveLength(1);
        });
      },
    };
  });

  scenario(
    'a consumer that has not read for weeks, and a receiver that is away',
    ['FeedConsumerBehind', 'DeliveriesLate', 'DeliveriesStopped'],
    async (releases) => {
      const world = await begin(releases, {
        env: {
          OUTGOING_URLS: `http://127.0.0.1:${await freePort()}/hook`,
          OUTGOING_SECRETS: `whsec_${Buffer.alloc(24, 1).toString('base64')}`,
        },
      });
      const { mirror } = world.database;
      const { outgoingDeliveries, userChanges } = mirror.t;
      return {
        adminPort: world.service.adminPort,
        async cause() {
          await world.query(sql`select descope.confirm_changes('search index', '0-0')`);
          await pruneFeed(mirror, { days: 30, steps: 1 }, new AbortController().signal);
          await world.query(sql`update ${userChanges} set written_at = now() - interval '25 days'`);
          world.deliver();
          for (const userId of realUserIds(world).slice(0, 2)) change(world, userId);
          // As if one had been refused for a day, and the other for an hour.
          await eventually(async () => {
            const failing = await world.query<{ id: string }>(
              sql`select min(delivery_id)::text as id from ${outgoingDeliveries}
                  where state = 'waiting' and error is not null group by user_id`,
            );
            expect(failing.length).toBeGreaterThan(1);
            await world.query(
              sql`update ${outgoingDeliveries} set attempts = 13, due_at = clock_timestamp()
                  where delivery_id = ${failing[0]?.id ?? ''}::bigint`,
            );
          });
          const ago = sql`written_at - interval '1 hour'`;
          await world.query(sql`update ${outgoingDeliveries} set written_at = ${ago}`);
        },
      };
    },
  );

  scenario(
    'a connector that was switched off',
    ['WebhookLoss', 'WebhookSilent'],
    async (releases) => {
      const world = await begin(releases, {
        env: { PULL_AUDIT_CRON: EACH_SECOND, PULL_SETTLE_SECONDS: '0' },
      });
      return {
        adminPort: world.service.adminPort,
        async cause() {
          const userIds = realUserIds(world).slice(0, 10);
          for (const userId of userIds) change(world, userId);
          const { t } = world.database.mirror;
          await eventually(async () => {
            // As if half a minute had passed: until then a webhook may still be on its way.
            await world.query(
              sql`update ${t.events} set audit_at = audit_at - interval '1 minute'
                  where audit_at > clock_timestamp() - interval '30 seconds'`,
            );
            const told = await world.query(
              sql`select 1 from ${t.events} where audit_at < clock_timestamp() - interval '30 seconds'`,
            );
            expect(told).toHaveLength(userIds.length);
          });
        },
      };
    },
  );

  scenario(
    'nothing is pulled any more, for two days',
    ['MirrorBehind', 'ProofTooOld'],
    async (releases) => {
      const world = await begin(releases, {});
      return {
        adminPort: world.service.adminPort,
        async cause() {
          const { t } = world.database.mirror;
          const ago = sql`interval '2 days'`;
          await world.query(sql`update ${t.watermarks} set complete_to = complete_to - ${ago}`);
          await world.query(sql`update ${t.syncRuns} set finished_at = finished_at - ${ago}`);
        },
      };
    },
  );

  scenario('a limit that others use up', ['BudgetThrottled'], async (releases) => {
    const world = await begin(releases, { env: { PULL_MODIFIED_CRON: EACH_SECOND } });
    return {
      adminPort: world.service.adminPort,
      cause: () => {
        Object.assign(world.simulator.behaviour, { penaltyMs: 500 });
        world.simulator.behaviour.limits.users = 1;
        return Promise.resolve();
      },
    };
  });

  scenario('a budget that is too small', ['EventsWaitForBudget'], async (releases) => {
    const scene = await createScene({ simulator: { users: 20 } });
    releases.push('scene', () => scene.stop());
    const filling = await serve(scene, {});
    releases.push('filling service', () => filling.stop());
    await scene.untilFilled();
    await filling.stop();
    const { t } = scene.database.mirror;
    // As if the first fill were a minute ago.
    await scene.query(sql`update ${t.budgets} set recent = '{}', next_at = clock_timestamp()`);
    const service = await serve(scene, { API_BUDGET_PER_MINUTE: '2' });
    releases.push('service', () => service.stop());
    return {
      adminPort: service.adminPort,
      async cause(prometheus) {
        scene.simulator.delivery.configure(targetOf(service.publicPort));
        const [one = '', two = ''] = realUserIds(scene);
        change(scene, one);
        await eventually(async () => {
          const granted = 'rollcall_budget_wait_seconds_count{priority="event"} > 0';
          expect(await prometheus.query(granted)).toHaveLength(1);
        });
        change(scene, two);
      },
    };
  });

  test('of which none was left out', () => {
    expect([...covered].sort()).toEqual([...ALERTS].sort());
  });
});

const targetOf = (publicPort: number) => {
  const url = `http://127.0.0.1:${publicPort}/webhooks/descope`;
  return { url, hmacSecret: HMAC_SECRET };
};

function serve(scene: Scene, env: Readonly<Record<string, string>>) {
  return startService({
    config: parseConfig({ ...scene.env, ...env }),
    log: createLogger({ level: 'silent' }),
    databaseUrl: scene.database.url,
    role: 'all',
  });
}
